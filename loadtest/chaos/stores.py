"""Faults of processes and of the store, each under feedback that goes on; what was acknowledged is compared with what is there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import redis.asyncio as redis

from attune.service.state.written_by import find_server
from loadtest.chaos.account import Account, session
from loadtest.chaos.table_row import FaultRow, Skipped
from loadtest.own_server import OwnServer


@dataclass
class Scene:
    """What every scenario gets.

    Attributes:
        folder: an empty one of its own.
        settings: of the server: a bundle and its roster at least.
        seconds: how long clients send.
        clients: how many there are.
    """

    folder: Path
    settings: dict[str, str]
    seconds: float
    clients: int = 16

    @property
    def settle_s(self) -> float:
        """How long what is open may take to be acknowledged once the fault is over."""
        return 60.0 + 4 * self.seconds


Fault = Callable[[OwnServer, float], Awaitable[None]]


async def under_feedback(
    scene: Scene, fault: Fault, name: str, settings: dict[str, str] | None = None, *, restart: bool = True
) -> FaultRow:
    """Returns the exact account of clients that sent while a fault came and went."""
    async with OwnServer(scene.folder / "data", scene.settings | (settings or {})) as server, session() as http:
        account, stop = Account(server.url), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(scene.clients):
                group.create_task(account.client(http, stop))
            await asyncio.sleep(scene.seconds / 4)
            await fault(server, scene.seconds / 2)
            await asyncio.sleep(scene.seconds / 4)
            stop.set()
        await account.settle(http, scene.settle_s)
        if restart:
            await server.stop()
            await server.start()
        found = await account.compare(http)
        return FaultRow(name, dict(account.statuses), found, account.slowest_s, ok=not any(found.values()))


async def server_killed(scene: Scene) -> FaultRow:
    """`kill -9` of the server, twice, with a start after each."""

    async def fault(server: OwnServer, seconds: float) -> None:
        for _ in range(2):
            await server.kill()
            await server.start()
            await asyncio.sleep(seconds / 2)

    return await under_feedback(scene, fault, "kill -9 of the server")


async def store_killed(scene: Scene) -> FaultRow:
    """`kill -9` of the embedded store, three times; the server starts it again."""

    async def fault(server: OwnServer, seconds: float) -> None:
        for _ in range(3):
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.store_pid, signal.SIGKILL)
            await asyncio.sleep(seconds / 3)

    return await under_feedback(scene, fault, "kill -9 of the store")


async def store_paused(scene: Scene) -> FaultRow:
    """SIGSTOP of the embedded store; scoring goes on from the prior meanwhile."""
    scored: list[int] = []

    async def fault(server: OwnServer, seconds: float) -> None:
        store = server.store_pid
        os.kill(store, signal.SIGSTOP)
        try:
            scored.append(await _score(server))
            await asyncio.sleep(seconds)
        finally:
            os.kill(store, signal.SIGCONT)

    row = await under_feedback(scene, fault, "paused store", restart=False)
    return row.and_also("scored while paused", scored == [200])


async def disk_full(scene: Scene) -> FaultRow:
    """A file system of four megabytes that is filled and freed again, with a `kill -9` of the store while it is full."""
    place = scene.folder / "data"
    place.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        raise Skipped("mounting a small file system needs root")
    if await _run(mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)):
        raise Skipped("a small file system cannot be mounted here")
    statuses: list[int] = []

    async def fault(server: OwnServer, seconds: float) -> None:
        disk = os.statvfs(place)
        filler = place / "filler"
        filler.write_bytes(b"\0" * max(0, disk.f_bavail * disk.f_frsize - 16_384))
        await asyncio.sleep(seconds / 2)
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.store_pid, signal.SIGKILL)
        await asyncio.sleep(seconds / 2)
        statuses.append(await _get(server, "/livez"))
        filler.unlink()

    try:
        row = await under_feedback(scene, fault, "full disk")
        return row.and_also("refused while full", row.statuses.get("503", 0) > 0 and statuses == [200])
    finally:
        await _run(umount, "-l", str(place))


async def store_out_of_memory(scene: Scene) -> FaultRow:
    """A store by URL that answers and refuses writes: `maxmemory` with `noeviction`."""
    return await _refusing(scene, "store out of memory", {"maxmemory": "1mb", "maxmemory-policy": "noeviction"}, {"maxmemory": "0"})


async def store_read_only(scene: Scene) -> FaultRow:
    """A store by URL that answers and refuses writes: too few replicas, as a primary that was cut off has them."""
    return await _refusing(scene, "read-only store", {"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"})


async def _refusing(scene: Scene, name: str, trouble: dict[str, str], well: dict[str, str]) -> FaultRow:
    ready: list[int] = []
    async with raw_store(scene.folder) as (url, client):

        async def fault(server: OwnServer, seconds: float) -> None:
            await _configure(client, trouble)
            try:
                await asyncio.sleep(seconds / 2)
                async with asyncio.timeout(30):
                    while await _get(server, "/readyz") != 503:  # noqa: ASYNC110  another process: there is no event to wait for
                        await asyncio.sleep(0.1)
                ready.append(503)
                await asyncio.sleep(seconds / 2)
            finally:
                await _configure(client, well)

        row = await under_feedback(scene, fault, name, {"ATTUNE_REDIS_URL": url}, restart=False)
        return row.and_also("refused, and /readyz said so", row.statuses.get("503", 0) > 0 and ready == [503])


@contextlib.asynccontextmanager
async def raw_store(folder: Path) -> AsyncIterator[tuple[str, Any]]:
    """Yields the URL of a store of one's own, on a free port, and a client of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(find_server()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}"
    try:
        async with redis.Redis.from_url(url, protocol=2) as client:
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(redis.RedisError, OSError):
                        if await client.ping():
                            break
                    await asyncio.sleep(0.05)
            yield url, client
    finally:
        process.kill()
        await process.wait()


async def _configure(client: Any, values: dict[str, str]) -> None:
    for name, value in values.items():
        await client.config_set(name, value)


async def _run(*command: str) -> int:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


async def _get(server: OwnServer, path: str) -> int:
    try:
        async with session() as http, http.get(f"{server.url}{path}") as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return 0


async def _score(server: OwnServer) -> int:
    body = {"user": "chaos-0", "prompt": "tell me about tea", "responses": ["yes .", "no ."]}
    async with session() as http, http.post(f"{server.url}/score", json=body) as answer:
        return answer.status
