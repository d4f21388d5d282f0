"""What is acknowledged is in the kernel, with a full disk and over kills; and whether writes work is known without asking users."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog
from redis.asyncio import Redis

from attune.service.errors import EventConflict, StoreUnavailable, UnknownDecision, UserDeleted
from attune.service.observe.metrics import Metrics
from attune.service.parts import open_store
from attune.service.settings import Settings
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from tests.state.conftest import BASIS, comparison, key_of
from tests.state.servers import BINARY

ALICE = key_of("acme", "alice")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes that really ends."""
    place, mount, umount = tmp_path / "small", shutil.which("mount"), shutil.which("umount")
    place.mkdir()
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run([umount, "-l", str(place)], check=True)


def fill(place: Path, *, leave: int) -> Path:
    """Takes all room but `leave` bytes; returns the file to remove."""
    filler = place / "filler"
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    with filler.open("wb") as file:
        file.write(b"\0" * (free - leave))
    return filler


async def add(store: RedisStore, event_id: str) -> bool:
    """Returns whether a comparison was acknowledged."""
    try:
        return (await store.add_comparison(ALICE, comparison(event_id, [0.1] * 50, payload=os.urandom(1500)))).result == "applied"
    except StoreUnavailable:
        return False


async def taken(store: RedisStore, names: list[str]) -> list[str]:
    """Returns the comparisons that were acknowledged, once writes work again."""
    async with asyncio.timeout(120):
        while True:
            try:
                await store.check_writes()
                break
            except StoreUnavailable:
                await asyncio.sleep(0.1)
    return [name for name in names if await add(store, name)]


@pytest.mark.slow
async def test_nothing_is_acknowledged_that_a_full_disk_did_not_take(small_disk: Path) -> None:
    acknowledged: list[str] = []
    async with EmbeddedRedis(small_disk, binary=BINARY, least_free_bytes=0) as server:
        store = RedisStore(server.url, confirm=True)
        acknowledged += [name for name in [f"before-{n}" for n in range(5)] if await add(store, name)]
        assert len(acknowledged) == 5
        filler = fill(small_disk, leave=20_480)
        refused = 0
        for killed in range(3):
            names = [f"full-{killed}-{n}" for n in range(12)]
            sent = [await add(store, name) for name in names]
            acknowledged += [name for name, taken in zip(names, sent, strict=True) if taken]
            refused += sent.count(False)
            await asyncio.wait_for(server.up(), 60)  # it begins anew by itself after a write that failed
            if (pid := server.pid) is not None:  # else it is beginning anew just now, which is as good as a kill
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(server.up(other_than=pid), 60)
        assert refused > 12
        assert store.writes is not None
        assert not store.writes.ok
        filler.unlink()
        acknowledged += await taken(store, [f"after-{n}" for n in range(40)])
        assert store.writes.ok
        await store.aclose()
    async with EmbeddedRedis(small_disk, binary=BINARY) as server:
        store = RedisStore(server.url)
        lost = [name for name in acknowledged if await store.find_event(ALICE, name) is None]
        held = (await store.read(ALICE, BASIS)).sum
        await store.aclose()
    assert lost == []
    assert held is not None
    assert held.count >= len(acknowledged) > 5


async def test_a_disk_that_is_nearly_full_refuses_before_it_is(small_disk: Path) -> None:
    fill(small_disk, leave=400_000)
    with structlog.testing.capture_logs() as logs:
        async with EmbeddedRedis(small_disk, binary=BINARY) as server:
            store = RedisStore(server.url, confirm=True, no_room=server.no_room)
            with pytest.raises(StoreUnavailable, match=r"no room: \d+ KiB are free .* at least 1,024 KiB are needed"):
                await store.add_comparison(ALICE, comparison())
            assert (await store.read(ALICE, BASIS)).sum is None  # reading goes on
            await store.aclose()
    assert [each["log_level"] for each in logs if each["event"] == "embedded_redis_no_room"] == ["error"]


async def test_a_process_beside_the_one_that_runs_the_store_refuses_too(small_disk: Path, tmp_path: Path) -> None:
    fill(small_disk, leave=400_000)
    async with EmbeddedRedis(small_disk, binary=BINARY) as server, AsyncExitStack() as parts:
        worker = Settings(data_dir=small_disk, redis_url=server.url)
        store, where = await open_store(worker, Metrics(), parts)
        assert where == "embedded"
        with pytest.raises(StoreUnavailable, match=f"KiB are free where {re.escape(str(small_disk))} lies"):
            await store.add_comparison(ALICE, comparison())
        assert (await store.read(ALICE, BASIS)).sum is None

        stranger = Settings(data_dir=tmp_path / "own", redis_url=server.url)  # whose disk it is, this one cannot know
        store, where = await open_store(stranger, Metrics(), parts)
        assert where == "external"
        assert (await store.add_comparison(ALICE, comparison())).result == "applied"


async def test_concurrent_writes_share_the_question(own_server: EmbeddedRedis) -> None:
    store = RedisStore(own_server.url, confirm=True)
    await store.add_comparison(ALICE, comparison("first"))
    async with Redis.from_url(own_server.url, protocol=2) as raw:
        await raw.config_resetstat()
        await asyncio.gather(*(store.add_comparison(ALICE, comparison(f"event-{n}")) for n in range(30)))
        asked = (await raw.info("commandstats"))["cmdstat_info"]["calls"] / 2
    assert 1 <= asked < 30
    await store.aclose()


