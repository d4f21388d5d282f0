"""The memory of the store, as a real server tells it, and where it does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from redis.asyncio import Redis

from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from tests.state.servers import raw_server
from tests.state.test_topologies import free_ports

MEGABYTES = 8 * 2**20


async def until_written(server: EmbeddedRedis) -> None:
    """Returns when the server has written the file that it was told to keep: before, it hears no signal to end, and is killed at last."""
    async with Redis.from_url(server.url, protocol=2) as raw, asyncio.timeout(60.0):
        while True:
            told = await raw.info("persistence")
            if not (told["aof_rewrite_in_progress"] or told["aof_rewrite_scheduled"]):
                return
            await asyncio.sleep(0.01)


async def test_the_memory_of_a_store_grows_by_what_is_written_and_has_a_limit_where_one_is_set(
    own_server: EmbeddedRedis,
) -> None:
    store = RedisStore(own_server.url, timeout_s=30.0)
    async with Redis.from_url(own_server.url, protocol=2) as raw:
        before = await store.memory()
        assert before is not None
        assert before.limit_bytes is None
        await raw.set("filling", bytes(MEGABYTES))
        await raw.config_set("maxmemory", 2**34)
        after = await store.memory()
        assert after is not None
        assert after.limit_bytes == 2**34
        # Buffers of connections and of the log of writes come and go, and a string has room to spare.
        assert 0.75 * MEGABYTES < after.used_bytes - before.used_bytes < 4 * MEGABYTES
    await store.aclose()


async def test_a_server_that_may_not_be_asked_tells_nothing_and_is_no_failure(own_server: EmbeddedRedis) -> None:
    observed: list[tuple[str, bool]] = []
    async with Redis.from_url(own_server.url, protocol=2) as raw:
        await raw.acl_setuser("narrow", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-info"])
    url = own_server.url.replace("unix://", "unix://narrow:none@", 1)
    narrow = RedisStore(url, timeout_s=30.0, observe=lambda name, _, ok: observed.append((name, ok)))
    await narrow.check_writes()
    assert await narrow.memory() is None
    assert [ok for _, ok in observed] == [True, True]
    await narrow.aclose()


async def test_a_store_that_removes_users_or_keeps_no_file_says_so(own_server: EmbeddedRedis) -> None:
    async def doubts(store: RedisStore, **settings: object) -> tuple[str, ...]:
        async with Redis.from_url(own_server.url, protocol=2) as raw:
            for name, value in settings.items():
                await raw.config_set(name.replace("_", "-"), value)
        found = await store.memory()
        assert found is not None
        return found.doubts

    store = RedisStore(own_server.url, timeout_s=30.0)
    assert await doubts(store) == ()
    assert await doubts(store, maxmemory_policy="allkeys-lru") == ()  # without a limit nothing is removed
    (removes,) = await doubts(store, maxmemory=2**34)
    assert "removes users when it is full (maxmemory-policy allkeys-lru" in removes
    assert len(await doubts(store, appendonly="no")) == 2
    (keeps,) = await doubts(store, maxmemory_policy="noeviction")
    assert "keeps no append-only file" in keeps
    assert await doubts(store, appendonly="yes") == ()
    await store.aclose()
    await until_written(own_server)


async def test_a_store_with_replicas_that_it_writes_without_says_so(tmp_path: Path) -> None:
    first, second = free_ports(2)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with raw_server(tmp_path / "first", "--port", str(first), "--appendonly", "yes", "--repl-diskless-sync-delay", "0"):
        store = RedisStore(f"redis://127.0.0.1:{first}", timeout_s=30.0)
        alone = await store.memory()
        with raw_server(tmp_path / "second", "--port", str(second), "--replicaof", f"127.0.0.1 {first}"):
            async with Redis(port=first, protocol=2) as raw:
                await raw.set("key", "value")
                assert await raw.wait(1, 60_000) == 1
                copied = await store.memory()
                await raw.config_set("min-replicas-to-write", 1)
                held = await store.memory()
        await store.aclose()
    assert alone is not None
    assert copied is not None
    assert held is not None
    assert (alone.doubts, held.doubts) == ((), ())
    assert ["min-replicas-to-write 1" in doubt for doubt in copied.doubts] == [True]
