"""A user as a request sees them: what is known of them, from the store, at this moment; and deleting them.

Redis away is not an error for those who read: scoring and routing go on from the prior, say so, and count it. Learning decides otherwise
for itself. A user's key is an HMAC, computed once a request and carried by `Person`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attune.service.errors import FieldError, StoreUnavailable, invalid
from attune.service.live.runtime import Call
from attune.service.state.store import Deleted, Merged, UserKey, UserSum, user_tag

Array = NDArray[np.float64]
Personalization = Literal["applied", "prior", "unavailable"]

SPREAD_SAMPLES = 256
"""Draws behind a weight's spread: its relative standard error is 1 / sqrt(2 * 256), about 0.04, which a picture does not show."""


@dataclass(frozen=True, slots=True)
class Person:
    """A user with their evidence `[E]` as it is worth now; zeros for somebody of whom nothing is known.

    Attributes:
        id: as the caller named them; empty for nobody.
        key: under which they are kept; None for nobody, of whom nothing is kept.
        personalization: whether the evidence is theirs, or the prior because nothing is known or because the store is away.
        era: what the store said when it was read, for the writes of the same request: a deletion in between refuses them.
    """

    id: str
    key: UserKey | None
    comparisons: int
    evidence: Array
    personalization: Personalization
    first_seen_s: float | None = None
    last_seen_s: float | None = None
    last_member: str | None = None
    era: bytes | None = None


@dataclass(frozen=True, slots=True)
class UnderFamily:
    """A person under one family: weights by head; where it has a Gaussian, its `mean` and `std`, and the spread of each weight."""

    weights: dict[str, float]
    mean: list[float] | None = None
    std: list[float] | None = None
    weights_std: dict[str, float] | None = None


def key_of(call: Call, user: str) -> UserKey:
    """Returns the key of a user of the caller's tenant."""
    return UserKey(call.caller.tenant, user_tag(call.runtime.user_secret, call.caller.tenant, user))


def person(call: Call, user: str, key: UserKey, total: UserSum | None) -> Person:
    """Returns the user that a stored sum describes, with forgetting applied up to now."""
    families = call.serving.bundle.families
    if total is None or not total.count:
        return Person(user, key, 0, families.prior(), "prior")
    evidence = call.runtime.decay.read(total.evidence, total.epoch, call.runtime.clock())
    return Person(user, key, total.count, evidence[: families.evidence_size], "applied", total.first_seen_s, total.last_seen_s)


async def read_person(call: Call, user: str | None, *, with_last: bool = False) -> Person:
    """Returns the user as stored; the prior if there is no user, nothing is stored, or the store is away.

    Args:
        call: the request.
        user: None for a caller who names no user.
        with_last: whether to read the member that served last too, in the same round trip.
    """
    if user is None:
        found = Person("", None, 0, call.serving.bundle.families.prior(), "prior")
    else:
        key = key_of(call, user)
        try:
            with call.timings.measure("redis"):
                seen = await call.runtime.store.read(key, call.kept_under, last=with_last)
            found = replace(person(call, user, key, seen.sum), last_member=seen.last, era=seen.era)
        except StoreUnavailable:
            found = Person(user, key, 0, call.serving.bundle.families.prior(), "unavailable")
    call.runtime.metrics.personalized(found.personalization)
    return found


async def look_up(call: Call, user: str) -> Person:
    """Returns the user as stored, for those who ask about the user.

    Raises:
        StoreUnavailable: the store is away; the prior would be no answer.
    """
    key = key_of(call, user)
    with call.timings.measure("redis"):
        return person(call, user, key, (await call.runtime.store.read(key, call.kept_under)).sum)


async def delete_person(call: Call, user: str) -> Deleted:
    """Returns what was removed: everything that is kept of the user; it runs to its end even if the caller leaves."""
    key = key_of(call, user)

    async def delete_and_forget() -> Deleted:
        deleted = await call.runtime.store.delete_user(key)
        call.serving.recent.forget(key)
        return deleted

    with call.timings.measure("redis"):
        return await call.runtime.finish(delete_and_forget())


async def merge_people(call: Call, source: str, target: str, event_id: str | None) -> tuple[Merged, Person]:
    """Returns what was moved, and the person that both are from now on; it runs to its end even if the caller leaves.

    Args:
        call: the request.
        source: who is not to be any more.
        target: who they are.
        event_id: of the merge; None is one for these two, so that a repeat is a repeat.

    Raises:
        InvalidRequest: they are the same user.
        EventConflict: `source` is being merged under another event id or into another user, and that merge is not finished.
        UserDeleted: `target` was deleted while this was under way.
        StoreUnavailable: it may be made in part; sending it again goes on with the rest.
    """
    one, other = key_of(call, source), key_of(call, target)
    if one == other:
        raise invalid([FieldError("into", "is the same user; a merge needs two")])

    async def merge_and_forget() -> Merged:
        merged = await call.runtime.store.merge_users(one, other, event_id or f"merge:{one.tag}")
        call.serving.recent.forget(one)
        return merged

    with call.timings.measure("redis"):
        merged = await call.runtime.finish(merge_and_forget())
    return merged, await look_up(call, target)


def under_families(call: Call, found: Person) -> dict[str, UnderFamily]:
    """Returns the person under every family of the bundle, by its name."""
    families = call.serving.bundle.families
    under = {}
    for name in families.names:
        posterior = families[name].posterior(families.part(name, found.evidence))
        weights = weights_under(call, name, found)
        if posterior is None:
            under[name] = UnderFamily(weights)
        else:
            under[name] = UnderFamily(weights, posterior[0].tolist(), posterior[1].tolist(), _weights_std(call, name, found))
    return under


def _weights_std(call: Call, name: str, found: Person) -> dict[str, float]:
    """Returns the standard deviation of each weight under the posterior, by head, from draws that are the same at every call."""
    families = call.serving.bundle.families
    drawn = families.sample_weights(name, found.evidence, None, np.random.default_rng(0), SPREAD_SAMPLES)
    return dict(zip(families[name].heads, drawn.std(axis=0).tolist(), strict=True))


def weights_under(call: Call, name: str, found: Person) -> dict[str, float]:
    """Returns the person's weights under one family on an average prompt, by the name of the head."""
    families = call.serving.bundle.families
    weights = families.weights(name, found.evidence, None)
    return dict(zip(families[name].heads, weights.tolist(), strict=True))