@pytest.mark.slow
async def test_a_write_around_a_restart_is_acknowledged_once_it_is_certain(own_server: EmbeddedRedis) -> None:
    store = RedisStore(own_server.url, confirm=True)
    for number in range(3):
        assert (await store.add_comparison(ALICE, comparison(f"event-{number}", [1.0]))).result == "applied"
        pid = own_server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(own_server.up(other_than=pid), 20)
    assert (await store.add_comparison(ALICE, comparison("last", [1.0]))).result == "applied"
    held = (await store.read(ALICE, BASIS)).sum
    assert held is not None
    assert (held.count, held.evidence.tolist()) == (4, [4.0])
    await store.aclose()


async def test_every_kind_of_write_that_was_acknowledged_is_there_after_a_kill(own_server: EmbeddedRedis) -> None:
    store, (anonymous, known, gone) = (
        RedisStore(own_server.url, confirm=True),
        [key_of("acme", name) for name in ("anonymous", "known", "gone")],
    )
    for key, event in ((ALICE, "kept"), (ALICE, "taken back"), (anonymous, "moved"), (gone, "deleted")):
        assert (await store.add_comparison(key, comparison(event, [1.0]))).result == "applied"
    await store.take_back(ALICE, BASIS, "taken back")
    assert await store.write_decision(ALICE, "decision", b"record", 3600.0)
    assert (await store.merge_users(anonymous, known, "login")).comparisons == 1
    await store.delete_user(gone)
    pid = own_server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(own_server.up(other_than=pid), 120)
    counts = {key: held and held.count for key in (ALICE, anonymous, known, gone) for held in [(await store.read(key, BASIS)).sum]}
    assert counts == {ALICE: 1, anonymous: None, known: 1, gone: None}
    with pytest.raises(EventConflict, match="taken back"):
        await store.add_comparison(ALICE, comparison("taken back", [1.0]))
    with pytest.raises(UserDeleted):
        await store.add_comparison(gone, comparison("deleted", [1.0]))
    assert (await store.add_comparison(anonymous, comparison("moved", [1.0]))).result == "duplicate"
    assert await store.read_decision(ALICE.tenant, "decision") == (ALICE.tag, b"record")
    await store.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["maxmemory", "read-only", "no scripts"])
async def test_a_store_that_reads_and_does_not_write_says_so(own_server: EmbeddedRedis, trouble: str) -> None:
    store = RedisStore(own_server.url)
    assert store.writes is None
    await store.check_writes()
    assert store.writes is not None
    assert store.writes.ok
    async with Redis.from_url(own_server.url, protocol=2) as raw:
        if trouble == "maxmemory":
            await raw.config_set("maxmemory", 1)
        elif trouble == "read-only":
            await raw.config_set("min-replicas-to-write", 1)
        else:
            await raw.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"], commands=["-eval", "-evalsha"])
    await store.ping()
    await store.read(ALICE, BASIS)
    with pytest.raises(StoreUnavailable, match="did not answer check_writes"):
        await store.check_writes()
    assert not store.writes.ok
    assert store.writes.reason.startswith("Redis at")
    assert 0 <= store.writes.age_s < 60
    await store.aclose()


async def test_a_decision_is_answered_without_asking_the_server_about_its_file(own_server: EmbeddedRedis) -> None:
    asked: list[str] = []
    store = RedisStore(own_server.url, confirm=True, observe=lambda name, *_: asked.append(name))
    assert await store.write_decision(ALICE, "decision", b"record", 3600.0)
    assert asked == ["write_decision"]
    assert (await store.add_comparison(ALICE, comparison())).result == "applied"
    assert asked.count("confirm") == 2
    await store.aclose()


async def test_answers_that_are_handed_in_and_decisions_that_are_moved_wait_for_the_server_to_say_that_its_file_has_them(
    own_server: EmbeddedRedis,
) -> None:
    asked: list[str] = []
    store = RedisStore(own_server.url, confirm=True, observe=lambda name, *_: asked.append(name))
    bob = key_of("acme", "bob")
    await store.write_decision(ALICE, "decision", b"record", 3600.0)
    assert await store.write_decision(ALICE, "decision", b"with answers", 3600.0, instead_of=b"record")
    assert asked[-1] == "confirm"
    asked.clear()
    assert (await store.merge_users(ALICE, bob, "merging")).decisions == 1
    assert asked[asked.index("write_decision") + 1] == "confirm"
    assert await store.read_decision("acme", "decision") == (bob.tag, b"with answers")
    await store.aclose()


@pytest.mark.slow
async def test_a_full_disk_takes_one_decision_at_most_before_the_others_are_refused(small_disk: Path) -> None:
    async def kept(number: int) -> bool:
        try:
            return await store.write_decision(ALICE, f"decision-{number}", os.urandom(1000), 3600.0)
        except StoreUnavailable:
            return False

    async with EmbeddedRedis(small_disk, binary=BINARY, least_free_bytes=0) as server:
        store = RedisStore(server.url, confirm=True)
        filler = fill(small_disk, leave=20_480)
        answered = [number for number in range(40) if await kept(number)]
        assert 5 <= len(answered) < 40
        filler.unlink()
        await taken(store, [])
        lost = 0
        for number in answered:
            try:
                await store.read_decision(ALICE.tenant, f"decision-{number}")
            except UnknownDecision:
                lost += 1
        await store.aclose()
    assert lost <= 1
