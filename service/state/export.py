"""Everything that Redis keeps of a user, read in pages of bounded size through one reading function.

Sums come first, then the log from its oldest entry, then decisions. Each page is one round trip. What is added while an export runs may
or may not be in it; nothing that was there before is missed.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import numpy as np

from service.state.keys import DECISION, SUM, UserKey, WrongUser, unseal
from service.state.records import Exported, LoggedComparison, StoredDecision, StoredSum, TakenBack, UserSum

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
    async for decision in _decisions(key, read):
        yield decision


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
    start: bytes = b"-"
    while entries := await read("XRANGE", key.log, start, "+", "COUNT", PAGE):
        for _, fields in entries:
            yield _entry(key, fields)
        start = b"(" + entries[-1][0]


def _entry(key: UserKey, fields: dict[bytes, bytes]) -> LoggedComparison | TakenBack:
    if fields[b"tag"] != key.raw_tag:
        raise WrongUser("asked for entries of a user's log, got those of another")
    event_id = fields[b"event"].decode("utf-8")
    if fields[b"kind"] == b"x":
        return TakenBack(event_id)
    epoch, observed_s = struct.unpack_from("<2d", fields[b"vector"])
    evidence = np.frombuffer(fields[b"vector"], dtype="<f8", offset=16).astype(np.float64)
    return LoggedComparison(event_id, fields[b"basis"].decode("ascii"), int(epoch), observed_s, evidence, fields[b"payload"])


async def _decisions(key: UserKey, read: Read) -> AsyncGenerator[StoredDecision]:
    ids: list[bytes] = await read("ZRANGE", key.decisions, 0, -1)
    for start in range(0, len(ids), PAGE):
        page = [decision_id.decode("ascii") for decision_id in ids[start : start + PAGE]]
        records = await read("MGET", *(key.decision(decision_id) for decision_id in page))
        for decision_id, record in zip(page, records, strict=True):
            if record is not None:
                yield StoredDecision(decision_id, unseal(DECISION, key, record))
