"""Taking one comparison back: what it added is read and unpacked here, and subtracted by one script if it is still the same there.

    events, log entry, replays ──> vectors ──> script take_back ──> changed meanwhile? once more

Two round trips to read and one to write, for an operation that is rare; so the log may be packed as tightly as Python can.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from attune.service.errors import ExpiredEvent, StoreUnavailable, UnknownEvent
from attune.service.state.codec import TOKEN_BYTES, EventValue, PackedVector, event_digest, new_token, pack_event_id, unpack_vector
from attune.service.state.durable import Durable
from attune.service.state.export_pages import read_entry
from attune.service.state.keys import SUM, UserKey, seal_of
from attune.service.state.records import LoggedComparison, UserSum, is_event_id, packed_doubles
from attune.service.state.replies import Replies
from attune.service.state.scripts import TAKE_BACK
from attune.service.state.wire import Wire

_TRIES = 5


async def take_back(
    wire: Wire, writes: Durable, replies: Replies, key: UserKey, basis: str, event_id: str, ttl_ms: int, max_log: int
) -> UserSum | None:
    """See `Store.take_back`."""
    keys = [key.sum(basis), key.events, key.log]
    if not is_event_id(event_id):
        raise UnknownEvent(f"no comparison {event_id[:64]!r} is kept: that is not an event id")
    token = new_token(secrets.token_bytes(TOKEN_BYTES))
    for _ in range(_TRIES):
        found = await wire.run("take_back", lambda: _found(wire, replies, key, event_id, max_log))
        arguments = [seal_of(SUM, key), event_digest(event_id), token, key.sum_prefix, ttl_ms, key.replayed_prefix, *found]
        outcome, *rest = await writes.write("take_back", lambda: wire.script(TAKE_BACK, keys, arguments))  # noqa: B023 - awaited here
        match outcome:
            case b"taken":
                return replies.sum(key, rest[0] if rest else None)
            case b"unknown":
                raise UnknownEvent(f"no comparison with event {event_id!r} is kept for this user")
            case b"taken-back":
                raise UnknownEvent(f"the comparison with event {event_id!r} was taken back before")
            case b"changed":
                continue
        raise replies.refused(outcome, rest, basis, None)
    raise StoreUnavailable(f"the comparison with event {event_id!r} changed {_TRIES} times while it was taken back")


async def find_logged(wire: Wire, replies: Replies, key: UserKey, event_id: str, max_log: int, basis: str | None) -> LoggedComparison:
    """See `Store.logged`."""
    if not is_event_id(event_id):
        raise UnknownEvent(f"no comparison {event_id[:64]!r} is kept: that is not an event id")

    async def find() -> LoggedComparison:
        logged, _, bases, place = await _entry(wire, replies, key, event_id, max_log)
        if basis is None or basis == logged.basis or basis not in bases:
            return logged
        kept = await wire.command("HGET", key.replayed(basis), struct.pack("<I", place))
        if kept is None:
            return logged
        vector, payload = _unpacked(replies, kept)
        return replace(
            logged, basis=basis, epoch=vector.epoch, observed_s=vector.observed_s, evidence=np.asarray(vector.evidence), payload=payload
        )

    return await wire.run("find_logged", find)


async def _found(wire: Wire, replies: Replies, key: UserKey, event_id: str, max_log: int) -> list[Any]:
    """Returns the last arguments of the script: the entry, its mark, and for each basis what was added under it; raises as `_entry`."""
    logged, entry, bases, place = await _entry(wire, replies, key, event_id, max_log)
    added = packed_doubles(logged.epoch, logged.observed_s, logged.evidence)
    return [entry, pack_event_id(event_id), logged.basis, added, b"", *await _replayed(wire, replies, key, bases, place)]


async def _entry(
    wire: Wire, replies: Replies, key: UserKey, event_id: str, max_log: int
) -> tuple[LoggedComparison, bytes, Sequence[str], int]:
    """Returns a comparison of the log, its entry as it is stored, the names of the bases, and its number.

    Raises:
        UnknownEvent: there is no such event, or it was taken back.
        ExpiredEvent: its entry has left the log, or none was kept.
    """
    known, names, left = await wire.command("HMGET", key.events, event_digest(event_id), "\x02", "\x03")
    if known is None:
        if await wire.command("HEXISTS", key.moved, event_digest(event_id)):
            raise UnknownEvent(
                f"the comparison with event {event_id!r} went along when this user was merged; take it back from the user who is left"
            )
        raise UnknownEvent(f"no comparison with event {event_id!r} is kept for this user")
    event = EventValue.unpack(known)
    if event.taken_back:
        raise UnknownEvent(f"the comparison with event {event_id!r} was taken back before")
    number = event.number or 0
    index = number - int(left or 0) - 1
    entry = await wire.command("LINDEX", key.log, index) if index >= 0 else None
    bases = (names or b"").decode("ascii").split(",")
    with replies.translated():
        logged = None if entry is None else read_entry(key, bases, entry)
    if entry is None or not isinstance(logged, LoggedComparison) or logged.event_id != event_id:
        raise ExpiredEvent(
            f"the comparison with event {event_id!r} was learned and stays learned: of its {max_log} latest comparisons alone "
            "it is kept what they added"
        )
    return logged, entry, bases, number


async def _replayed(wire: Wire, replies: Replies, key: UserKey, bases: Sequence[str], place: int) -> list[Any]:
    found: list[Any] = []
    for basis in bases:
        kept = await wire.command("HGET", key.replayed(basis), struct.pack("<I", place))
        if kept is not None:
            vector, _ = _unpacked(replies, kept)
            found += [basis, packed_doubles(vector.epoch, vector.observed_s, np.asarray(vector.evidence)), kept]
    return found


def _unpacked(replies: Replies, kept: bytes) -> tuple[PackedVector, bytes]:
    """Returns what was replayed of a comparison, and the payload that was kept beside it."""
    with replies.translated():
        return unpack_vector(kept)
