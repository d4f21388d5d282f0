"""One run of a Redis or Valkey server as a child of this process: found, started, listened to, stopped.

It listens on a Unix socket only, keeps an append-only file, runs in a session of its own (Ctrl-C reaches Attune alone) and, on Linux, is
told to end when the thread that started it ends, hence also when Attune is killed. Its log lines are for debugging; what an operator
should act on is said once, in our words.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Literal

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from attune.service.state.data_dir import EmbeddedRedisError

_log = structlog.get_logger(__name__)

Fsync = Literal["always", "everysec"]

_FAILED_WRITE = ("short write while writing to the aof", "error writing to the aof", "error writing the aof")
READY = "ready to accept connections"
UNREADABLE = "bad file format"
# Its own marks of severity are not ours: `#` stands before its banner and its farewell as well. What makes it fail is in its last lines.
_MARKS = frozenset(".-*#")
_TO_ACT_ON = {
    "error writing": "the store cannot write its file: there is no room, or the disk fails",
    "short write": "the store cannot write its file: there is no room, or the disk fails",
    UNREADABLE: "the store's file is damaged",
    "truncated": "the store's file ends in the middle of a write, as after a power cut; what was not whole was dropped",
    "out of memory": "the store has no memory left",
    "can't save in background": "the store cannot rewrite its file, which goes on growing: memory or processes are short",
}
"""What an operator should act on, by a piece of the server's own words; everything else that it says is for debugging."""
_LINE_WORDS = 7  # pid:role, day, month, year, time, level, message

# Runs between fork and exec, in a fresh interpreter: `preexec_fn` may deadlock in a process with threads, and uvloop has no `umask`.
# A server whose parent is already gone does not start; PR_SET_PDEATHSIG (1) covers a parent that goes later.
_LAUNCH = """
import ctypes, os, signal, sys
parent, binary, *arguments = sys.argv[1:]
os.umask(0o077)
os.setsid()
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(parent):
    sys.exit("attune ended before its Redis began")
os.execv(binary, [binary, *arguments])
"""


def arguments(directory: Path, socket: Path, fsync: Fsync) -> list[str]:
    """Returns the server's command line."""
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "always" if fsync == "always" else "no",  # see sync_files in data_dir
        "aof-load-truncated": "yes",
        "hash-max-listpack-entries": "1024",  # a user's event ids in 28 bytes each, and not in three times as many
        "auto-aof-rewrite-min-size": "16mb",
        "save": "",
        "databases": "1",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "notice",
        "logfile": "",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def client_of(socket: Path, timeout_s: float) -> Redis:
    """Returns a client of the server at `socket` that tries once."""
    return Redis(unix_socket_path=str(socket), socket_timeout=timeout_s, protocol=2, retry=Retry(NoBackoff(), 0))


class ServerProcess:
    """A server that has been started; made by `launch`."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name
        self.failed_to_write = asyncio.Event()
        self._last_lines: deque[str] = deque(maxlen=5)
        self._told: set[str] = set()
        self._said_ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read_lines(), name=f"log of {name}")

    @classmethod
    async def launch(cls, binary: Path, arguments: list[str], *, socket: Path, lock_fd: int, timeout_s: float) -> ServerProcess:
        """Returns a server that has loaded its file and answers.

        Args:
            binary: the server.
            arguments: its command line.
            socket: where it listens.
            lock_fd: an open file that the server inherits, so that a lock on it lasts as long as the server does.
            timeout_s: for loading and answering.

        Raises:
            EmbeddedRedisError: it ended or was too slow; the message has its last words, and it does not run any more.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(binary), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(lock_fd,),
        )
        server = cls(process, binary.name)
        try:
            await server._become_ready(socket, timeout_s)
        except BaseException:
            await server.stop()
            raise
        return server

    @property
    def pid(self) -> int:
        return self._process.pid

    def last_words(self) -> str:
        return " | ".join(self._last_lines) or "it said nothing"

    async def ended(self) -> int:
        """Returns the exit code once the server has ended and its lines are read."""
        code = await self._process.wait()
        await asyncio.shield(self._reader)
        return code

    def kill(self) -> None:
        """Ends the server at once; what it has not written yet is dropped."""
        if self._process.returncode is None:
            self._process.kill()

    async def stop(self, patience_s: float = 10.0) -> None:
        """Ends the server, which flushes its file first; one that does not end in time is killed."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(patience_s):
                    await self._process.wait()
            except TimeoutError:
                _log.error("embedded_redis_killed", pid=self.pid, after_s=patience_s)
                self._process.kill()
        await self.ended()

    async def _become_ready(self, socket: Path, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                ready = await asyncio.shield(self._said_ready)
                if ready:
                    async with client_of(socket, timeout_s) as client:
                        with contextlib.suppress(ResponseError):  # one that cannot write answers so
                            await client.ping()
        except (TimeoutError, RedisError, OSError) as error:
            raise EmbeddedRedisError(f"{self._name} was not ready within {timeout_s:g} s: {self.last_words()}") from error
        if not ready:
            raise EmbeddedRedisError(f"{self._name} ended with code {await self.ended()} at its start: {self.last_words()}")

    async def _read_lines(self) -> None:
        """Passes the server's lines on to the log until it ends."""
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                self._heard(line.decode("utf-8", "replace").strip())
        finally:
            if not self._said_ready.done():
                self._said_ready.set_result(False)

    def _heard(self, line: str) -> None:
        if not line:
            return
        self._last_lines.append(line)
        words = line.split(" ", _LINE_WORDS - 1)
        known = len(words) == _LINE_WORDS and words[5] in _MARKS
        said = words[-1] if known else line
        _log.debug("embedded_redis_says", line=said, pid=self.pid)
        found = next((meaning for piece, meaning in _TO_ACT_ON.items() if piece in said.casefold()), None)
        if found is not None and found not in self._told:
            self._told.add(found)  # once for each server: it may say so with every write
            _log.warning("embedded_redis_in_trouble", meaning=found, line=said, pid=self.pid)
        if words[0].startswith(f"{self.pid}:") and any(piece in said.casefold() for piece in _FAILED_WRITE):  # not a child that rewrites
            self.failed_to_write.set()
        if READY in line.casefold() and not self._said_ready.done():
            self._said_ready.set_result(True)
