"""The store on Redis: redis-py asyncio, one script per writing operation, one round trip per request.

    operation ──> Wire (bounded, shielded, translated) ──> seal checked ──> caller

Redis stores and does not think: scripts refuse repeats and add vectors. Should a reply ever be crossed with another caller's, its seal
betrays it and nobody gets it. Nothing here knows what evidence means.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from attune.service.errors import EventConflict, ExpiredEvent, UserDeleted, UserMerged
from attune.service.state.codec import BODY_DIGEST_BYTES, TOKEN_BYTES, EventValue, event_digest, new_token, pack_event_id, pack_vector
from attune.service.state.durable import Durable, WriteHealth
from attune.service.state.export_pages import log_without, pages
from attune.service.state.kept_decisions import KeptDecisions
from attune.service.state.keys import (
    DECISION,
    ERA_BYTES,
    LAST,
    SUM,
    UserKey,
    asked_era,
    is_name,
    seal_of,
)
from attune.service.state.listing import ListedUsers, list_users, users_with_a_log
from attune.service.state.member_sums import MemberSum, MemberSums, Vector
from attune.service.state.merging import Merged, Merging, PartedKey
from attune.service.state.records import Exported, KnownEvent, LoggedComparison, NewComparison, UserSum, is_event_id
from attune.service.state.replies import Replies
from attune.service.state.scripts import ADD_COMPARISON, CHECK_WRITES, DELETE_USER, READ_LOG, REPLAY_COMPARISON
from attune.service.state.store import Added, DecisionPlace, Deleted, Limits, Observe, Replayed, UserRead, UsersPage
from attune.service.state.store_memory import StoreMemory, read_memory
from attune.service.state.taking_back import find_logged, take_back
from attune.service.state.wire import Reads, Wire

T = TypeVar("T")

_POINTERS_AT_ONCE = 500
_MARK_MS = 10_000


def unobserved(operation: str, seconds: float, ok: bool) -> None:  # noqa: FBT001 - an `Observe`
    """Takes an observation and keeps nothing."""


class RedisStore:
    """Keeps users in Redis; see `Store` for what each operation promises. Its signatures stand here again, and mypy compares them.

    Args:
        url: see `service.state.connect`.
        limits: bounds per user.
        max_connections: commands in flight at most; more wait for `timeout_s`, then fail.
        timeout_s: for a permit, for connecting, and for each reply.
        observe: told of every operation.
        confirm: whether to ask after every write if it is in the kernel; a cluster is not asked. See `durable`.
        must_tell: whether no write counts without an answer: for a server that Attune runs itself.
        no_room: says why nothing should be written now, or None.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        max_connections: int = 64,
        timeout_s: float = 2.0,
        observe: Observe = unobserved,
        confirm: bool = False,
        must_tell: bool = True,
        no_room: Callable[[], str | None] | None = None,
    ) -> None:
        self._wire = Wire(url, max_connections=max_connections, timeout_s=timeout_s, observe=observe)
        self._limits = limits
        self._mark = f"{{attune:check}}:{secrets.token_hex(8)}"
        self._writes = Durable(self._wire, ask=confirm and not self._wire.clustered, must_tell=must_tell, no_room=no_room)
        self._reads = Reads(self._wire)
        self._replies = Replies(self._wire.where, observe)
        self._decisions = KeptDecisions(self._wire, self._writes, self._replies, limits)
        self._merging = Merging(
            self._wire,
            self._writes,
            self._replies,
            self._decisions,
            ttl_ms=limits.user_ttl_ms,
            mark_ms=limits.tombstone_ms,
            max_log=limits.max_log,
        )
        self._members = MemberSums(self._wire, self._writes, limits.user_ttl_s)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def read(self, key: UserKey, basis: str, *, decisions: Sequence[str] = (), last: bool = False) -> UserRead:
        ids = [decision_id for decision_id in dict.fromkeys(decisions) if is_name(decision_id)]
        names = [key.sum(basis), key.deleted, *([key.last] if last else []), *(key.decision(decision_id) for decision_id in ids)]
        total, era, *rest = await self._reads.get(names)
        member = rest.pop(0) if last else None
        records = {
            decision_id: self._replies.unseal(DECISION, key, record)
            for decision_id, record in zip(ids, rest, strict=True)
            if record is not None
        }
        served = None if member is None else self._replies.unseal(LAST, key, member).decode("utf-8")
        return UserRead(self._replies.sum(key, total), era or b"", records, served)

    async def find_event(self, key: UserKey, event_id: str) -> KnownEvent | None:
        if not is_event_id(event_id):
            return None
        event = event_digest(event_id)
        value = await self._wire.run("find_event", lambda: self._wire.command("HGET", key.events, event))
        if value is None:
            value = await self._wire.run("find_event", lambda: self._wire.command("HGET", key.moved, event))
        if value is None:
            return None
        known = EventValue.unpack(value)
        return KnownEvent(known.digest, known.taken_back)

    async def read_decision(self, tenant: str, decision_id: str) -> tuple[str, bytes]:
        return await self._decisions.read(tenant, decision_id)

    async def locate_decision(self, key: UserKey, decision_id: str) -> DecisionPlace:
        return await self._decisions.locate(key, decision_id)

    async def export(self, key: UserKey) -> AsyncIterator[Exported]:
        for kept in (key, PartedKey(key.tenant, key.tag)):
            async with aclosing(pages(kept, self._reader("export"), self._read_log)) as source:
                with self._replies.translated():
                    async for exported in source:
                        yield exported

    async def to_replay(self, key: UserKey, basis: str) -> AsyncIterator[LoggedComparison]:
        async with aclosing(log_without(key, basis, self._reader("to_replay"), self._read_log)) as source:
            with self._replies.translated():
                async for logged in source:
                    yield logged

    def _reader(self, operation: str) -> Callable[..., Awaitable[Any]]:
        """Returns the function that sends a reading command on behalf of an operation."""
        return lambda *command: self._wire.run(operation, lambda: self._wire.command(*command))

    async def _read_log(self, key: UserKey, number: int, count: int) -> list[Any]:
        keys, arguments = [key.events, key.log], [number, count]
        return await self._wire.run("read_log", lambda: self._wire.script(READ_LOG, keys, arguments))

    async def users(self, tenant: str | None, cursor: str = "") -> UsersPage:
        found, following = await users_with_a_log(self._wire, tenant, cursor)
        return UsersPage(found, following)

    async def list_users(self, tenant: str, basis: str, after: str = "", limit: int = 100) -> ListedUsers:
        return await list_users(self._wire, self._replies, tenant, basis, after, limit)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def write_decision(
        self,
        key: UserKey,
        decision_id: str,
        record: bytes,
        ttl_s: float,
        served: str | None = None,
        *,
        update: bool = False,
        instead_of: bytes | None = None,
        era: bytes | None = None,
    ) -> bool:
        condition: str | bytes = "XX" if update else ""
        if instead_of is not None:
            condition = seal_of(DECISION, key) + instead_of
        # A decision of ours is waited for with an answer in hand, and what could be lost is that answer's place in feedback. Answers that
        # somebody hands in for one are what people said.
        ask = instead_of is not None
        outcome = await self._decisions.keep(key, decision_id, record, ttl_s, served, condition=condition, ask=ask, era=era)
        if outcome == b"changed":
            raise EventConflict(f"decision {decision_id} was written by another request meanwhile")
        return outcome == b"kept"

    async def add_comparison(self, key: UserKey, comparison: NewComparison, *, era: bytes | None = None) -> Added:
        self._limits.check_payload(comparison.payload)
        keys = [key.sum(comparison.basis), key.events, key.log, key.deleted, key.refused, key.moved]
        packed = pack_vector(comparison.epoch, comparison.observed_s, comparison.evidence)
        arguments = [
            seal_of(SUM, key),
            event_digest(comparison.event_id),
            comparison.digest[:BODY_DIGEST_BYTES],
            comparison.basis,
            comparison.packed(),
            pack_event_id(comparison.event_id) + packed + comparison.payload,
            self._limits.max_log,
            self._limits.user_ttl_ms,
            new_token(secrets.token_bytes(TOKEN_BYTES)),
            key.replayed_prefix,
            asked_era(era),
        ]
        outcome, *rest = await self._writes.write("add_comparison", lambda: self._wire.script(ADD_COMPARISON, keys, arguments))
        match outcome:
            case b"applied":
                return Added("applied", self._replies.sum(key, rest[0]))
            case b"duplicate":
                return Added("duplicate", self._replies.sum(key, rest[0] if rest else None))
            case b"conflict":
                raise EventConflict(f"event {comparison.event_id!r} was used before with another body")
            case b"taken-back":
                raise EventConflict(f"event {comparison.event_id!r} was taken back; a new comparison needs a new event id")
            case b"refused":
                raise UserDeleted(f"event {comparison.event_id!r} was sent before the user was deleted; nothing was kept")
            case b"deleted":
                raise UserDeleted("the user was deleted while this comparison was on its way; nothing was kept")
            case b"merged":
                raise UserMerged("the user was merged into another one while this comparison was on its way; send it for that one")
        raise self._replies.refused(outcome, rest, comparison.basis, comparison.evidence.size)

    async def replay_comparison(self, key: UserKey, comparison: NewComparison) -> Replayed:
        keys = [key.sum(comparison.basis), key.events, key.log, key.replayed(comparison.basis)]
        packed = pack_vector(comparison.epoch, comparison.observed_s, comparison.evidence) + comparison.payload
        arguments = [seal_of(SUM, key), event_digest(comparison.event_id), comparison.basis, comparison.packed(), packed]
        arguments.append("1" if comparison.payload else "")
        outcome, *rest = await self._writes.write("replay_comparison", lambda: self._wire.script(REPLAY_COMPARISON, keys, arguments))
        match outcome:
            case b"applied":
                return "applied"
            case b"present":
                return "present"
            case b"gone":
                return "gone"
        raise self._replies.refused(outcome, rest, comparison.basis, comparison.evidence.size)

    async def logged(self, key: UserKey, event_id: str, basis: str | None = None) -> LoggedComparison:
        return await self._once_merged(key, lambda: find_logged(self._wire, self._replies, key, event_id, self._limits.max_log, basis))

    async def take_back(self, key: UserKey, basis: str, event_id: str) -> UserSum | None:
        ttl_ms, max_log = self._limits.user_ttl_ms, self._limits.max_log
        return await self._once_merged(
            key, lambda: take_back(self._wire, self._writes, self._replies, key, basis, event_id, ttl_ms, max_log)
        )

    async def _once_merged(self, key: UserKey, work: Callable[[], Awaitable[T]]) -> T:
        """Returns what `work` does with the user's log, once it holds what a merge is still moving to it, if that is what is missing."""
        try:
            return await work()
        except ExpiredEvent:
            await self._merging.finish(key)
            return await work()

    async def delete_user(self, key: UserKey) -> Deleted:
        keys = [key.events, key.log, key.decisions, key.deleting, key.last, key.deleted, key.refused, key.moved]
        arguments = [key.sum_prefix, key.decision_prefix, key.replayed_prefix, secrets.token_bytes(ERA_BYTES), self._limits.tombstone_ms]

        async def delete() -> Deleted:
            removed, comparisons, decisions, before = await self._wire.script(DELETE_USER, keys, arguments)
            while ids := await self._wire.command("ZRANGE", key.deleting, 0, _POINTERS_AT_ONCE - 1):
                removed += await self._decisions.drop_pointers(key, key.deleting, ids)
            return Deleted(removed + aside[0], comparisons + aside[1], decisions, bool(before))

        aside = await self._merging.end(key)
        await self._merging.shorten_marks(key)
        return await self._writes.write("delete_user", delete)

    async def merge_users(self, source: UserKey, target: UserKey, event_id: str) -> Merged:
        return await self._merging.merge(source, target, event_id)

    # --- members ----------------------------------------------------------------------------------------------------

    async def read_members(self, tenant: str, basis: str) -> Mapping[str, MemberSum]:
        try:
            return await self._members.read(tenant, basis)
        except ValueError as error:
            raise self._replies.damaged(error) from error

    async def add_member(
        self, tenant: str, basis: str, member: str, vector: Vector, count: float, *, observed_s: float, event_id: str | None = None
    ) -> bool:
        return await self._members.add(tenant, basis, member, vector, count, observed_s, event_id)

    # --- life -------------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        await self._wire.run("ping", lambda: self._wire.command("PING"))

    @property
    def writes(self) -> WriteHealth | None:
        return self._writes.health

    async def check_writes(self) -> None:
        await self._writes.write("check_writes", lambda: self._wire.script(CHECK_WRITES, [self._mark], [_MARK_MS]))

    async def memory(self) -> StoreMemory | None:
        return await read_memory(self._wire)

    async def aclose(self) -> None:
        await self._wire.aclose()
