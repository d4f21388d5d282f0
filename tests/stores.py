"""A real store for any test: one server for the whole session, started when first asked for, and an empty database of it for each store."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import itertools
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import redis

from attune.service.state.merging import Merged
from attune.service.state.records import NewComparison
from attune.service.state.redis_store import RedisStore
from attune.service.state.store import Added, Deleted, UserKey
from tests.state.servers import raw_server

T = TypeVar("T")

DATABASES = 10_000
_numbers = itertools.count()


class FreshStore(RedisStore):
    """A store with a database of its own, which waits long enough for a machine that does other things.

    Attributes:
        url: of the database, for a plain client.
    """

    def __init__(self, **options: Any) -> None:
        self.url = f"unix://{_socket()}?db={next(_numbers)}"
        super().__init__(self.url, **{"timeout_s": 30.0} | options)

    def pass_time(self, seconds: float) -> None:
        """Lets `seconds` pass for every key: times to live shrink, and stored times of expiry come nearer."""
        with redis.Redis.from_url(self.url, protocol=2) as client:
            for key in list(client.scan_iter(count=1000)):
                if client.type(key) == b"zset":
                    for member in client.zrange(key, 0, -1):
                        client.zincrby(key, -1000 * seconds, member)
                left_ms = client.pttl(key)
                assert left_ms > 0, f"{key!r} has no time to live"
                client.pexpire(key, round(left_ms - 1000 * seconds))


class HeldStore(FreshStore):
    """A store in which what changes a user waits at a gate, so that a caller can leave meanwhile.

    Attributes:
        gate: closed at first.
        reached: set by what waits at it.
        changed: set by what has been done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.reached, self.changed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def add_comparison(self, key: UserKey, comparison: NewComparison, *, era: bytes | None = None) -> Added:
        return await self._held(super().add_comparison(key, comparison, era=era))

    async def delete_user(self, key: UserKey) -> Deleted:
        return await self._held(super().delete_user(key))

    async def merge_users(self, source: UserKey, target: UserKey, event_id: str) -> Merged:
        return await self._held(super().merge_users(source, target, event_id))

    async def _held(self, change: Coroutine[Any, Any, T]) -> T:
        if not self.gate.is_set():
            self.reached.set()
        await self.gate.wait()
        done = await change
        self.changed.set()
        return done


@functools.cache
def _socket() -> Path:
    """Returns where the session's server listens; it ends with the process."""
    parts = contextlib.ExitStack()
    atexit.register(parts.close)
    folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="attune-tests-")))
    place = folder / "redis.sock"
    parts.enter_context(raw_server(folder, "--port", "0", "--unixsocket", str(place), "--databases", str(DATABASES)))
    return place
