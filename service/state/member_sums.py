"""What is known of the members of a portfolio: a sum of vectors each, under one basis, for all users of a tenant together.

    scored answer ─> vector, count ─> add_member (one atomic script) ─> {t:<tenant>:m}:sum:<basis>, one field a member
    requests ─> read_members ─> the last answer of the server, at most a second old

Beside the whole sum stand those of this calendar month and of the one before, and those of the latest observations in two windows, so
that a change of manner can be told and older evidence be given up. What an entry of the vector means is not known here. No user's export,
deletion or merging touches these keys: they hold no user.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from attune.service.state.durable import Durable
from attune.service.state.keys import checked_name, member_events_key, member_sums_key
from attune.service.state.records import MAX_EVIDENCE_DOUBLES, checked_event_id
from attune.service.state.scripts import ADD_MEMBER
from attune.service.state.wire import Wire, heard

Vector = NDArray[np.float64]

FRESH_S = 1.0
"""Readers of one process see sums that are at most this old."""

MAX_MEMBER_CHARS = 256
WINDOW = 100
"""Observations after which a window is full; the two latest windows hold the last 100 to 200, and what came with the addition that
filled them."""

_HEADER = struct.Struct("<6d")
_VECTORS = 5


@dataclass(frozen=True, slots=True)
class Part:
    """A number of observations, and the sum `[E]` of their vectors."""

    count: float
    vector: Vector


@dataclass(frozen=True, slots=True)
class MemberSum:
    """One member under one basis.

    Attributes:
        total: everything that was ever added.
        month: the calendar month (UTC) of the latest observation, counted from January of the year 0.
        this_month: what was observed in `month`.
        month_before: what was observed in the month before it.
        window, window_before: the latest observations, and those just before them; imports are in neither.
    """

    total: Part
    month: int
    this_month: Part
    month_before: Part
    window: Part
    window_before: Part

    @classmethod
    def unpack(cls, packed: bytes) -> MemberSum:
        """Returns the sum that the script `add_member` keeps.

        Raises:
            ValueError: the bytes are not a header of six doubles and five vectors of one length.
        """
        size, rest = divmod(len(packed) - _HEADER.size, 8 * _VECTORS)
        if rest or size < 1:
            raise ValueError(f"the sum of a member has {len(packed)} bytes; {_HEADER.size} and a multiple of {8 * _VECTORS} are needed")
        total, month, *counts = _HEADER.unpack_from(packed)
        vectors = np.frombuffer(packed, dtype="<f8", offset=_HEADER.size).astype(np.float64).reshape(_VECTORS, size)
        whole, *parts = (Part(count, vector) for count, vector in zip([total, *counts], vectors, strict=True))
        return cls(whole, int(month), *parts)


def month_of(seconds: float) -> int:
    """Returns the calendar month (UTC) of a time in Unix seconds: 12 times the year, plus 0 for January to 11 for December."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return 12 * moment.year + moment.month - 1


class MemberSums:
    """Reads and adds to the sums of members.

    Args:
        wire: to Redis.
        writes: through it.
        ttl_s: a basis is forgotten this long after the last addition to it.
        clock: monotonic seconds, for the age of what was read.
    """

    def __init__(self, wire: Wire, writes: Durable, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._wire = wire
        self._writes = writes
        self._ttl_ms = max(1, round(1000 * ttl_s))
        self._clock = clock
        self._read: dict[tuple[str, str], tuple[float, Mapping[str, MemberSum], Mapping[bytes, bytes]]] = {}
        self._reading: dict[tuple[str, str], asyncio.Task[Mapping[str, MemberSum]]] = {}

    async def read(self, tenant: str, basis: str) -> Mapping[str, MemberSum]:
        """Returns every member of which something is known; callers of one process share what was read within the last second.

        Raises:
            StoreUnavailable: Redis did not answer.
            ValueError: a record is damaged.
        """
        place = tenant, basis
        found = self._read.get(place)
        if found is not None and self._clock() - found[0] < FRESH_S:
            return found[1]
        task = self._reading.get(place)
        if task is None:
            task = asyncio.create_task(self._fetch(tenant, basis), name="read members")
            self._reading[place] = task
            task.add_done_callback(lambda _: self._reading.pop(place, None))
            task.add_done_callback(heard)
        return await asyncio.shield(task)

    async def _fetch(self, tenant: str, basis: str) -> Mapping[str, MemberSum]:
        began_s, key = self._clock(), member_sums_key(tenant, basis)
        fields: dict[bytes, bytes] = await self._wire.run("read_members", lambda: self._wire.command("HGETALL", key))
        before = self._read.get((tenant, basis))
        if before is not None and before[2] == fields:
            found = before[1]  # the same object, so that nobody computes anew what has not changed
        else:
            found = {member.decode("utf-8"): MemberSum.unpack(packed) for member, packed in fields.items()}
        for stale in [place for place, (read_s, *_) in self._read.items() if began_s - read_s >= FRESH_S]:
            del self._read[stale]
        self._read[tenant, basis] = began_s, found, fields
        return found

    async def add(
        self, tenant: str, basis: str, member: str, vector: Vector, count: float, observed_s: float, event_id: str | None
    ) -> bool:
        """See `Store.add_member`."""
        if not 1 <= len(member) <= MAX_MEMBER_CHARS:
            raise ValueError(f"a member's name has {len(member)} characters; 1 to {MAX_MEMBER_CHARS} are allowed")
        if vector.ndim != 1 or not 1 <= vector.size <= 2 * MAX_EVIDENCE_DOUBLES or not bool(np.isfinite(vector).all()):
            raise ValueError(f"a member's vector must be 1 to {2 * MAX_EVIDENCE_DOUBLES} finite numbers; its shape is {vector.shape}")
        if not -(2**53) < count < 2**53:
            raise ValueError(f"count is {count}; its size must be below 2**53")
        packed = struct.pack("<2d", float(count), float(month_of(observed_s))) + np.ascontiguousarray(vector, dtype="<f8").tobytes()
        event = "" if event_id is None else checked_event_id(event_id)
        keys = [member_sums_key(tenant, basis), member_events_key(tenant, checked_name("basis", basis))]
        arguments = [member, packed, self._ttl_ms, event, secrets.token_bytes(8), WINDOW]
        outcome, *rest = await self._writes.write("add_member", lambda: self._wire.script(ADD_MEMBER, keys, arguments))
        if outcome == b"shape":
            raise ValueError(f"the sum of member {member!r} under basis {basis} holds {rest[0]} numbers, the vector {vector.size}")
        self._read.pop((tenant, basis), None)  # what a process added it sees
        return bool(outcome == b"applied")
