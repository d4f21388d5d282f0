"""The store on Redis: redis-py asyncio, one script per writing operation, one round trip per request.

    operation ──> Wire (bounded, shielded, translated) ──> seal checked ──> caller

Redis stores and does not think: scripts refuse repeats and add vectors. Should a reply ever be crossed with another caller's, its seal
betrays it and nobody gets it. Nothing here knows what evidence means.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import structlog

from attune.service.errors import EventConflict, ExpiredCandidate, StoreUnavailable, UnknownDecision, UnknownEvent
from attune.service.state.export import log_without, pages
from attune.service.state.keys import (
    DECISION,
    LAST,
    SUM,
    UserKey,
    WrongUser,
    is_name,
    log_pattern,
    owner_of_log,
    pack_pointer,
    pointer_key,
    seal_of,
    unpack_pointer,
    unseal,
)
from attune.service.state.member_sums import MemberSum, MemberSums, Vector
from attune.service.state.records import DIGEST_BYTES, Comparison, Exported, KnownEvent, LoggedComparison, UserSum, is_event_id
from attune.service.state.scripts import ADD_COMPARISON, DELETE_USER, REPLAY_COMPARISON, TAKE_BACK, WRITE_DECISION
from attune.service.state.store import Added, DecisionPlace, Deleted, Limits, Observe, Replayed, UsersPage
from attune.service.state.wire import Wire

_log = structlog.get_logger(__name__)
_POINTERS_AT_ONCE = 500
_KEYS_AT_ONCE = 256
_CURSOR = re.compile(r"([0-9]{1,9}):([0-9]{1,20})")
TOKEN_BYTES = 8


def unobserved(operation: str, seconds: float, ok: bool) -> None:  # noqa: FBT001 - an `Observe`
    """Takes an observation and keeps nothing."""


class RedisStore:
    """Keeps users in Redis; see `Store` for what each operation promises.

    Args:
        url: see `service.state.connect`.
        limits: bounds per user.
        max_connections: commands in flight at most; more wait for `timeout_s`, then fail.
        timeout_s: for a permit, for connecting, and for each reply.
        observe: told of every operation.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        max_connections: int = 64,
        timeout_s: float = 2.0,
        observe: Observe = unobserved,
    ) -> None:
        self._wire = Wire(url, max_connections=max_connections, timeout_s=timeout_s, observe=observe)
        self._limits = limits
        self._observe = observe
        self._members = MemberSums(self._wire, limits.user_ttl_s)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def read_user(self, key: UserKey, basis: str) -> UserSum | None:
        record = await self._wire.run("read_user", lambda: self._wire.command("GET", key.sum(basis)))
        return self._sum(key, record)

    async def read_for_routing(self, key: UserKey, basis: str) -> tuple[UserSum | None, str | None]:
        total, last = await self._wire.run("read_for_routing", lambda: self._wire.command("MGET", key.sum(basis), key.last))
        return self._sum(key, total), None if last is None else self._unseal(LAST, key, last).decode("utf-8")

    async def read_for_feedback(self, key: UserKey, basis: str, decision_ids: Sequence[str]) -> tuple[UserSum | None, Mapping[str, bytes]]:
        ids = [decision_id for decision_id in dict.fromkeys(decision_ids) if is_name(decision_id)]
        names = [key.sum(basis), *(key.decision(decision_id) for decision_id in ids)]
        records = await self._wire.run("read_for_feedback", lambda: self._wire.command("MGET", *names))
        decisions = {
            decision_id: self._unseal(DECISION, key, record)
            for decision_id, record in zip(ids, records[1:], strict=True)
            if record is not None
        }
        return self._sum(key, records[0]), decisions

    async def find_event(self, key: UserKey, event_id: str) -> KnownEvent | None:
        if not is_event_id(event_id):
            return None
        value = await self._wire.run("find_event", lambda: self._wire.command("HGET", key.events, event_id))
        return None if value is None else KnownEvent(value[:DIGEST_BYTES], value[DIGEST_BYTES + TOKEN_BYTES :] == b"x")

    async def read_decision(self, tenant: str, decision_id: str) -> tuple[str, bytes]:
        key = await self._owner("read_decision", tenant, decision_id)
        if key is None:
            raise UnknownDecision(f"no decision {decision_id[:64]!r} is known")
        record = await self._wire.run("read_decision", lambda: self._wire.command("GET", key.decision(decision_id)))
        if record is None:
            raise ExpiredCandidate(f"the record of decision {decision_id} has expired")
        return key.tag, self._unseal(DECISION, key, record)

    async def locate_decision(self, key: UserKey, decision_id: str) -> DecisionPlace:
        owner = await self._owner("locate_decision", key.tenant, decision_id)
        if owner is None:
            return "unknown"
        if owner != key:
            return "foreign"
        live = await self._wire.run("locate_decision", lambda: self._wire.command("EXISTS", key.decision(decision_id)))
        return "live" if live else "expired"

    async def _owner(self, operation: str, tenant: str, decision_id: str) -> UserKey | None:
        if not is_name(decision_id):
            return None
        pointer = await self._wire.run(operation, lambda: self._wire.command("GET", pointer_key(tenant, decision_id)))
        if pointer is None:
            return None
        try:
            return unpack_pointer(tenant, decision_id, pointer)
        except WrongUser as error:
            raise self._wrong_user(error) from error

    async def export(self, key: UserKey) -> AsyncIterator[Exported]:
        async def read(*command: Any) -> Any:
            return await self._wire.run("export", lambda: self._wire.command(*command))

        source = pages(key, read)
        try:
            async for exported in source:
                yield exported
        except WrongUser as error:
            raise self._wrong_user(error) from error
        except ValueError as error:
            raise self._damaged(error) from error
        finally:
            await source.aclose()

    async def to_replay(self, key: UserKey, basis: str) -> AsyncIterator[LoggedComparison]:
        async def read(*command: Any) -> Any:
            return await self._wire.run("to_replay", lambda: self._wire.command(*command))

        source = log_without(key, basis, read)
        try:
            async for logged in source:
                yield logged
        except WrongUser as error:
            raise self._wrong_user(error) from error
        finally:
            await source.aclose()

    async def users(self, tenant: str | None, cursor: str = "") -> UsersPage:
        place = _CURSOR.fullmatch(cursor or "0:0")
        if place is None:
            raise ValueError(f"{cursor[:64]!r} is not a cursor of this store")
        at = (int(place[1]), int(place[2]))
        names, following = await self._wire.run("users", lambda: self._wire.scan(log_pattern(tenant), at, _KEYS_AT_ONCE))
        owners = dict.fromkeys(owner_of_log(name.decode("utf-8", "replace")) for name in names)
        return UsersPage(tuple(owner for owner in owners if owner), None if following is None else f"{following[0]}:{following[1]}")

    # --- writing ----------------------------------------------------------------------------------------------------

    async def write_decision(self, key: UserKey, decision_id: str, record: bytes, ttl_s: float, served: str | None = None) -> None:
        self._limits.check_decision(record, ttl_s)
        ttl_ms = round(1000 * ttl_s)
        last = b"" if served is None else seal_of(LAST, key) + served.encode("utf-8")
        keys = [key.decision(decision_id), key.decisions, key.last]
        arguments = [seal_of(DECISION, key) + record, decision_id, ttl_ms, self._limits.max_decisions, key.decision_prefix, last]
        pointer, value = pointer_key(key.tenant, decision_id), pack_pointer(key, decision_id)
        clustered = self._wire.clustered

        async def write() -> list[bytes]:
            if clustered:
                await self._wire.command("SET", pointer, value, "PX", 2 * ttl_ms)
                return await self._wire.script(WRITE_DECISION, keys, arguments)
            return await self._wire.script(WRITE_DECISION, [*keys, pointer], [*arguments, value])

        over = await self._wire.run("write_decision", write)
        if over:
            await self._wire.run("trim_decisions", lambda: self._drop_pointers(key, key.decisions, over))

    async def add_comparison(self, key: UserKey, comparison: Comparison) -> Added:
        self._limits.check_payload(comparison.payload)
        keys = [key.sum(comparison.basis), key.events, key.log]
        arguments = [
            seal_of(SUM, key),
            comparison.event_id,
            comparison.digest,
            comparison.basis,
            comparison.packed(),
            comparison.payload,
            self._limits.max_log,
            self._user_ttl_ms,
            secrets.token_bytes(TOKEN_BYTES),
            key.replayed_prefix,
        ]
        outcome, *rest = await self._wire.run("add_comparison", lambda: self._wire.script(ADD_COMPARISON, keys, arguments))
        match outcome:
            case b"applied":
                return Added("applied", self._sum(key, rest[0]))
            case b"duplicate":
                return Added("duplicate", self._sum(key, rest[0] if rest else None))
            case b"conflict":
                raise EventConflict(f"event {comparison.event_id!r} was used before with another body")
            case b"taken-back":
                raise EventConflict(f"event {comparison.event_id!r} was taken back; a new comparison needs a new event id")
        raise self._refused(outcome, rest, comparison.basis, comparison.evidence.size)

    async def replay_comparison(self, key: UserKey, comparison: Comparison) -> Replayed:
        keys = [key.sum(comparison.basis), key.events, key.log, key.replayed(comparison.basis)]
        arguments = [seal_of(SUM, key), comparison.event_id, comparison.basis, comparison.packed()]
        outcome, *rest = await self._wire.run("replay_comparison", lambda: self._wire.script(REPLAY_COMPARISON, keys, arguments))
        match outcome:
            case b"applied":
                return "applied"
            case b"present":
                return "present"
            case b"gone":
                return "gone"
        raise self._refused(outcome, rest, comparison.basis, comparison.evidence.size)

    async def take_back(self, key: UserKey, basis: str, event_id: str) -> UserSum | None:
        if not is_event_id(event_id):
            raise UnknownEvent(f"no comparison {event_id[:64]!r} is kept: that is not an event id")
        keys = [key.sum(basis), key.events, key.log]
        arguments = [seal_of(SUM, key), event_id, secrets.token_bytes(TOKEN_BYTES), key.sum_prefix, self._user_ttl_ms, key.replayed_prefix]
        outcome, *rest = await self._wire.run("take_back", lambda: self._wire.script(TAKE_BACK, keys, arguments))
        match outcome:
            case b"taken":
                return self._sum(key, rest[0] if rest else None)
            case b"unknown":
                raise UnknownEvent(f"no comparison with event {event_id!r} is kept for this user")
            case b"taken-back":
                raise UnknownEvent(f"the comparison with event {event_id!r} was taken back before")
        raise self._refused(outcome, rest, basis, None)

    async def delete_user(self, key: UserKey) -> Deleted:
        keys = [key.events, key.log, key.decisions, key.deleting, key.last]

        async def delete() -> Deleted:
            removed, comparisons, decisions = await self._wire.script(
                DELETE_USER, keys, [key.sum_prefix, key.decision_prefix, key.replayed_prefix]
            )
            while ids := await self._wire.command("ZRANGE", key.deleting, 0, _POINTERS_AT_ONCE - 1):
                removed += await self._drop_pointers(key, key.deleting, ids)
            return Deleted(removed, comparisons, decisions)

        return await self._wire.run("delete_user", delete)

    async def _drop_pointers(self, key: UserKey, index: str, ids: Sequence[bytes]) -> int:
        """Removes the pointers of these decisions, and only then the ids from the index that leads to them; returns how many there were."""
        pointers = [pointer_key(key.tenant, decision_id.decode("ascii")) for decision_id in ids]
        if self._wire.clustered:
            removed = [await self._wire.command("UNLINK", pointer) for pointer in pointers]
        else:
            removed = [await self._wire.command("UNLINK", *pointers)]
        await self._wire.command("ZREM", index, *ids)
        return int(sum(removed))

    # --- members ----------------------------------------------------------------------------------------------------

    async def read_members(self, tenant: str, basis: str) -> Mapping[str, MemberSum]:
        try:
            return await self._members.read(tenant, basis)
        except ValueError as error:
            raise self._damaged(error) from error

    async def add_member(
        self, tenant: str, basis: str, member: str, vector: Vector, count: float, *, observed_s: float, event_id: str | None = None
    ) -> bool:
        return await self._members.add(tenant, basis, member, vector, count, observed_s, event_id)

    # --- life -------------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        await self._wire.run("ping", lambda: self._wire.command("PING"))

    async def aclose(self) -> None:
        await self._wire.aclose()

    # --- replies ----------------------------------------------------------------------------------------------------

    @property
    def _user_ttl_ms(self) -> int:
        return max(1, round(1000 * self._limits.user_ttl_s))

    def _sum(self, key: UserKey, record: bytes | None) -> UserSum | None:
        if record is None:
            return None
        body = self._unseal(SUM, key, record)
        try:
            return UserSum.unpack(body)
        except ValueError as error:
            raise self._damaged(error) from error

    def _unseal(self, kind: bytes, key: UserKey, record: bytes) -> bytes:
        try:
            return unseal(kind, key, record)
        except WrongUser as error:
            raise self._wrong_user(error) from error

    def _wrong_user(self, error: WrongUser) -> StoreUnavailable:
        self._observe("wrong-user", 0.0, False)
        _log.error("redis_wrong_user", where=self._wire.where, detail=str(error))
        return StoreUnavailable(f"Redis at {self._wire.where} gave a record that was not asked for; it was discarded")

    def _damaged(self, error: ValueError) -> StoreUnavailable:
        self._observe("damaged", 0.0, False)
        _log.error("redis_damaged_record", where=self._wire.where, detail=str(error))
        return StoreUnavailable(f"a record in Redis at {self._wire.where} is damaged: {error}")

    def _refused(self, outcome: bytes, rest: Sequence[Any], basis: str, size: int | None) -> Exception:
        if outcome == b"shape":
            given = "the logged comparison another number" if size is None else f"the comparison {size}"
            return ValueError(f"the sum under basis {basis} holds {rest[0]} doubles of evidence, {given}")
        return self._wrong_user(WrongUser(f"a script answered {outcome!r}"))
