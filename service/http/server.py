"""The server's life around the application: listening once it is ready, and stopping in steps that a client can see.

    SIGTERM ─> told (/readyz 503, requests still served) ─> port closed, deadlines cut ─> what runs ends ─> the application's parts close

A second signal, or Ctrl-C, skips the first step. A signal before anything is served breaks the start off: what has started is closed, and
what computes in a thread is not waited for. Connections are taken by `accepting`; uvicorn does the rest.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attune.service.http.accepting import Acceptor


class Beginning:
    """An application whose start can be broken off, and which sends no traceback where it fails: it has said why, in one line.

    Args:
        app: the application.

    Attributes:
        broken_off: whether its start was.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._starting: asyncio.Task[object] | None = None
        self.broken_off = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def short(message: Message) -> None:
            self._starting = None
            await send({**message, "message": ""} if message["type"] == "lifespan.startup.failed" else message)

        self._starting = asyncio.current_task()
        await self._app(scope, receive, short)

    def listens(self) -> None:
        """Lets the start come to its end whatever signal comes: the port is open, and who is connected already must be answered."""
        self._starting = None

    def break_off(self) -> None:
        """Cancels the start, once, if it is under way and nobody can have connected: what it has begun is closed."""
        if self._starting is not None:
            self._starting.cancel()
            self._starting, self.broken_off = None, True


class AnnouncingServer(uvicorn.Server):
    """A uvicorn server that announces its end.

    Args:
        config: uvicorn's, of the application within `beginning`.
        beginning: of the application, which is broken off by a signal.
        notice_s: how long requests are still taken after the announcement.
        announce: told once, with the seconds that what runs has from then on.
        drain_s: how long what runs may take once the port is closed.
        started: called in the loop once connections are taken.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        beginning: Beginning,
        notice_s: float,
        drain_s: float,
        announce: Callable[[float], None],
        started: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._beginning = beginning
        self._notice_s = notice_s
        self._drain_s = drain_s
        self._announce = announce
        self._started = started
        self._at_once = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        logging.getLogger("uvicorn.error").addFilter(lambda record: not record.getMessage().startswith("Application startup failed"))
        try:
            await super().startup([])  # it opens none of its own
        except SystemExit:
            if not self._beginning.broken_off:
                raise
            return  # nothing has failed, and nothing is served
        for listener in sockets or ():
            acceptor = Acceptor(listener, self._protocol, self.config.backlog)
            acceptor.start()
            self.servers.append(acceptor)  # type: ignore[arg-type]  # of a server it asks for close and wait_closed
        self._started()

    def _protocol(self) -> asyncio.Protocol:
        made: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._announce(self._notice_s + self._drain_s)
        try:
            async with asyncio.timeout(self._notice_s):
                await self._at_once.wait()
        except TimeoutError:
            pass
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._beginning.break_off)
            if self.should_exit or sig == signal.SIGINT:
                self._loop.call_soon_threadsafe(self._at_once.set)
        super().handle_exit(sig, frame)
