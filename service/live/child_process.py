"""How a process that works for those that take requests runs: it listens for them, answers its parent, and ends with it."""

from __future__ import annotations

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from attune.service.errors import BundleRefused, NotReady
from attune.service.framing import Frames
from attune.service.live.control import Body, Control, call_parent
from attune.service.live.process_plan import HELLO_S, Role
from attune.service.observe.logs import get_logger
from attune.service.observe.metrics import Metrics

_log = get_logger(__name__)


LoadedT = TypeVar("LoadedT")


class Loaded(Generic[LoadedT]):
    """What a process has loaded, by generation; one is loaded at a time.

    What serves is loaded by a process that comes back while a reload already wants another: both would need the memory of a load at once,
    and two threads that import one library for the first time find it half there.

    Args:
        close: gives back what one of them holds.
    """

    def __init__(self, close: Callable[[LoadedT], Awaitable[None]]) -> None:
        self._close = close
        self._wanted: set[int] = set()
        self._one_at_a_time = asyncio.Lock()
        self.there: dict[int, LoadedT] = {}

    async def load(self, generation: int, load: Callable[[], Awaitable[LoadedT]]) -> LoadedT:
        """Returns what was loaded, which is there from then on.

        Raises:
            BundleRefused: it was retired before that, as where another process refused it; nothing of it stays.
        """
        self._wanted.add(generation)
        try:
            async with self._one_at_a_time:
                self._must_be_wanted(generation)
                loaded = await load()
            if generation not in self._wanted:
                await self._close(loaded)
            self._must_be_wanted(generation)
        finally:
            self._wanted.discard(generation)
        self.there[generation] = loaded
        return loaded

    def _must_be_wanted(self, generation: int) -> None:
        if generation not in self._wanted:
            raise BundleRefused("it was called off while this process loaded it")

    async def retire(self, generation: int) -> None:
        """Closes what was loaded, or will be."""
        self._wanted.discard(generation)
        if (loaded := self.there.pop(generation, None)) is not None:
            await self._close(loaded)


class ChildProcess(ABC, Generic[LoadedT]):
    """What a process has loaded, its metrics, and what its parent may ask of it.

    Args:
        close: gives back what one of the loaded holds.
    """

    def __init__(self, close: Callable[[LoadedT], Awaitable[None]]) -> None:
        self.metrics = Metrics()
        self.loaded = Loaded(close)

    async def answer(self, what: str, body: Body) -> Body:
        """Gives the parent what it asks for."""
        match what:
            case "load":
                return await self.load(int(body["generation"]), Path(body["path"]), body)
            case "retire":
                await self.loaded.retire(int(body["generation"]))
                return {}
            case "metrics":
                return {"text": self.metrics.render()[0].decode()}
        raise NotReady(f"a process that the parent started has no {what!r}")

    @abstractmethod
    async def load(self, generation: int, path: Path, body: Body) -> Body:
        """Loads what serves a generation from the bundle at `path`; returns what the parent should know of it."""


ProcessT = TypeVar("ProcessT", bound=ChildProcess[Any])


async def serve_parent(
    role: Role,
    make: Callable[[Callable[[int], None]], ProcessT],
    door: Callable[[ProcessT], Frames],
    control_path: str,
    index: int,
    socket_path: str,
) -> int:
    """Serves until SIGTERM, until the parent is gone, or until the process ends itself; returns the exit code.

    Args:
        role: of this process.
        make: gives the process, told what to call with an exit code to end it.
        door: gives the connection of one process that takes requests.
        control_path: where the parent listens.
        index: of this process among its role's.
        socket_path: where to listen for processes that take requests.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    def orphaned(_: Control) -> None:
        end(0)

    process = make(end)
    for stop in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop, end, 0)
    server = await loop.create_unix_server(partial(door, process), socket_path)
    control = await call_parent(control_path, process.answer, orphaned)
    await control.ask("hello", deadline_s=HELLO_S, role=role, index=index, pid=os.getpid())
    code = await ended
    server.close()
    if code:
        _log.critical("a process ends, since what it runs cannot be helped", role=role, index=index, code=code)
    return code
