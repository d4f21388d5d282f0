"""The server that Attune brings along: it starts alone, survives what it must, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import structlog
import uvloop
from redis.asyncio import Redis

from attune.service.state.data_dir import Lock, prepare, socket_path, sync_files
from attune.service.state.embedded import DataDirInUse, EmbeddedRedis, EmbeddedRedisError
from attune.service.state.redis_store import RedisStore
from attune.service.state.server_process import Fsync, ServerProcess, arguments
from attune.service.state.store import LoggedComparison
from tests.batching.serving import until
from tests.log_lines import logged
from tests.state.conftest import BASIS, comparison, key_of
from tests.state.servers import BINARY

pytestmark = pytest.mark.slow  # every test starts a server of its own

ALICE = key_of("acme", "alice")

# Another Attune: starts the server, adds one comparison, says so, and waits to be killed.
OTHER_ATTUNE = """
import asyncio, sys
from pathlib import Path
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from tests.state.conftest import comparison, key_of

async def main():
    server = EmbeddedRedis(Path(sys.argv[1]), binary=Path(sys.argv[2]))
    await server.start()
    store = RedisStore(server.url)
    await store.add_comparison(key_of("acme", "alice"), comparison("of the other", [4.0]))
    print("added", server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def other_attune(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    """Returns a second Attune on this directory, and the process id of its server, once it has added a comparison."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_ATTUNE, str(data_dir), str(BINARY)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("added"):
            return process, int(line.split()[1])
    raise AssertionError(f"the other Attune ended with code {process.wait()}")


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


async def count(server: EmbeddedRedis) -> int:
    store = RedisStore(server.url)
    held = (await store.read(ALICE, BASIS)).sum
    await store.aclose()
    return 0 if held is None else held.count


async def add(server: EmbeddedRedis, event_id: str) -> None:
    store = RedisStore(server.url)
    await store.add_comparison(ALICE, comparison(event_id, [1.0]))
    await store.aclose()


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    for number in range(3):
        async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
            assert await count(server) == number
            await add(server, f"event-{number}")


async def test_a_killed_server_is_launched_again_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
        store = RedisStore(server.url)
        for number in range(3):
            await store.add_comparison(ALICE, comparison(f"event-{number}", [1.0]))
            killed = server.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await asyncio.wait_for(server.up(other_than=killed), 120)
            assert await count(server) == number + 1
        assert server.restarts == 3
        assert len([each async for each in store.export(ALICE) if isinstance(each, LoggedComparison)]) == 3
        await store.aclose()


async def test_closing_stops_the_server_and_frees_the_directory(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path, binary=BINARY)
    await server.start()
    pid = server.pid
    assert pid is not None
    await server.aclose()
    assert not running(pid)
    assert server.pid is None
    assert not socket_path(prepare(tmp_path)).exists()
    await server.aclose()  # twice does no harm


async def test_a_server_that_does_not_end_is_killed_and_told_in_one_line(tmp_path: Path) -> None:
    lock, socket = Lock(tmp_path / "server.lock"), tmp_path / "redis.sock"
    server = await ServerProcess.launch(BINARY, arguments(tmp_path, socket, "everysec"), socket=socket, lock_fd=lock.fd, timeout_s=60)
    os.kill(server.pid, signal.SIGSTOP)
    with logged("error") as lines:
        await server.stop(patience_s=0.1)
    assert not running(server.pid)
    assert [(line["event"], "exc_info" in line or "exception" in line) for line in lines()] == [("embedded_redis_killed", False)]
    lock.close()


async def test_closing_while_the_server_is_down_does_not_launch_it_again(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path, binary=BINARY)
    await server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await server.aclose()
    assert server.pid is None


async def test_two_attunes_cannot_share_a_directory_and_the_message_names_the_other(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
        await add(server, "event")
        with pytest.raises(DataDirInUse, match=f"process id {os.getpid()}.*ATTUNE_DATA_DIR"):
            await EmbeddedRedis(tmp_path, binary=BINARY).start()
        assert await count(server) == 1


async def test_another_process_with_the_directory_is_respected(tmp_path: Path) -> None:
    other, _ = other_attune(tmp_path)
    try:
        with pytest.raises(DataDirInUse, match=f"process id {other.pid}"):
            await EmbeddedRedis(tmp_path, binary=BINARY).start()
    finally:
        kill(other)


async def test_after_attune_was_killed_the_next_one_has_everything(tmp_path: Path) -> None:
    other, server_pid = other_attune(tmp_path)
    kill(other)
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
        assert not running(server_pid)
        assert await count(server) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_a_killed_attune_takes_its_server_along(tmp_path: Path) -> None:
    other, server_pid = other_attune(tmp_path)
    kill(other)
    lock = Lock(prepare(tmp_path) / "server.lock")
    assert await lock.wait(10.0)
    assert not running(server_pid)
    lock.close()


def orphan_on(directory: Path) -> subprocess.Popen[str]:
    """Returns a ready server with the lock inherited and no parent to die with: what is left where PR_SET_PDEATHSIG is unknown."""
    lock = Lock(directory / "server.lock")
    assert lock.take()
    command = [str(BINARY), *arguments(directory, socket_path(directory), "always")]
    orphan = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(lock.fd,))
    assert orphan.stdout is not None
    assert any("ready to accept" in line.casefold() for line in orphan.stdout)
    lock.note(str(orphan.pid))
    lock.close()
    return orphan


async def test_a_server_that_outlived_its_attune_is_ended_before_another_writes_to_the_file(tmp_path: Path) -> None:
    directory = prepare(tmp_path)
    orphan = orphan_on(directory)
    store = RedisStore(f"unix://{socket_path(directory)}")
    await store.add_comparison(ALICE, comparison("of the orphan", [1.0]))
    await store.aclose()

    with structlog.testing.capture_logs() as logs:
        async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
            orphan.communicate()
            assert orphan.returncode == 0
            assert server.pid != orphan.pid
            assert await count(server) == 1
    assert [each["pid"] for each in logs if each["event"] == "embedded_redis_orphan"] == [str(orphan.pid)]


def modes_under(directory: Path) -> list[int]:
    """Returns what others may do with each file and socket in a directory."""
    return [stat.S_IMODE(path.stat().st_mode) & 0o077 for path in directory.rglob("*") if not path.is_dir()]


async def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
        await add(server, "event")
        directory = tmp_path / "redis"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        others_may = modes_under(directory)
        assert len(others_may) >= 6  # two locks, the socket, the parts of the append-only file
        assert set(others_may) == {0}


async def test_a_long_directory_gets_a_short_private_socket_that_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    long = tmp_path / ("a-long-name-" * 10) / "data"
    for number in range(2):
        async with EmbeddedRedis(long, binary=BINARY) as server:
            assert len(server.url) < 120
            assert not server.url.startswith(f"unix://{long}")
            assert stat.S_IMODE(Path(server.url.removeprefix("unix://")).parent.stat().st_mode) == 0o700
            assert await count(server) == number
            await add(server, f"event-{number}")
            with pytest.raises(DataDirInUse):
                await EmbeddedRedis(long, binary=BINARY).start()
            os.kill(server.pid or 0, signal.SIGKILL)  # which leaves its socket
        assert not Path(server.url.removeprefix("unix://")).parent.exists()


async def test_asking_for_a_socket_makes_nothing(tmp_path: Path) -> None:
    assert not socket_path(prepare(tmp_path / ("a-long-name-" * 10))).parent.exists()


async def test_a_private_directory_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    long = tmp_path / ("a-long-name-" * 10)
    place = socket_path(prepare(long)).parent
    place.mkdir()
    place.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match="only this user can read"):
        await EmbeddedRedis(long, binary=BINARY).start()


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(EmbeddedRedisError, match="file/redis cannot be used: Not a directory"):
        await EmbeddedRedis(tmp_path / "file", binary=BINARY).start()


async def test_a_server_that_does_not_start_is_quoted_and_the_directory_stays_free(tmp_path: Path) -> None:
    broken = tmp_path / "broken-server"
    broken.write_text("#!/bin/sh\necho 'no such thing as a server here'\nexit 3\n")
    broken.chmod(0o700)
    with pytest.raises(EmbeddedRedisError, match="broken-server ended with code 3 at its start: no such thing as a server here"):
        await EmbeddedRedis(tmp_path, binary=broken).start()
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
        assert await count(server) == 0


async def test_a_server_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    silent = tmp_path / "silent-server"
    silent.write_text("#!/bin/sh\necho $$\nexec tail -f /dev/null\n")
    silent.chmod(0o700)
    with pytest.raises(EmbeddedRedisError, match=r"silent-server was not ready within 0.3 s") as refused:
        await EmbeddedRedis(tmp_path, binary=silent, start_timeout_s=0.3).start()
    said = str(refused.value).rsplit(maxsplit=1)[-1]  # on a busy machine it may have been ended before it said its number
    assert not said.isdecimal() or not running(int(said))


async def test_a_server_that_keeps_failing_is_launched_again_until_it_works(tmp_path: Path) -> None:
    # Runs, then fails twice, then runs: each launch takes one line off the list.
    fragile, launches = tmp_path / "fragile-server", tmp_path / "launches"
    launches.write_text("run\nfail\nfail\nrun\n")
    fragile.write_text(
        f'#!/bin/sh\nwhat=$(head -n 1 "{launches}")\nsed -i 1d "{launches}"\n[ "$what" = run ] || exit 7\nexec "{BINARY}" "$@"\n'
    )
    fragile.chmod(0o700)
    with structlog.testing.capture_logs() as logs:
        async with EmbeddedRedis(tmp_path, binary=fragile) as server:
            await add(server, "event")
            killed = server.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await asyncio.wait_for(server.up(other_than=killed), 120)
            assert await count(server) == 1
            assert server.restarts == 3
    failed = [each["error"] for each in logs if each["event"] == "embedded_redis_not_relaunched"]
    assert len(failed) == 2
    assert all("ended with code 7" in error for error in failed)


async def test_an_interrupt_of_the_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_it_runs_under_uvloop_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
            store = RedisStore(server.url)
            await store.add_comparison(ALICE, comparison("one", [1.0]))
            killed = server.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await asyncio.wait_for(server.up(other_than=killed), 120)
            assert (await store.add_comparison(ALICE, comparison("one", [1.0]))).result == "duplicate"
            await store.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("wait for")]


@pytest.mark.parametrize(("fsync", "in_redis"), [("everysec", "no"), ("always", "always")])
async def test_every_write_reaches_the_kernel_before_its_answer(tmp_path: Path, fsync: Fsync, in_redis: str) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY, fsync=fsync) as server, Redis.from_url(server.url, decode_responses=True) as raw:
        # Not Redis's own `everysec`, which answers while it waits for a sync.
        assert (await raw.config_get("appendfsync"))["appendfsync"] == in_redis
        assert (await raw.config_get("appendonly"))["appendonly"] == "yes"
        assert (await raw.config_get("port"))["port"] == "0"
        assert (await raw.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"


async def test_a_folder_that_cannot_be_looked_at_for_a_moment_is_looked_at_again(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server:
        with structlog.testing.capture_logs() as lines:
            (tmp_path / "redis").rename(tmp_path / "away")
            await until(lambda: [line["event"] for line in lines] == ["embedded_redis_room_unknown"])
            (tmp_path / "away").rename(tmp_path / "redis")
        await add(server, "e1")
        assert server.no_room() is None


async def test_every_part_of_the_file_is_synced(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY, fsync="always"):
        assert sync_files(tmp_path / "redis") == 3  # the manifest, the base and the increment
    assert sync_files(tmp_path) == 0  # a directory without a file
