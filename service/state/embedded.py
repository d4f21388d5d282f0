"""A real Redis that Attune starts, watches and stops, for when no URL is given.

    start ──> lock the directory ──> end a server that a killed Attune left ──> launch ──> ready
    the server dies ──> launch again, after a pause that doubles up to 5 s      aclose ──> SIGTERM, file flushed, wait

A write is in the kernel before it is answered, or is known not to be: the store asks (see `durable`), so that a killed server or a killed
Attune loses nothing acknowledged, with a full disk too; for power cuts see `fsync`. How the server is run stands in `server_process`, which
one it is in `written_by`, who may use the directory in `data_dir`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Self

import structlog
from redis.exceptions import RedisError

from attune.service.state.data_dir import (
    DataDirInUse,
    EmbeddedRedisError,
    Lock,
    directory_of,
    leave_socket_place,
    make_socket_place,
    prepare,
    socket_path,
    sync_files,
    take,
)
from attune.service.state.disk_room import LEAST_FREE_BYTES, DiskRoom
from attune.service.state.file_holes import fill_holes
from attune.service.state.server_process import UNREADABLE, Fsync, ServerProcess, arguments, client_of
from attune.service.state.written_by import StoreServer, read_record, refusal, server_for, write_record

__all__ = ["DataDirInUse", "EmbeddedRedis", "EmbeddedRedisError"]

_log = structlog.get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_S = 30.0
SYNC_EVERY_S = 1.0
ORPHAN_S = 10.0


class EmbeddedRedis:
    """One server for one data directory; `async with` starts and stops it.

    Args:
        data_dir: its files go to `redis/` in there.
        fsync: `everysec` (a power cut may lose the last second), or `always` (an answered write is on the disk; each waits for one sync,
            shared by those that arrive together: 4 ms instead of 0.2 ms on a common cloud disk, see loadtest/state_memory.py).
        binary: the server to run; found if not given.
        start_timeout_s: for reading the append-only file and being ready.
        least_free_bytes: below so much room writes are refused before they meet the end of the disk.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        fsync: Fsync = "everysec",
        binary: Path | None = None,
        start_timeout_s: float = 60.0,
        least_free_bytes: int = LEAST_FREE_BYTES,
    ) -> None:
        self._room = DiskRoom(directory_of(data_dir), least_free_bytes)
        self._data_dir = data_dir
        self._fsync = fsync
        self._binary = binary
        self._start_timeout_s = start_timeout_s
        self._directory = Path()
        self._socket = Path()
        self._locks: list[Lock] = []
        self._server: ServerProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._syncer: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._closing = asyncio.Event()
        self.restarts = 0

    @property
    def url(self) -> str:
        """Where the server listens; valid after `start`."""
        return f"unix://{self._socket}"

    def no_room(self) -> str | None:
        """Returns why nothing should be written now, as of the last second; None if there is room."""
        return self._room.lacks()

    @property
    def pid(self) -> int | None:
        """The server's process id; None while there is no server."""
        return self._server.pid if self._server is not None else None

    async def up(self, *, other_than: int | None = None) -> None:
        """Returns when a server accepts connections, other than the one with this process id if one is given."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.pid not in {None, other_than})

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Returns when the server has loaded its file and answers.

        Raises:
            DataDirInUse: another Attune uses the directory, or a server that one left behind does not end.
            EmbeddedRedisError: there is no server that can read what is there, or it did not become ready; nothing is left running.
        """
        self._directory = prepare(self._data_dir)
        try:
            servers = await self._own_directory()
            binary = await asyncio.to_thread(server_for, self._directory, self._binary)
            await self._launch(binary, servers)
            try:
                await self._record()
            except BaseException:
                await self._stop()
                raise
        except BaseException:
            self._release()
            raise
        self._supervisor = asyncio.create_task(self._supervise(binary, servers), name="embedded redis")
        self._syncer = asyncio.create_task(self._every_second(), name="sync of embedded redis")

    async def aclose(self) -> None:
        """Stops the server, which first writes everything it acknowledged; then frees the directory."""
        self._closing.set()
        if self._supervisor is not None:
            await self._supervisor
        if self._syncer is not None:
            await self._syncer
        self._release()

    def _release(self) -> None:
        if self._locks and self._socket.name:  # before another may take the directory, and never that of another
            leave_socket_place(self._socket, self._directory)
        while self._locks:
            self._locks.pop().close()

    # --- the directory ----------------------------------------------------------------------------------------------

    async def _own_directory(self) -> Lock:
        """Returns the lock that servers of this directory hold, free of servers."""
        own, servers = Lock(self._directory / "attune.lock"), Lock(self._directory / "server.lock")
        self._locks += [own, servers]
        take(own, self._data_dir)
        own.note(str(os.getpid()))
        self._socket = socket_path(self._directory)  # here and not before: whoever had the directory has left its place by now
        make_socket_place(self._socket)
        if not servers.take():
            await self._end_orphan(servers)
        return servers

    async def _end_orphan(self, servers: Lock) -> None:
        """Ends a server whose Attune was killed: it flushes its file and goes, and its lock tells when it has gone."""
        _log.warning("embedded_redis_orphan", pid=servers.noted(), socket=str(self._socket))
        try:
            async with client_of(self._socket, ORPHAN_S) as client:
                await client.shutdown()
        except (RedisError, OSError) as error:
            # Also when it was ending already, and there was nothing left to connect to.
            _log.info("embedded_redis_orphan_asked", answer=type(error).__name__)
        if not await servers.wait(ORPHAN_S):
            raise DataDirInUse(
                f"a Redis with process id {servers.noted()}, left by an earlier Attune, still uses {self._data_dir} "
                f"and did not end within {ORPHAN_S:g} s; end it"
            )

    async def _record(self) -> None:
        """Writes down which server writes the directory from now on; refuses one whose data has the format that was never recorded."""
        async with client_of(self._socket, self._start_timeout_s) as client:
            if read_record(self._directory) is None:
                async for _ in client.scan_iter(count=1000, _type="stream"):
                    raise EmbeddedRedisError(refusal(self._directory, 1))
            write_record(self._directory, StoreServer.of_info(await client.info("server")))

    # --- the server -------------------------------------------------------------------------------------------------

    async def _launch(self, binary: Path, servers: Lock) -> None:
        try:
            server = await self._launch_once(binary, servers)
        except EmbeddedRedisError as error:
            if UNREADABLE not in str(error).casefold() or not await self._mended(error):
                raise
            server = await self._launch_once(binary, servers)
        servers.note(str(server.pid))
        await self._has(server)
        _log.debug("embedded_redis_ready", server=binary.name, pid=server.pid, fsync=self._fsync)

    async def _launch_once(self, binary: Path, servers: Lock) -> ServerProcess:
        self._socket.unlink(missing_ok=True)
        words = arguments(self._directory, self._socket, self._fsync)
        return await ServerProcess.launch(binary, words, socket=self._socket, lock_fd=servers.fd, timeout_s=self._start_timeout_s)

    async def _mended(self, error: EmbeddedRedisError) -> bool:
        """Returns whether the file that no server reads had holes, which are filled now."""
        try:
            holes = await asyncio.to_thread(fill_holes, self._directory)
        except OSError as reason:
            raise EmbeddedRedisError(f"{error}; holes in it, which a full disk left, could not be filled: {reason}") from error
        if holes:
            _log.warning("embedded_redis_mended", holes=holes, reason="a full disk had left zeros in the store's file; nothing was lost")
        return holes > 0

    async def _has(self, server: ServerProcess | None) -> None:
        async with self._changed:
            self._server = server
            self._changed.notify_all()

    async def _supervise(self, binary: Path, servers: Lock) -> None:
        """Launches the server again whenever it ends; stops it and returns once closing."""
        closing = asyncio.create_task(self._closing.wait())
        pause_s = 0.0
        while not closing.done():
            if self._server is None:
                pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
                await asyncio.wait((closing,), timeout=pause_s)
                if not closing.done():
                    await self._launch_again(binary, servers)
            elif await self._watch(self._server, closing) > STEADY_S:
                pause_s = 0.0
        await self._stop()

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
            await self._has(None)
        self._socket.unlink(missing_ok=True)  # of one that was killed

    async def _launch_again(self, binary: Path, servers: Lock) -> None:
        self.restarts += 1
        try:
            await self._launch(binary, servers)
        except (EmbeddedRedisError, OSError) as error:
            _log.error("embedded_redis_not_relaunched", error=str(error), launches=self.restarts)

    async def _every_second(self) -> None:
        while not self._closing.is_set():
            try:
                self.no_room()
                if self._fsync == "everysec":
                    await asyncio.to_thread(sync_files, self._directory)
            except OSError as error:
                _log.error("embedded_redis_not_synced", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), SYNC_EVERY_S)

    async def _watch(self, server: ServerProcess, closing: asyncio.Task[bool]) -> float:
        """Returns, once the server has ended or it is closing time, the seconds that passed."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        ended, failed = asyncio.create_task(server.ended()), asyncio.create_task(server.failed_to_write.wait())
        await asyncio.wait((ended, failed, closing), return_when=asyncio.FIRST_COMPLETED)
        if failed.done() and not closing.done():
            # Where it has cut back a short write it does not know the end of its file any more: at the next one it may cut off what it
            # has acknowledged. Nothing that it has not written is acknowledged, so nothing is lost with it.
            _log.warning("embedded_redis_renewed", pid=server.pid, reason="a write of its file failed, after which it cannot be trusted")
            server.kill()
            await asyncio.wait((ended,))
            await self._has(None)
        elif ended.done() and not closing.done():
            await self._has(None)
            _log.error("embedded_redis_died", pid=server.pid, code=ended.result(), last_words=server.last_words())
        ended.cancel()
        failed.cancel()
        return loop.time() - began
