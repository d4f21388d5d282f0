"""Who is kept: users of a tenant in pages, found by SCAN, which holds nobody up.

    SCAN (some keys a step) ──> users ──> one read of their sums ──> tag, comparisons, first and last seen

No page can be large, one may be empty, and a user may stand on two pages if keys come and go meanwhile. Ids are not kept, so only tags
can be given.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from attune.service.state.keys import UserKey, owner_of, user_pattern
from attune.service.state.replies import Replies
from attune.service.state.wire import Wire

KEYS_AT_ONCE = 256
STEPS_AT_ONCE = 64
MAX_LISTED = 1000
_CURSOR = re.compile(r"([0-9]{1,9}):([0-9]{1,20})")
_MAX_CURSOR = 2**64


@dataclass(frozen=True, slots=True)
class ListedUser:
    """One user under one basis; times are Unix seconds, None where nothing was learned under it."""

    tag: str
    comparisons: int
    first_seen_s: float | None
    last_seen_s: float | None


@dataclass(frozen=True, slots=True)
class ListedUsers:
    """Some users; `cursor` asks for the next ones, and is None after the last."""

    users: tuple[ListedUser, ...]
    cursor: str | None


def place_of(cursor: str) -> tuple[int, int]:
    """Returns the place that a cursor names: the number of a node, and a cursor of its SCAN.

    Raises:
        ValueError: it is not one that this store gave.
    """
    place = _CURSOR.fullmatch(cursor or "0:0")
    if place is None or int(place[2]) >= _MAX_CURSOR:
        raise ValueError(f"{cursor[:64]!r} is not a cursor of this store")
    return int(place[1]), int(place[2])


async def users_with_a_log(wire: Wire, tenant: str | None, cursor: str) -> tuple[tuple[UserKey, ...], str | None]:
    """See `Store.users`."""
    return await _step(wire, "log", tenant, place_of(cursor), KEYS_AT_ONCE)


async def list_users(wire: Wire, replies: Replies, tenant: str, basis: str, after: str, limit: int) -> ListedUsers:
    """See `Store.list_users`."""
    if not 1 <= limit <= MAX_LISTED:
        raise ValueError(f"limit is {limit}; it must be 1 to {MAX_LISTED}")
    found: dict[UserKey, None] = {}
    cursor: str | None = after
    place_of(after)
    for _ in range(STEPS_AT_ONCE):
        keys, cursor = await _step(wire, "events", tenant, place_of(cursor or ""), min(limit, KEYS_AT_ONCE))
        found.update(dict.fromkeys(keys))
        if cursor is None or len(found) >= limit:
            break
    names = [key.sum(basis) for key in found]
    if not names:
        records: list[bytes | None] = []
    elif wire.clustered:
        records = list(await asyncio.gather(*(_get(wire, name) for name in names)))
    else:
        records = await wire.run("list_users", lambda: wire.command("MGET", *names))
    listed = []
    for key, record in zip(found, records, strict=True):
        total = replies.sum(key, record)
        seen = (0, None, None) if total is None else (total.count, total.first_seen_s, total.last_seen_s)
        listed.append(ListedUser(key.tag, *seen))
    return ListedUsers(tuple(listed), cursor)


async def _get(wire: Wire, name: str) -> bytes | None:
    record: bytes | None = await wire.run("list_users", lambda: wire.command("GET", name))
    return record


async def _step(wire: Wire, kind: str, tenant: str | None, place: tuple[int, int], count: int) -> tuple[tuple[UserKey, ...], str | None]:
    names, following = await wire.run("users", lambda: wire.scan(user_pattern(tenant, kind), place, count))
    owners = dict.fromkeys(owner_of(name.decode("utf-8", "replace"), kind) for name in names)
    return tuple(owner for owner in owners if owner), None if following is None else f"{following[0]}:{following[1]}"
