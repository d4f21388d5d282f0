"""What a server answers, typed. Fields that a newer server adds are kept as extra attributes, and never an error."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Personalization = Literal["applied", "prior", "unavailable"]


class Answer(BaseModel):
    """Base of everything that is answered."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Seen(Answer):
    """The user as the server saw them when it answered."""

    id: str
    comparisons: int


class Score(Answer):
    """One response for one user; `std` is the uncertainty of what is known about the user."""

    index: int
    score: float
    std: float
    rank: int
    explanation: list[dict[str, Any]] | None = None


class Scored(Answer):
    """The answer of `/score`."""

    id: str
    bundle: str
    family: str
    personalization: Personalization
    user: Seen
    scores: list[Score]
    weights: dict[str, float]

    @property
    def best(self) -> Score:
        """The response with rank 1."""
        return min(self.scores, key=lambda score: score.rank)


class Expected(Answer):
    """What a member's answer is expected to be worth to the user."""

    mean: float
    std: float


class Routing(Answer):
    """Who answers, and the probability of every member; `propensity` is None where no draw decided."""

    policy: str
    member: str
    propensity: float | None = None
    propensities: dict[str, float] = Field(default_factory=dict)
    expected: dict[str, Expected] = Field(default_factory=dict)
    fallback: dict[str, Any] | None = None


class Routed(Answer):
    """The answer of `/route`; `decision_id` is None if nothing was kept."""

    decision_id: str | None = None
    bundle: str
    personalization: Personalization
    user: Seen
    routing: Routing


class Candidate(Answer):
    """One answer of a member; `candidate_id` is None if nothing was kept, and then it cannot be learned from by id."""

    candidate_id: str | None = None
    index: int
    member: str
    text: str
    score: float | None = None
    std: float | None = None
    finish_reason: str | None = None


class Generated(Routed):
    """The answer of `/generate`."""

    candidates: list[Candidate]

    @property
    def text(self) -> str:
        """The first candidate's text."""
        return self.candidates[0].text


class Started(Answer):
    """First event of a stream: the decision."""

    decision: Routed


class Token(Answer):
    """The next characters of one candidate."""

    index: int
    member: str
    text: str


class Done(Answer):
    """Last event of a stream: the whole answer."""

    answer: Generated


class Feedback(Answer):
    """What a piece of feedback changed; `duplicate` if its event had been applied before. Of texts, tokens may be cut off or unknown."""

    event_id: str
    result: Literal["applied", "duplicate"]
    user: Seen
    agreement: dict[str, bool] = Field(default_factory=dict)
    weights: dict[str, float] = Field(default_factory=dict)
    truncated_tokens: int | None = None
    unknown_tokens: int | None = None


class TakenBack(Answer):
    """The user after a piece of feedback was taken back; its event id stays used."""

    event_id: str
    user: Seen
    weights: dict[str, float] = Field(default_factory=dict)


class User(Answer):
    """What is known of a user; `family` is the one that serves."""

    user: dict[str, Any]
    bundle: str = ""
    basis: str = ""
    family: str = ""
    families: dict[str, Any] = Field(default_factory=dict)
    portfolio: dict[str, Any] | None = None

    @field_validator("user")
    @classmethod
    def _is_named_and_counted(cls, user: dict[str, Any]) -> dict[str, Any]:
        """Refuses what other servers have under such a path."""
        if not isinstance(user.get("id"), str) or not isinstance(user.get("comparisons"), int):
            raise ValueError("a user has an id and a number of comparisons")  # noqa: TRY004  pydantic makes an error of a ValueError
        return user

    @property
    def comparisons(self) -> int:
        """How many comparisons were learned."""
        return int(self.user["comparisons"])


class Deleted(Answer):
    """The receipt of a deletion: how many keys, comparisons and decisions are gone.

    Where `deleted_before` is true, the user had been deleted a short time before, perhaps by this very request, sent again because its
    first answer was lost: the counts are of what came in between. A user who was never seen has zeros and no earlier deletion.
    """

    deleted: dict[str, int]
    deleted_before: bool = False


class Member(Answer):
    """One member of the portfolio."""

    name: str


class Portfolio(Answer):
    """The members and what is known of them."""

    members: list[Member]
    certificate: dict[str, Any] | None = None
