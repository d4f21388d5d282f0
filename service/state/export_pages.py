"""Everything that Redis keeps of a user, read in pages of bounded size through two reading functions.

Sums come first, then the log from its oldest entry, what was replayed of it, the member that served last, and decisions. Each page is one
round trip. What is added while an export runs may or may not be in it; nothing that was there before is missed, unless it left the log.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from attune.service.state.codec import CHECK_BYTES, unpack_entry, unpack_vector
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
)

Read = Callable[..., Awaitable[Any]]
ReadLog = Callable[[UserKey, int, int], Awaitable[list[Any]]]
Logged = LoggedComparison | TakenBack

PAGE = 100


async def pages(key: UserKey, read: Read, read_log: ReadLog) -> AsyncGenerator[Exported]:
    """Yields what is kept of the user.

    Args:
        key: the user.
        read: sends one reading command to Redis and returns its reply.
        read_log: runs the script of this name for a user, the number of the first entry and how many.

    Raises:
        WrongUser: a reply held a record of somebody else.
        ValueError: a record is damaged.
    """
    bases = await bases_of(key, read)
    for basis in sorted(bases):
        record = await read("GET", key.sum(basis))
        if record is not None:
            yield StoredSum(basis, UserSum.from_record(unseal(SUM, key, record)))
    async for entries in log_pages(key, read_log):
        for _, entry in entries:
            yield entry
    for basis in bases:
        async for replayed in _replayed(key, basis, read, read_log):
            yield replayed
    last = await read("GET", key.last)
    if last is not None:
        yield LastMember(unseal(LAST, key, last).decode("utf-8"))
    async for decision in _decisions(key, read):
        yield decision


async def log_without(key: UserKey, basis: str, read: Read, read_log: ReadLog) -> AsyncGenerator[LoggedComparison]:
    """Yields the comparisons of the log that were neither learned nor replayed under `basis`, oldest first.

    Raises:
        WrongUser: a reply held an entry of somebody else.
        ValueError: an entry is damaged.
    """
    async for entries in log_pages(key, read_log):
        other = [(number, entry) for number, entry in entries if isinstance(entry, LoggedComparison) and entry.basis != basis]
        held = await replayed_under(key, basis, [number for number, _ in other], read)
        for (_, entry), vector in zip(other, held, strict=True):
            if vector is None:
                yield entry


async def bases_of(key: UserKey, read: Read) -> list[str]:
    """Returns the bases under which something of a user is kept, in the order in which they came."""
    names: bytes = await read("HGET", key.events, "\x02") or b""
    return [name for name in names.decode("ascii").split(",") if name]


async def log_pages(key: UserKey, read_log: ReadLog) -> AsyncGenerator[list[tuple[int, Logged]]]:
    """Yields the user's log, some entries with their numbers at a time, oldest first.

    Raises:
        WrongUser: a reply held an entry of somebody else.
        ValueError: an entry is damaged.
    """
    number = 1
    while True:
        first, names, *entries = await read_log(key, number, PAGE)
        if not entries:
            return
        bases = names.decode("ascii").split(",")
        yield [(first + at, read_entry(key, bases, entry)) for at, entry in enumerate(entries)]
        number = first + len(entries)


def read_entry(key: UserKey, bases: Sequence[str], packed: bytes) -> Logged:
    """Returns what an entry of the user's log says.

    Raises:
        WrongUser: it is of somebody else.
        ValueError: it is damaged.
    """
    entry = unpack_entry(packed)
    if entry.check != key.raw_tag[:CHECK_BYTES]:
        raise WrongUser("asked for entries of a user's log, got those of another")
    if entry.vector is None:
        return TakenBack(entry.event_id)
    if entry.basis >= len(bases):
        raise ValueError(f"a log entry names basis {entry.basis} of {len(bases)}")
    vector = entry.vector
    return LoggedComparison(entry.event_id, bases[entry.basis], vector.epoch, vector.observed_s, vector.evidence, entry.payload)


async def replayed_under(key: UserKey, basis: str, numbers: Sequence[int], read: Read) -> list[bytes | None]:
    """Returns what was replayed under a basis of the log entries with these numbers, packed; None of those of which nothing was."""
    if not numbers:
        return []
    held: list[bytes | None] = await read("HMGET", key.replayed(basis), *(struct.pack("<I", number) for number in numbers))
    return held


async def _replayed(key: UserKey, basis: str, read: Read, read_log: ReadLog) -> AsyncGenerator[ReplayedEvidence]:
    if not await read("EXISTS", key.replayed(basis)):
        return
    async for entries in log_pages(key, read_log):
        held = await replayed_under(key, basis, [number for number, _ in entries], read)
        for (_, entry), packed in zip(entries, held, strict=True):
            if packed is not None:
                vector, _ = unpack_vector(packed)
                yield ReplayedEvidence(entry.event_id, basis, vector.epoch, vector.observed_s, vector.evidence)


async def _decisions(key: UserKey, read: Read) -> AsyncGenerator[StoredDecision]:
    ids: list[bytes] = await read("ZRANGE", key.decisions, 0, -1)
    for start in range(0, len(ids), PAGE):
        page = [decision_id.decode("ascii") for decision_id in ids[start : start + PAGE]]
        records = await read("MGET", *(key.decision(decision_id) for decision_id in page))
        for decision_id, record in zip(page, records, strict=True):
            if record is not None:
                yield StoredDecision(decision_id, unseal(DECISION, key, record))
