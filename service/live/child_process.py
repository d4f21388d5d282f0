"""How a process that works for those that take requests runs: it listens for them, answers its parent, and ends with it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from attune.service.errors import BundleRefused
from attune.service.framing import Frames
from attune.service.live.control import Body, Control, call_parent
from attune.service.live.process_plan import HELLO_S, Role
from attune.service.observe.logs import get_logger

_log = get_logger(__name__)


class ChildProcess(Protocol):
    """What the parent may ask of it."""

    async def answer(self, what: str, body: Body) -> Body: ...


ProcessT = TypeVar("ProcessT", bound=ChildProcess)
LoadedT = TypeVar("LoadedT")


class Loaded(Generic[LoadedT]):
    """What a process has loaded, by generation.

    Args:
        close: gives back what one of them holds.
    """

    def __init__(self, close: Callable[[LoadedT], Awaitable[None]]) -> None:
        self._close = close
        self._loading: set[int] = set()
        self.there: dict[int, LoadedT] = {}

    async def load(self, generation: int, loading: Awaitable[LoadedT]) -> LoadedT:
        """Returns what was loaded, which is there from then on.

        Raises:
            BundleRefused: it was retired before that, as where another process refused it, and was closed.
        """
        self._loading.add(generation)
        try:
            loaded = await loading
        finally:
            retired = generation not in self._loading
            self._loading.discard(generation)
        if retired:
            await self._close(loaded)
            raise BundleRefused("it was called off while this process loaded it")
        self.there[generation] = loaded
        return loaded

    async def retire(self, generation: int) -> None:
        """Closes what was loaded, or will be."""
        self._loading.discard(generation)
        if (loaded := self.there.pop(generation, None)) is not None:
            await self._close(loaded)


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
