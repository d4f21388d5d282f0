"""Everything that Redis keeps of a user, read in pages of bounded size through one reading function.

Sums come first, then the log from its oldest entry, what was replayed of it, the member that served last, and decisions. Each page is one
round trip. What is added while an export runs may or may not be in it; nothing that was there before is missed.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import numpy as np

from attune.service.state.keys import DECISION, LAST, SUM, UserKey, WrongUser, unseal
from attune.service.state.records import (
    Exported,
    LastMember,
    LoggedComparison,
    ReplayedEvidence,
    StoredDecision,
    StoredSum,
    TakenBack,
    UserSum,
    Vector,
)

Read = Callable[..., Awaitable[Any]]

PAGE = 100


async def pages(key: UserKey, read: Read) -> AsyncGenerator[Exported]:
    """Yields what is kept of the user.

    Args:
        key: the user.
        read: sends one reading command to Redis and returns its reply.

    Raises:
        WrongUser: a reply held a record of somebody else.
    """
    async for stored in _sums(key, read):
        yield stored
    async for entry in _log(key, read):
        yield entry
    async for replayed in _replayed(key, read):
        yield replayed
    last = await read("GET", key.last)
    if last is not None:
        yield LastMember(unseal(LAST, key, last).decode("utf-8"))
    async for decision in _decisions(key, read):
        yield decision


async def log_without(key: UserKey, basis: str, read: Read) -> AsyncGenerator[LoggedComparison]:
    """Yields the comparisons of the log that were neither learned nor replayed under `basis`, oldest first.

    Raises:
        WrongUser: a reply held an entry of somebody else.
    """
    async for entries in _log_pages(key, read):
        other = [entry for entry in entries if isinstance(entry, LoggedComparison) and entry.basis != basis]
        if other:
            held = await read("HMGET", key.replayed(basis), *(entry.event_id for entry in other))
            for entry, vector in zip(other, held, strict=True):
                if vector is None:
                    yield entry


async def _sums(key: UserKey, read: Read) -> AsyncGenerator[StoredSum]:
    cursor: Any = 0
    seen: set[bytes] = set()
    while True:
        cursor, fields = await read("HSCAN", key.events, cursor, "MATCH", "\x01*", "COUNT", 10 * PAGE)
        for field in sorted(set(fields) - seen):
            seen.add(field)
            basis = field[1:].decode("ascii")
            record = await read("GET", key.sum(basis))
            if record is not None:
                yield StoredSum(basis, UserSum.unpack(unseal(SUM, key, record)))
        if not int(cursor):
            return


async def _log(key: UserKey, read: Read) -> AsyncGenerator[LoggedComparison | TakenBack]:
    async for entries in _log_pages(key, read):
        for entry in entries:
            yield entry


async def _log_pages(key: UserKey, read: Read) -> AsyncGenerator[list[LoggedComparison | TakenBack]]:
    start: bytes = b"-"
    while entries := await read("XRANGE", key.log, start, "+", "COUNT", PAGE):
        yield [_entry(key, fields) for _, fields in entries]
        start = b"(" + entries[-1][0]


def _entry(key: UserKey, fields: dict[bytes, bytes]) -> LoggedComparison | TakenBack:
    if fields[b"tag"] != key.raw_tag:
        raise WrongUser("asked for entries of a user's log, got those of another")
    event_id = fields[b"event"].decode("utf-8")
    if fields[b"kind"] == b"x":
        return TakenBack(event_id)
    return LoggedComparison(event_id, fields[b"basis"].decode("ascii"), *_vector(fields[b"vector"]), fields[b"payload"])


def _vector(packed: bytes) -> tuple[int, float, Vector]:
    epoch, observed_s = struct.unpack_from("<2d", packed)
    return int(epoch), observed_s, np.frombuffer(packed, dtype="<f8", offset=16).astype(np.float64)


async def _replayed(key: UserKey, read: Read) -> AsyncGenerator[ReplayedEvidence]:
    bases: bytes = await read("HGET", key.events, "\x02") or b""
    for basis in bases.decode("ascii").split(","):
        cursor: Any = 0
        seen: set[bytes] = set()
        while basis:
            cursor, fields = await read("HSCAN", key.replayed(basis), cursor, "COUNT", PAGE)
            for event, packed in fields.items():
                if event not in seen:
                    seen.add(event)
                    yield ReplayedEvidence(event.decode("utf-8"), basis, *_vector(packed))
            if not int(cursor):
                break


async def _decisions(key: UserKey, read: Read) -> AsyncGenerator[StoredDecision]:
    ids: list[bytes] = await read("ZRANGE", key.decisions, 0, -1)
    for start in range(0, len(ids), PAGE):
        page = [decision_id.decode("ascii") for decision_id in ids[start : start + PAGE]]
        records = await read("MGET", *(key.decision(decision_id) for decision_id in page))
        for decision_id, record in zip(page, records, strict=True):
            if record is not None:
                yield StoredDecision(decision_id, unseal(DECISION, key, record))
