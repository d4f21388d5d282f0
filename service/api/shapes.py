"""Shapes of answers that routes put together from what a bundle, a member or another API's client calls for.

They are what the OpenAPI document says of those answers; nothing is made with them. That the answers are so is tested against the
document, over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from attune.service.api.route import Expected


@dataclass(frozen=True, slots=True)
class AliveAnswer:
    """Answer of `GET /livez`.

    Attributes:
        status: always `alive`; a process whose scorer is dead answers 503
    """

    status: Literal["alive"]


@dataclass(frozen=True, slots=True)
class ScorerHealth:
    """The scorer, as the last canary found it.

    Attributes:
        provider: of ONNX Runtime, or the other engine that scores
        state: `ok`, or what is wrong
        canary_ms: how long a short text took, in milliseconds; null before the first
        age_s: seconds since then; null before the first
    """

    provider: str
    state: str
    canary_ms: float | None
    age_s: float | None


@dataclass(frozen=True, slots=True)
class ReadyAnswer:
    """Answer of `GET /readyz`: the last verdicts; what is not ready answers 503 with the same fields in its problem document.

    Attributes:
        status: always `ready`
        phase: `starting`, `ready` or `stopping`
        bundle: the bundle that serves
        scorer: the scorer's verdict
        members: `ok`, or what is wrong, for each member
        members_age_s: seconds since the oldest verdict about a member; null where none was asked yet
        store: `ok`, or what is wrong
        store_age_s: seconds since then; null where it was not tried yet
        store_doubts: why a store by URL may lose what it acknowledged, as far as it tells; it serves all the same
    """

    status: Literal["ready"]
    phase: str
    bundle: str
    scorer: ScorerHealth
    members: dict[str, str]
    members_age_s: float | None
    store: str
    store_age_s: float | None
    store_doubts: list[str]


@dataclass(frozen=True, slots=True)
class VersionAnswer:
    """Answer of `GET /version`.

    Attributes:
        attune: version of this service
        python: version of its interpreter
        bundle: the bundle that serves; null while starting
        basis: of that bundle; null while starting
    """

    attune: str
    python: str
    bundle: str | None
    basis: str | None


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """Answer of `GET /errors/{code}`.

    Attributes:
        code: as asked for
        status: HTTP status of this error on native routes
        title: as in problem documents
        meaning: what happened, and who has to change something
    """

    code: str
    status: int
    title: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ServedFamily:
    """One reward family of a bundle.

    Attributes:
        heads: names of its heads, in the order of every list of numbers about them
        evidence: how many numbers a user's sum has under it; 0 where users are not told apart
    """

    heads: list[str]
    evidence: int


@dataclass(frozen=True, slots=True)
class BundleAnswer:
    """Answer of `GET /bundle`.

    Attributes:
        bundle: id of the bundle
        basis: under which users' sums are kept; bundles of one basis share users
        family: the family that serves where a request names none
        families: every family that requests may name
        cards: for family and head, the answers that it rates highest and lowest (`prompt`, `response`, `reward`); empty where it has none
        provider: what runs the scorer
        batch_budget_tokens: tokens of one batch, as calibrated on this machine
        template: ids of the tokens around prompt and response, and the room for each
        manifest: the bundle's manifest, with the digest of every file
    """

    bundle: str
    basis: str
    family: str
    families: dict[str, ServedFamily]
    cards: dict[str, Any]
    provider: str
    batch_budget_tokens: int
    template: dict[str, Any]
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MemberEvidence:
    """How many scored answers of a member were counted.

    Attributes:
        answers: all that count now
        this_month: since this calendar month began
        month_before: in the calendar month before
        latest: the latest 100 to 200, against which drift is measured
    """

    answers: float
    this_month: float
    month_before: float
    latest: float


@dataclass(frozen=True, slots=True)
class MemberDrift:
    """How far a member's latest answers are from those before.

    Attributes:
        standard_errors: the largest difference under a head of the serving family, in standard errors
        head: where that is
    """

    standard_errors: float
    head: str


@dataclass(frozen=True, slots=True)
class MemberShown:
    """One member and what it is worth.

    Attributes:
        name: as in the roster
        description: what it is, for people
        weights: the preference that it was aligned to; empty for a model that was not aligned
        cost: from the roster's price and latency, 0 for the cheapest and 1 for the dearest
        measured: false for a member that the bundle knows nothing of and that serves from a prior
        values: for each family, the mean reward of its answers under each head as the bundle measured it, in logits
        intervals: half the width of the interval around each of them
        worth: for each family and head, what routing draws from: mean and standard deviation after all evidence
        evidence: how many answers were scored here
        share: of the answers scored this month, from 0 to 1
        drift: null where too few answers were scored to say
        effect: what everybody likes of it beyond its texts, in logits of a choice; null where the bundle learns nothing of it
    """

    name: str
    description: str
    weights: dict[str, float]
    cost: float
    measured: bool
    values: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, float]]
    worth: dict[str, dict[str, Expected]]
    evidence: MemberEvidence
    share: float
    drift: MemberDrift | None
    effect: Expected | None


@dataclass(frozen=True, slots=True)
class PortfolioAnswer:
    """Answer of `GET /portfolio`.

    Attributes:
        bundle: the bundle that serves
        members: in the order of every list of numbers about them
        certificate: what is proved of the portfolio: family, rewards, confidence, worst ratio and gap; null where nothing is
    """

    bundle: str
    members: list[MemberShown]
    certificate: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ReloadAnswer:
    """Answer of `POST /admin/reload`.

    Attributes:
        bundle: what serves now
        basis: of that bundle
        before: what served until then
        users_kept: true where the basis is the same, so that everybody keeps what was learned; else `/admin/replay` learns it anew
    """

    bundle: str
    basis: str
    before: str
    users_kept: bool


@dataclass(frozen=True, slots=True)
class MeasurementsAnswer:
    """Answer of `POST /admin/members`.

    Attributes:
        basis: the basis that serves
        event_id: of the request
        members: for each member, `applied`, or `duplicate` where this event had been counted
    """

    basis: str
    event_id: str
    members: dict[str, Literal["applied", "duplicate"]]


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """A model as OpenAI describes one.

    Attributes:
        id: `auto`, or the name of a member
        object: always `model`
        created: always 0: members have no date
        owned_by: always `attune`
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


@dataclass(frozen=True, slots=True)
class ModelsAnswer:
    """Answer of `GET /v1/models`.

    Attributes:
        object: always `list`
        data: `auto` and every member
    """

    object: Literal["list"]
    data: list[ModelAnswer]
