"""A real store for any test: one server for the whole session, started when first asked for, and an empty database of it for each store."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any

import redis

from attune.service.state.redis_store import RedisStore
from tests.state.servers import raw_server

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


@functools.cache
def _socket() -> Path:
    """Returns where the session's server listens; it ends with the process."""
    parts = contextlib.ExitStack()
    atexit.register(parts.close)
    folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="attune-tests-")))
    place = folder / "redis.sock"
    parts.enter_context(raw_server(folder, "--port", "0", "--unixsocket", str(place), "--databases", str(DATABASES)))
    return place
