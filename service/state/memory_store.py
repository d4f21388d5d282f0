"""The store without Redis: the same promises, in this process, until it ends.

It ships beside the real one and passes the same tests, so that a test of any other layer may use it; it is not for production, where a
restart must lose nothing. Nothing here awaits anything that can be slow, and the clock is an argument.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from attune.models.seam.evidence import align
from attune.service.errors import EventConflict, ExpiredCandidate, StoreUnavailable, UnknownDecision, UnknownEvent
from attune.service.state.keys import UserKey, checked_name, is_name
from attune.service.state.records import (
    Comparison,
    Exported,
    KnownEvent,
    LastMember,
    LoggedComparison,
    ReplayedEvidence,
    StoredDecision,
    StoredSum,
    TakenBack,
    UserSum,
    Vector,
    is_event_id,
)
from attune.service.state.store import Added, DecisionPlace, Deleted, Limits, Replayed, UsersPage

_USERS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class _Decision:
    record: bytes
    record_ends_s: float
    pointer_ends_s: float


@dataclass(slots=True)
class _User:
    sums: dict[str, UserSum] = field(default_factory=dict)
    sum_ends_s: dict[str, float] = field(default_factory=dict)
    replayed: dict[str, dict[str, ReplayedEvidence]] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    log: dict[str, LoggedComparison | TakenBack] = field(default_factory=dict)
    log_ends_s: float = math.inf
    last: tuple[str, float] | None = None
    decisions: dict[str, _Decision] = field(default_factory=dict)


class MemoryStore:
    """Keeps users in dictionaries; see `Store` for what each operation promises.

    Args:
        limits: bounds per user.
        clock: Unix seconds; times to live run on it.

    Attributes:
        available: set it to False, and every operation raises StoreUnavailable until it is True again.
    """

    def __init__(self, *, limits: Limits = Limits(), clock: Callable[[], float] = time.time) -> None:  # noqa: B008 - frozen
        self._limits = limits
        self._clock = clock
        self._users: dict[UserKey, _User] = {}
        self._owners: dict[tuple[str, str], UserKey] = {}
        self._closed = False
        self.available = True

    async def read_user(self, key: UserKey, basis: str) -> UserSum | None:
        self._check()
        return self._current(key).sums.get(checked_name("basis", basis))

    async def read_for_feedback(self, key: UserKey, basis: str, decision_ids: Sequence[str]) -> tuple[UserSum | None, Mapping[str, bytes]]:
        self._check()
        user, now_s = self._current(key), self._clock()
        live = {decision_id: user.decisions[decision_id] for decision_id in decision_ids if decision_id in user.decisions}
        records = {decision_id: decision.record for decision_id, decision in live.items() if now_s < decision.record_ends_s}
        return user.sums.get(checked_name("basis", basis)), records

    async def read_for_routing(self, key: UserKey, basis: str) -> tuple[UserSum | None, str | None]:
        self._check()
        user = self._current(key)
        return user.sums.get(checked_name("basis", basis)), user.last[0] if user.last else None

    async def write_decision(self, key: UserKey, decision_id: str, record: bytes, ttl_s: float, served: str | None = None) -> None:
        self._limits.check_decision(record, ttl_s)
        checked_name("decision id", decision_id)
        self._check()
        user, now_s = self._current(key), self._clock()
        user.decisions.pop(decision_id, None)
        user.decisions[decision_id] = _Decision(record, now_s + ttl_s, now_s + 2 * ttl_s)
        self._owners[key.tenant, decision_id] = key
        if served is not None:
            user.last = served, now_s + 2 * ttl_s
        by_end = sorted(user.decisions, key=lambda each: user.decisions[each].pointer_ends_s)
        for oldest in by_end[: max(0, len(by_end) - self._limits.max_decisions)]:
            self._forget(key, user, oldest)

    async def find_event(self, key: UserKey, event_id: str) -> KnownEvent | None:
        self._check()
        user = self._current(key)
        digest = user.digests.get(event_id)
        return None if digest is None else KnownEvent(digest, isinstance(user.log.get(event_id), TakenBack))

    async def read_decision(self, tenant: str, decision_id: str) -> tuple[str, bytes]:
        self._check()
        key = self._owner(tenant, decision_id)
        if key is None:
            raise UnknownDecision(f"no decision {decision_id[:64]!r} is known")
        decision = self._users[key].decisions[decision_id]
        if self._clock() >= decision.record_ends_s:
            raise ExpiredCandidate(f"the record of decision {decision_id} has expired")
        return key.tag, decision.record

    async def locate_decision(self, key: UserKey, decision_id: str) -> DecisionPlace:
        self._check()
        owner = self._owner(key.tenant, decision_id)
        if owner is None:
            return "unknown"
        if owner != key:
            return "foreign"
        return "live" if self._clock() < self._users[key].decisions[decision_id].record_ends_s else "expired"

    async def add_comparison(self, key: UserKey, comparison: Comparison) -> Added:
        self._limits.check_payload(comparison.payload)
        self._check()
        user = self._current(key)
        held = user.sums.get(comparison.basis)
        known = user.digests.get(comparison.event_id)
        if known is not None:
            if isinstance(user.log.get(comparison.event_id), TakenBack):
                raise EventConflict(f"event {comparison.event_id!r} was taken back; a new comparison needs a new event id")
            if known != comparison.digest:
                raise EventConflict(f"event {comparison.event_id!r} was used before with another body")
            return Added("duplicate", held)
        evidence = comparison.evidence.astype(np.float64) + 0.0
        after = _with(held, comparison)
        user.digests[comparison.event_id] = comparison.digest
        user.log[comparison.event_id] = LoggedComparison(
            comparison.event_id, comparison.basis, comparison.epoch, comparison.observed_s, evidence, comparison.payload
        )
        for oldest in list(user.log)[: min(100, max(0, len(user.log) - self._limits.max_log))]:
            del user.log[oldest], user.digests[oldest]
            for replayed in user.replayed.values():
                replayed.pop(oldest, None)
        self._keep(user, comparison.basis, after)
        return Added("applied", after)

    async def take_back(self, key: UserKey, basis: str, event_id: str) -> UserSum | None:
        self._check()
        checked_name("basis", basis)
        if not is_event_id(event_id):
            raise UnknownEvent(f"no comparison {event_id[:64]!r} is kept: that is not an event id")
        user = self._current(key)
        entry = user.log.get(event_id)
        if entry is None:
            raise UnknownEvent(f"no comparison with event {event_id!r} is kept for this user")
        if isinstance(entry, TakenBack):
            raise UnknownEvent(f"the comparison with event {event_id!r} was taken back before")
        replayed = [also.pop(event_id) for also in user.replayed.values() if event_id in also]
        parts: list[LoggedComparison | ReplayedEvidence] = [entry, *replayed]
        for part in parts:
            held = user.sums.get(part.basis)
            if held is not None:
                _check_size(part.basis, held, part.evidence)
                self._keep(user, part.basis, _moved(held, part.epoch, part.evidence, -1))
        del user.log[event_id]
        user.log[event_id] = TakenBack(event_id)
        user.log_ends_s = self._clock() + self._limits.user_ttl_s
        return user.sums.get(basis)

    async def users(self, tenant: str | None, cursor: str = "") -> UsersPage:
        self._check()
        if cursor and not cursor.isdecimal():
            raise ValueError(f"{cursor[:64]!r} is not a cursor of this store")
        keys = [key for key in sorted(self._users, key=lambda key: (key.tenant, key.tag)) if tenant in {None, key.tenant}]
        at = int(cursor or "0")
        page = tuple(key for key in keys[at : at + _USERS_AT_ONCE] if self._current(key).log)
        return UsersPage(page, str(at + _USERS_AT_ONCE) if at + _USERS_AT_ONCE < len(keys) else None)

    async def to_replay(self, key: UserKey, basis: str) -> AsyncIterator[LoggedComparison]:
        self._check()
        user = self._current(key)
        for entry in list(user.log.values()):
            if isinstance(entry, LoggedComparison) and entry.basis != basis and entry.event_id not in user.replayed.get(basis, {}):
                yield entry

    async def replay_comparison(self, key: UserKey, comparison: Comparison) -> Replayed:
        self._check()
        user, basis = self._current(key), comparison.basis
        entry = user.log.get(comparison.event_id)
        if not isinstance(entry, LoggedComparison):
            return "gone"
        if entry.basis == basis or comparison.event_id in user.replayed.get(basis, {}):
            return "present"
        user.sums[basis] = _with(user.sums.get(basis), comparison)
        user.sum_ends_s[basis] = user.log_ends_s
        evidence = comparison.evidence.astype(np.float64) + 0.0
        user.replayed.setdefault(basis, {})[comparison.event_id] = ReplayedEvidence(
            comparison.event_id, basis, comparison.epoch, comparison.observed_s, evidence
        )
        return "applied"

    async def export(self, key: UserKey) -> AsyncIterator[Exported]:
        self._check()
        user, now_s = self._current(key), self._clock()
        for basis, total in sorted(user.sums.items()):
            yield StoredSum(basis, total)
        for entry in list(user.log.values()):
            yield entry
        for replayed in list(user.replayed.values()):
            for part in list(replayed.values()):
                yield part
        if user.last is not None:
            yield LastMember(user.last[0])
        for decision_id, decision in list(user.decisions.items()):
            if now_s < decision.record_ends_s:
                yield StoredDecision(decision_id, decision.record)

    async def delete_user(self, key: UserKey) -> Deleted:
        self._check()
        user, now_s = self._current(key), self._clock()
        del self._users[key]
        for decision_id in user.decisions:
            self._owners.pop((key.tenant, decision_id), None)
        decisions = sum(now_s < decision.record_ends_s for decision in user.decisions.values())
        comparisons = sum(isinstance(entry, LoggedComparison) for entry in user.log.values())
        indexes = 2 * bool(user.log) + bool(user.decisions) + bool(user.last)
        return Deleted(
            len(user.sums) + sum(map(bool, user.replayed.values())) + indexes + decisions + len(user.decisions), comparisons, decisions
        )

    async def ping(self) -> None:
        self._check()

    async def aclose(self) -> None:
        self._closed = True

    def _check(self) -> None:
        if self._closed or not self.available:
            raise StoreUnavailable(f"the store in memory is {'closed' if self._closed else 'switched off'}")

    def _current(self, key: UserKey) -> _User:
        """Returns the user with everything gone whose time has passed."""
        user, now_s = self._users.setdefault(key, _User()), self._clock()
        for basis in [basis for basis, ends_s in user.sum_ends_s.items() if now_s >= ends_s]:
            del user.sums[basis], user.sum_ends_s[basis]
            user.replayed.pop(basis, None)
        if now_s >= user.log_ends_s:
            user.log.clear()
            user.digests.clear()
            user.replayed.clear()
        if user.last is not None and now_s >= user.last[1]:
            user.last = None
        for decision_id in [each for each, decision in user.decisions.items() if now_s >= decision.pointer_ends_s]:
            self._forget(key, user, decision_id)
        return user

    def _owner(self, tenant: str, decision_id: str) -> UserKey | None:
        key = self._owners.get((tenant, decision_id)) if is_name(decision_id) else None
        if key is not None:
            self._current(key)
        return self._owners.get((tenant, decision_id))

    def _forget(self, key: UserKey, user: _User, decision_id: str) -> None:
        del user.decisions[decision_id]
        self._owners.pop((key.tenant, decision_id), None)

    def _keep(self, user: _User, basis: str, after: UserSum) -> None:
        user.sums.pop(basis, None)
        user.sum_ends_s.pop(basis, None)
        ends_s = self._clock() + self._limits.user_ttl_s
        if after.count > 0:
            user.sums[basis], user.sum_ends_s[basis] = after, ends_s
        user.log_ends_s = ends_s


def _check_size(basis: str, held: UserSum, evidence: Vector) -> None:
    if held.evidence.size != evidence.size:
        raise ValueError(f"the sum under basis {basis} holds {held.evidence.size} doubles of evidence, the comparison {evidence.size}")


def _with(held: UserSum | None, comparison: Comparison) -> UserSum:
    evidence, observed_s = comparison.evidence.astype(np.float64) + 0.0, comparison.observed_s
    if held is None:
        return UserSum(1, comparison.epoch, observed_s, observed_s, evidence)
    _check_size(comparison.basis, held, evidence)
    after = _moved(held, comparison.epoch, evidence, +1)
    return replace(after, first_seen_s=min(held.first_seen_s, observed_s), last_seen_s=max(held.last_seen_s, observed_s))


def _moved(held: UserSum, epoch: int, evidence: Vector, sign: int) -> UserSum:
    """Returns `held` with `evidence` added (sign +1) or subtracted (-1), both first brought to the later of the two epochs."""
    later = max(held.epoch, epoch)
    aligned = align(held.evidence, held.epoch, later) + sign * align(evidence, epoch, later)
    return replace(held, count=held.count + sign, epoch=later, evidence=aligned)
