"""A user as a request sees them: what is known of them, from the store, at this moment.

Redis away is not an error here: scoring and routing go on from the prior, say so, and count it. Feedback decides otherwise for itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.families import Families
from attune.models.seam.family import Row
from attune.service.api.answers import Personalization, UserSeen
from attune.service.errors import StoreUnavailable
from attune.service.live.runtime import Call
from attune.service.state.store import UserKey, UserSum, user_tag

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Person:
    """A user with their evidence `[E]` as it is worth now; zeros for somebody of whom nothing is known."""

    id: str
    comparisons: int
    evidence: Array
    personalization: Personalization
    first_seen_s: float | None = None
    last_seen_s: float | None = None
    last_member: str | None = None

    @property
    def seen(self) -> UserSeen:
        return UserSeen(self.id, self.comparisons)


def key_of(call: Call, user: str) -> UserKey:
    """Returns the key of a user of the caller's tenant."""
    return UserKey(call.caller.tenant, user_tag(call.runtime.user_secret, call.caller.tenant, user))


def person(call: Call, user: str, total: UserSum | None) -> Person:
    """Returns the user that a stored sum describes, with forgetting applied up to now."""
    families = call.serving.bundle.families
    if total is None or not total.count:
        return Person(user, 0, families.prior(), "prior")
    evidence = call.runtime.decay.read(total.evidence, total.epoch, call.runtime.clock())
    return Person(user, total.count, evidence[: families.evidence_size], "applied", total.first_seen_s, total.last_seen_s)


async def read_person(call: Call, user: str | None, *, with_last: bool = False) -> Person:
    """Returns the user as stored; the prior if there is no user, nothing is stored, or the store is away.

    Args:
        call: the request.
        user: None for a caller who names no user.
        with_last: whether to read the member that served last too, in the same round trip.
    """
    families = call.serving.bundle.families
    if user is None:
        found = Person("", 0, families.prior(), "prior")
    else:
        try:
            with call.timings.measure("redis"):
                if with_last:
                    total, last = await call.runtime.store.read_for_routing(key_of(call, user), call.kept_under)
                else:
                    total, last = await call.runtime.store.read_user(key_of(call, user), call.kept_under), None
            found = replace(person(call, user, total), last_member=last)
        except StoreUnavailable:
            found = Person(user, 0, families.prior(), "unavailable")
    call.runtime.metrics.personalized(found.personalization)
    return found


def weights_by_head(families: Families, name: str, evidence: Array, prompt: Row | None = None) -> dict[str, float]:
    """Returns the user's weights under one family, by the name of the head."""
    family = families[name]
    weights = family.weights(families.part(name, evidence), prompt)
    return dict(zip(family.heads, weights.tolist(), strict=True))


def rfc3339(seconds: float | None) -> str | None:
    """Returns a time as RFC 3339 in UTC with milliseconds; None stays None, as does what no calendar holds."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return None
