"""A store's file with holes of zeros, as a full disk leaves it, is read again to the last byte; other damage is left alone and told."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from attune.service.state.embedded import EmbeddedRedis, EmbeddedRedisError
from attune.service.state.file_holes import fill_holes
from attune.service.state.redis_store import RedisStore
from tests.state.conftest import BASIS, comparison, key_of
from tests.state.servers import BINARY
from tests.state.test_full_disk import add, fill, small_disk, taken

__all__ = ["small_disk"]

ALICE = key_of("acme", "alice")
BEGIN = b"*1\r\n$5\r\nMULTI\r\n"
SIZES = (1, 2, 3, 63, 64, 65, 66, 127, 128, 129, 130, 8192)


async def written(folder: Path, count: int) -> Path:
    """Returns the file of a server that took so many comparisons and ended."""
    async with EmbeddedRedis(folder, binary=BINARY) as server:
        store = RedisStore(server.url)
        for number in range(count):
            await store.add_comparison(ALICE, comparison(f"event-{number}", [1.0], payload=b"*3\r\n\0\0$1" * 20))
        await store.aclose()
    (file,) = (folder / "redis" / "appendonlydir").glob("*.incr.aof")
    return file


async def count_in(folder: Path) -> int:
    async with EmbeddedRedis(folder, binary=BINARY) as server:
        store = RedisStore(server.url)
        held = (await store.read(ALICE, BASIS)).sum
        await store.aclose()
    assert held is not None
    return held.count


async def test_a_file_with_holes_of_any_size_is_read_whole(tmp_path: Path) -> None:
    file = await written(tmp_path, len(SIZES) + 2)
    head, *events = file.read_bytes().split(BEGIN)
    assert len(events) == len(SIZES) + 2
    assert head == b""
    parts = [BEGIN + event for event in events]
    holed = b"".join(b"\0" * size + part for size, part in zip((0, *SIZES, 0), parts, strict=True)) + b"\0" * 500
    file.write_bytes(holed)
    assert await count_in(tmp_path) == len(SIZES) + 2
    assert len(file.read_bytes()) >= len(holed) - 500
    assert fill_holes(tmp_path / "redis") == 0  # nothing is left to do, and comments are none


async def test_a_command_that_a_kill_cut_off_behind_a_hole_costs_that_command_alone(tmp_path: Path) -> None:
    file = await written(tmp_path, 4)
    _, *events = file.read_bytes().split(BEGIN)
    parts = [BEGIN + event for event in events]
    file.write_bytes(parts[0] + parts[1] + b"\0" * 300 + parts[2] + parts[3][:-40])
    assert await count_in(tmp_path) == 3


async def test_other_damage_is_left_alone_and_told(tmp_path: Path) -> None:
    file = await written(tmp_path, 3)
    _, *events = file.read_bytes().split(BEGIN)
    parts = [BEGIN + event for event in events]
    damaged = parts[0] + b"\0" * 300 + parts[1] + b"what is this\r\n" + parts[2]
    file.write_bytes(damaged)
    with pytest.raises(EmbeddedRedisError, match=r"(?i)bad file format"):
        await count_in(tmp_path)
    assert file.read_bytes() == damaged


@pytest.mark.slow
async def test_what_is_acknowledged_between_full_disks_is_there_though_the_file_was_rewritten_before(small_disk: Path) -> None:
    acknowledged: list[str] = []
    async with EmbeddedRedis(small_disk, binary=BINARY, least_free_bytes=0) as server:
        store = RedisStore(server.url, confirm=True)
        acknowledged += await taken(store, [f"before-{n}" for n in range(5)])
        async with Redis(unix_socket_path=server.url.removeprefix("unix://"), protocol=2) as raw, asyncio.timeout(60):
            await raw.bgrewriteaof()
            while (await raw.info("persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110  another process
                await asyncio.sleep(0.05)
        for leave in (4_096, 9_000, 20_480):  # the write that meets the end is another one each time
            filler = fill(small_disk, leave=leave)
            sent = [(name, await add(store, name)) for name in [f"full-{leave}-{n}" for n in range(20)]]
            assert not sent[-1][1]
            filler.unlink()
            acknowledged += [name for name, was in sent if was] + await taken(store, [f"after-{leave}-{n}" for n in range(6)])
        assert len(acknowledged) >= 5 + 3 * 6
        await server.up()
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(server.up(other_than=pid), 60)
        assert [name for name in acknowledged if await store.find_event(ALICE, name) is None] == []
        held = (await store.read(ALICE, BASIS)).sum
        assert held is not None
        assert held.count >= len(acknowledged)
        await store.aclose()
