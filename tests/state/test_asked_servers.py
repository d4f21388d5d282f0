"""Servers by URL are asked after every write as well: what a full disk did not take is told, and who does not answer is not asked again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from attune.service.errors import StoreUnavailable
from attune.service.state.durable import Durable
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from tests.state.conftest import BASIS, comparison, key_of
from tests.state.servers import raw_server
from tests.state.test_full_disk import ALICE, add, fill, small_disk

__all__ = ["small_disk"]


@pytest.mark.slow
@pytest.mark.parametrize("fsync", ["everysec", "no"])
async def test_what_a_full_disk_of_another_server_did_not_take_is_not_acknowledged(small_disk: Path, fsync: str) -> None:
    place = small_disk / "redis.sock"
    settings = ("--port", "0", "--unixsocket", str(place), "--appendonly", "yes", "--appendfsync", fsync)
    acknowledged: list[str] = []
    for leave in (4_096, 6_000, 9_000, 20_480):  # the write that meets the end is another one each time
        with raw_server(small_disk, *settings) as process:
            store = RedisStore(f"unix://{place}", confirm=True, must_tell=False)
            acknowledged += [name for name in [f"before-{leave}-{n}" for n in range(5)] if await add(store, name)]
            filler = fill(small_disk, leave=leave)
            sent = [(name, await add(store, name)) for name in [f"full-{leave}-{n}" for n in range(20)]]
            acknowledged += [name for name, taken in sent if taken]
            assert not sent[-1][1]
            assert store.writes is not None
            assert not store.writes.ok
            process.kill()
            process.wait()
            filler.unlink()
            await store.aclose()
    with raw_server(small_disk, *settings):
        store = RedisStore(f"unix://{place}")
        assert [name for name in acknowledged if await store.find_event(ALICE, name) is None] == []
        held = (await store.read(ALICE, BASIS)).sum
        assert held is not None
        assert held.count >= len(acknowledged) >= 20
        await store.aclose()


async def test_a_server_that_may_not_be_asked_is_asked_for_its_first_write_alone(own_server: EmbeddedRedis) -> None:
    asked: list[str] = []
    async with Redis.from_url(own_server.url, protocol=2) as raw:
        await raw.acl_setuser("narrow", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"], commands=["-info"])
    url = own_server.url.replace("unix://", "unix://narrow:secret@")
    store = RedisStore(url, confirm=True, must_tell=False, observe=lambda name, _, ok: asked.append(f"{name} {ok}"))
    for number in range(3):
        assert (await store.add_comparison(key_of("acme", "bob"), comparison(f"event-{number}"))).result == "applied"
    assert asked.count("confirm True") == 2  # before the first write and after it
    assert asked.count("add_comparison True") == 3
    await store.aclose()


class Answering:
    """A wire on which every write is made, and the question is answered from a list."""

    where = "here"

    def __init__(self, *told: list[bytes]) -> None:
        self.told, self.asked = list(told), 0

    async def run(self, operation: str, work: Callable[[], Awaitable[Any]]) -> Any:
        return await work()

    run_here = run

    async def script(self, *_: Any) -> list[bytes]:
        self.asked += 1
        return self.told.pop(0)


async def made(writes: Durable, times: list[int]) -> str:
    async def work() -> str:
        times.append(len(times))
        return f"made {len(times)}"

    return await writes.write("write", work)


async def test_several_processes_behind_one_address_are_not_asked_any_more() -> None:
    wire, times = Answering(*([bytes([number]), b"ok"] for number in range(9))), list[int]()
    writes = Durable(wire, ask=True, must_tell=False)  # type: ignore[arg-type]
    assert await made(writes, times) == "made 3"
    asked = wire.asked
    assert await made(writes, times) == "made 4"
    assert wire.asked == asked
    assert writes.health is not None
    assert writes.health.ok


async def test_our_own_server_must_tell() -> None:
    restarting = Durable(Answering(*([bytes([number]), b"ok"] for number in range(9))), ask=True)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="was started again"):
        await made(restarting, [])
    silent = Durable(Answering([b"a", b"ok"], [b"a", b"untold"]), ask=True)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="could not write its file"):
        await made(silent, [])


@pytest.mark.parametrize("must_tell", [True, False])
async def test_a_write_that_failed_is_told_and_the_next_one_is_asked_about_anew(must_tell: bool) -> None:
    wire = Answering([b"a", b"ok"], [b"a", b"err"], [b"a", b"ok"])
    writes, times = Durable(wire, ask=True, must_tell=must_tell), list[int]()  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match="could not write its file"):
        await made(writes, times)
    assert await made(writes, times) == "made 2"
    assert wire.asked == 3
