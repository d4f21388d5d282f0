"""A server that became a replica behind a name that leads to another one by now, as after a failover of a managed Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from attune.service.errors import StoreUnavailable
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.one_connection import OneConnection
from attune.service.state.redis_store import RedisStore
from attune.service.state.store import UserKey
from tests.state.conftest import BASIS, comparison
from tests.state.servers import BINARY


class NamedServers:
    """Two servers, and a name that leads to the first until it is told otherwise."""

    def __init__(self, name: Path, first: EmbeddedRedis, second: EmbeddedRedis) -> None:
        self._name, self._first, self._second = name, first, second
        name.symlink_to(first.url.removeprefix("unix://"))

    @property
    def url(self) -> str:
        return f"unix://{self._name}"

    def lead_on(self) -> None:
        self._name.unlink()
        self._name.symlink_to(self._second.url.removeprefix("unix://"))

    async def demote(self, *, serves_stale: bool = True) -> None:
        """Makes the first a replica, of nobody that answers; connections to it stay."""
        async with Redis.from_url(self._first.url, protocol=2) as raw:
            await raw.config_set("replica-serve-stale-data", "yes" if serves_stale else "no")
            await raw.replicaof("127.0.0.1", 1)


@pytest.fixture
async def named(own_server: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[NamedServers]:
    async with EmbeddedRedis(tmp_path / "second", binary=BINARY) as second:
        yield NamedServers(tmp_path / "named", own_server, second)


async def test_a_failover_behind_a_name_costs_nobody_a_request(named: NamedServers, alice: UserKey) -> None:
    store = RedisStore(named.url)
    await store.add_comparison(alice, comparison("one"))
    named.lead_on()
    await named.demote()
    assert (await store.add_comparison(alice, comparison("two"))).result == "applied"
    assert await store.find_event(alice, "two") is not None
    assert await store.find_event(alice, "one") is None  # of the first server, which nobody asks any more
    await store.aclose()


async def test_a_replica_that_answers_nothing_is_left_by_those_who_read_too(named: NamedServers, alice: UserKey) -> None:
    store = RedisStore(named.url)
    await store.add_comparison(alice, comparison("one"))
    await named.demote(serves_stale=False)
    with pytest.raises(StoreUnavailable, match=r"(?i)masterdown"):
        await store.read(alice, BASIS)
    named.lead_on()
    assert (await store.read(alice, BASIS)).sum is None
    assert (await store.add_comparison(alice, comparison("two"))).result == "applied"
    await store.aclose()


async def test_a_server_that_loads_its_data_is_left_for_the_one_that_its_name_leads_to() -> None:
    async def loads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)
        while data := await reader.read(65_536):
            writer.write(b"+OK\r\n" * data.count(b"SETINFO"))
            if b"GET" in data:
                writer.write(b"-LOADING Redis is loading the dataset in memory\r\n" if len(served) == 1 else b"$5\r\nvalue\r\n")
        writer.close()

    served: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(loads, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        pool = ConnectionPool(host="127.0.0.1", port=port, protocol=2, socket_timeout=None)
        client = OneConnection(pool, 30.0)
        with pytest.raises(RedisConnectionError, match=r"(?i)loading"):
            await client.execute_command("GET", "key")
        assert await client.execute_command("GET", "key") == b"value"
        await client.aclose()


async def test_a_store_that_stays_a_replica_refuses_writes_and_is_read_all_the_same(named: NamedServers, alice: UserKey) -> None:
    store = RedisStore(named.url)
    await store.add_comparison(alice, comparison("one"))
    await named.demote()
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="ConnectionError READONLY"):
            await store.add_comparison(alice, comparison("two"))
        kept = (await store.read(alice, BASIS)).sum
        assert kept is not None
        assert kept.count == 1
    await store.aclose()


async def test_those_behind_a_write_that_is_refused_are_answered_where_they_asked(named: NamedServers) -> None:
    client = OneConnection(ConnectionPool.from_url(named.url, protocol=2, socket_timeout=None), 30.0)
    await client.execute_command("SET", "key", "first")
    named.lead_on()
    await named.demote()
    write, read = client.execute_command("SET", "key", "second"), client.execute_command("GET", "key")
    with pytest.raises(RedisConnectionError, match="READONLY"):
        await write
    assert await read == b"first"
    assert await client.execute_command("SET", "key", "second")
    assert await client.execute_command("GET", "key") == b"second"
    await client.aclose()
