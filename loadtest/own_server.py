"""A server of one's own for load tests: `attune serve` on a data directory that is thrown away, killed and started again on one port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Self

START_S = 180.0


def end_in_order() -> None:
    """Has SIGTERM end this program as Ctrl-C does, so that the servers which it started end with it."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class OwnServer:
    """`attune serve` as a process of its own, with the settings given and no others.

    Args:
        folder: the data directory.
        settings: by the names of environment variables.
    """

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.settings = {"ATTUNE_PORT": "0", "ATTUNE_DATA_DIR": str(folder)} | settings
        self.url = ""
        self.said: deque[str] = deque(maxlen=20_000)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def store_pid(self) -> int:
        """The embedded store's process."""
        return int((self.folder / "redis" / "server.lock").read_text(encoding="utf-8").split()[0])

    async def start(self) -> None:
        """Returns once it is ready; a later start listens where the first one did.

        Raises:
            RuntimeError: it ended before, with what it said last.
        """
        end_in_order()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATTUNE_")}
        command = (sys.executable, "-m", "attune.service", "serve")
        self._process = await asyncio.create_subprocess_exec(
            *command, env=inherited | self.settings, stderr=asyncio.subprocess.PIPE, limit=2**20
        )
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.ensure_future(self._read(self._process.stderr, ready))
        async with asyncio.timeout(START_S):
            self.url = await ready
        self.settings["ATTUNE_PORT"] = self.url.rsplit(":", 1)[1]

    async def _read(self, stream: asyncio.StreamReader | None, ready: asyncio.Future[str]) -> None:
        assert stream is not None
        async for line in stream:
            self.said.append(line.decode())
            if not ready.done() and (found := re.search(r"attune ready on (http://[\w.:]+)", self.said[-1])):
                ready.set_result(found[1])
        if not ready.done():
            ready.set_exception(RuntimeError("the server did not start: " + "".join(list(self.said)[-3:])))

    async def kill(self) -> None:
        """Ends it as a crash does."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ends it as an operator does."""
        await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(how)
            await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    await self.stop()
                    return
        await self.kill()
