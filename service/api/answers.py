"""What native routes answer: frozen dataclasses that orjson writes and from which FastAPI documents the schema.

Field names are the contract of the API. Fields that say nothing in the common case are left out of the JSON where their type is
`| None` and their name is in `OMITTED_IF_NONE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from starlette.responses import Response

Personalization = Literal["applied", "prior", "unavailable"]


@dataclass(frozen=True, slots=True)
class UserSeen:
    """Whose answer this is, and from how many comparisons it was made."""

    id: str
    comparisons: int


@dataclass(frozen=True, slots=True)
class Contribution:
    """One head's part of a score: `contribution = weight * reward`; `examples` are texts that show what the head stands for."""

    head: str
    weight: float
    reward: float
    contribution: float
    examples: list[str] | None = None


@dataclass(frozen=True, slots=True)
class ScoreOfOne:
    """One response as this user would see it; `std` is the user's posterior uncertainty; rank 1 is best."""

    index: int
    score: float
    std: float
    rank: int
    explanation: list[Contribution] | None = None


@dataclass(frozen=True, slots=True)
class ScoreUsage:
    """Tokens through the scorer, and those of the prompt's beginning that the template had no room for."""

    tokens: int
    dropped_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """Answer of `POST /score`; contributions of a response sum to its score."""

    id: str
    bundle: str
    family: str
    personalization: Personalization
    user: UserSeen
    scores: list[ScoreOfOne]
    weights: dict[str, float]
    usage: ScoreUsage


@dataclass(frozen=True, slots=True)
class Expected:
    """A member's value for this user and prompt: mean and spread over the posterior."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Fallback:
    """A drawn member that did not serve, who did, and why."""

    wanted: str
    served: str
    reason: str


@dataclass(frozen=True, slots=True)
class CertificateAnswer:
    """What is proved of the portfolio for this user, with `confidence`: the best member gives at least `ratio` of the best possible reward.

    `lower` and `upper` are that member's reward at least and any policy's at most, in the certificate's normalised rewards.
    """

    ratio: float
    lower: float
    upper: float
    family: str
    confidence: float


@dataclass(frozen=True, slots=True)
class RoutingAnswer:
    """How the member was chosen. `propensity` is null where it was forced, or where another member served in its place.

    `expected` is each member's value less its `costs`, where the deployment weighs them. `last` is the member that served before, where
    hysteresis was asked about it.
    """

    policy: Literal["sample", "best", "uniform", "forced"]
    member: str
    members: list[str]
    propensity: float | None
    joint_propensity: float | None
    propensities: dict[str, float]
    expected: dict[str, Expected]
    fallback: Fallback | None
    certificate: CertificateAnswer | None
    costs: dict[str, float] | None = None
    last: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationUsage:
    """Tokens read and written by the member, and those of the answer's end that the scorer had no room for."""

    prompt_tokens: int
    completion_tokens: int
    unscored_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class CandidateAnswer:
    """One generated answer; `candidate_id` is null if the decision could not be kept, and then feedback goes by texts."""

    candidate_id: str | None
    index: int
    member: str
    text: str
    score: float
    std: float
    rank: int
    finish_reason: Literal["stop", "length"]
    usage: GenerationUsage


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """Answer of `POST /route`, and the first event of a stream; `decision_id` is null if the store is away."""

    decision_id: str | None
    bundle: str
    family: str
    personalization: Personalization
    user: UserSeen
    routing: RoutingAnswer


@dataclass(frozen=True, slots=True)
class GenerateAnswer:
    """Answer of `POST /generate`, and the last event of a stream."""

    decision_id: str | None
    bundle: str
    family: str
    personalization: Personalization
    user: UserSeen
    candidates: list[CandidateAnswer]
    routing: RoutingAnswer


@dataclass(frozen=True, slots=True)
class FeedbackAnswer:
    """Answer of `POST /feedback`; `agreement` tells who predicted the choice, and is empty for ties and where candidates expired."""

    event_id: str
    result: Literal["applied", "duplicate"]
    user: UserSeen
    agreement: dict[str, bool]
    weights: dict[str, float]


@dataclass(frozen=True, slots=True)
class DecisionCandidate:
    """One candidate of a decision; `text` is null where the deployment keeps no texts."""

    candidate_id: str
    index: int
    member: str
    text: str | None
    score: float
    std: float
    finish_reason: str
    usage: GenerationUsage


@dataclass(frozen=True, slots=True)
class DecisionAnswer:
    """Answer of `GET /decisions/{id}`; `user_tag` is the user's pseudonym, `seed` draws the same members again."""

    decision_id: str
    user_tag: str
    made_at: str
    bundle: str
    basis: str
    family: str
    personalization: Personalization
    comparisons: int
    prompt: str | None
    context: str | None
    seed: str
    epsilon: float
    samples: int
    routing: RoutingAnswer
    candidates: list[DecisionCandidate]


@dataclass(frozen=True, slots=True)
class Problem:
    """RFC 9457 problem document; `errors` names each field of an `invalid-request`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    errors: list[dict[str, str]] | None = None


OMITTED_IF_NONE = frozenset({"explanation", "examples", "dropped_prompt_tokens", "unscored_tokens", "mean", "std", "costs", "last"})


def to_json(answer: object) -> bytes:
    """Returns an answer as JSON; floats are written so that they read back as the same doubles."""
    return orjson.dumps(answer, default=fields_of, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def json_response(answer: object, status: int = 200) -> Response:
    """Returns an answer as a response."""
    return Response(to_json(answer), status, media_type="application/json")


def fields_of(value: Any) -> Mapping[str, Any]:
    """Returns the fields of an answer as they are written, without those that are left out."""
    fields = ((name, getattr(value, name)) for name in value.__dataclass_fields__)
    return {name: field for name, field in fields if field is not None or name not in OMITTED_IF_NONE}


Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """Returns the error responses of a route for its documentation: those that every route has, and these."""
    every = (401, 405, 422, 429, 500, 503, 504)
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _TITLES[status], "content": content} for status in sorted({*every, *statuses})}


def also(media_type: str, description: str) -> Responses:
    """Returns the documentation of an answer that is not JSON."""
    return {200: {"content": {media_type: {"schema": {"type": "string"}}}, "description": description}}


_TITLES = {
    401: "Unauthenticated",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    410: "Expired",
    413: "Too large",
    422: "Invalid request",
    429: "Overloaded or rate limited",
    500: "Internal error",
    502: "Member failed",
    503: "Unavailable",
    504: "Deadline exceeded",
}
