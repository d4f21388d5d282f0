"""The store on a real server that the tests of this folder share, with a way to let time pass."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from attune.service.state.store import Exported, Limits, NewComparison, Store, UserKey, UserSum, user_tag
from tests.state.servers import BINARY, embedded_in_a_thread

BASIS = "basis-1"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real server that the tests of this folder share; each test has a tenant of its own."""
    with embedded_in_a_thread(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def raw(server: EmbeddedRedis) -> AsyncIterator[Redis]:
    """A plain client of the shared server, to look at what the store wrote."""
    client = Redis.from_url(server.url, protocol=2)
    yield client
    await client.aclose()


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A server of this test alone, that it may stop, kill and flush."""
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
        yield server


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test uses."""
    return "t" + secrets.token_hex(6)


@pytest.fixture
def user(tenant: str) -> Callable[[str], UserKey]:
    """Makes keys of users of this test's tenant."""
    return lambda name: key_of(tenant, name)


@pytest.fixture
def alice(tenant: str) -> UserKey:
    return key_of(tenant, "alice")


@pytest.fixture
def bob(tenant: str) -> UserKey:
    return key_of(tenant, "bob")


def key_of(tenant: str, name: str) -> UserKey:
    return UserKey(tenant, user_tag(b"a secret of the tests", tenant, name))


def comparison(
    event_id: str = "event-1",
    evidence: object = (1.0, -2.0, 0.5),
    *,
    basis: str = BASIS,
    epoch: int = 0,
    observed_s: float = 1_000.0,
    body: bytes = b"",
    payload: bytes = b"",
) -> NewComparison:
    digest = (body + b"\0" * 16)[:16]
    return NewComparison(event_id, digest, basis, epoch, observed_s, np.array(evidence, dtype=np.float64), payload)


def same(left: UserSum | None, right: UserSum | None) -> bool:
    """Whether two sums agree to the last bit."""
    if left is None or right is None:
        return left is right
    return left.pack() == right.pack()


async def exported(store: Store, key: UserKey) -> list[Exported]:
    return [each async for each in store.export(key)]


@dataclass
class Bench:
    """A store under test; others with limits of their own, sharing what is kept; and time at will."""

    store: RedisStore
    pass_time: Callable[[float], Awaitable[None]]
    limited: Callable[[Limits], RedisStore]


@pytest.fixture
async def bench(server: EmbeddedRedis, tenant: str) -> AsyncIterator[Bench]:
    """The store on a real server."""
    opened: list[RedisStore] = []

    def limited(limits: Limits) -> RedisStore:
        opened.append(RedisStore(server.url, limits=limits))
        return opened[-1]

    async def pass_time(seconds: float) -> None:
        await age(server.url, tenant, seconds)

    yield Bench(limited(Limits()), pass_time, limited)
    for store in opened:
        await store.aclose()


@pytest.fixture
def store(bench: Bench) -> RedisStore:
    return bench.store


async def age(url: str, tenant: str, seconds: float) -> None:
    """Lets `seconds` pass for the keys of a tenant: every time to live shrinks, every stored time of expiry comes nearer."""
    async with Redis.from_url(url, protocol=2) as client:
        async for key in client.scan_iter(match=f"{{t:{tenant}:*"):
            if await client.type(key) == b"zset":
                for member in await client.zrange(key, 0, -1):
                    await client.zincrby(key, -1000 * seconds, member)
            left_ms = await client.pttl(key)
            assert left_ms > 0, f"{key!r} has no time to live"
            await client.pexpire(key, round(left_ms - 1000 * seconds))
