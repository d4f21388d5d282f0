"""What the routes about users answer: state, deletion, taking back, replay; written like every answer (`answers`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attune.service.api.answers import CertificateAnswer, Expected, UserSeen


@dataclass(frozen=True, slots=True)
class UserState:
    """Times are RFC 3339, null for a user who was never seen."""

    id: str
    comparisons: int
    first_seen: str | None
    last_seen: str | None


@dataclass(frozen=True, slots=True)
class FamilyState:
    """A user under one family; `mean` and `std` of the Gaussian where the family has one."""

    weights: dict[str, float]
    mean: list[float] | None = None
    std: list[float] | None = None


@dataclass(frozen=True, slots=True)
class UserPortfolio:
    """The member that is best for this user on an average prompt, each member's expected value, and what is proved for this user."""

    member: str
    expected: dict[str, Expected]
    certificate: CertificateAnswer | None


@dataclass(frozen=True, slots=True)
class UserAnswer:
    """Answer of `GET /users/{user}`."""

    user: UserState
    bundle: str
    basis: str
    families: dict[str, FamilyState]
    portfolio: UserPortfolio


@dataclass(frozen=True, slots=True)
class DeletedCounts:
    """What a deletion removed."""

    keys: int
    comparisons: int
    decisions: int


@dataclass(frozen=True, slots=True)
class DeletedAnswer:
    """Receipt of `DELETE /users/{user}`."""

    deleted: DeletedCounts


@dataclass(frozen=True, slots=True)
class ReplayAnswer:
    """Answer of `POST /admin/replay`: what this call did; unless `done`, the same request with `cursor` goes on.

    `without_texts` are comparisons whose texts were not kept; `unusable` those that the scorer of this bundle fails on.
    """

    basis: str
    done: bool
    cursor: str | None
    users: int
    replayed: int
    without_texts: int
    unusable: int


@dataclass(frozen=True, slots=True)
class TakenBackAnswer:
    """Answer of `DELETE /users/{user}/comparisons/{event_id}`."""

    event_id: str
    result: Literal["taken-back"]
    user: UserSeen
    weights: dict[str, float]
