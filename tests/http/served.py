"""A small application behind real sockets, with connections that are bounded as a test asks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from attune.service.http.bounds import Bounds
from attune.service.http.connections import bounded

OK = b"HTTP/1.1 200 OK\r\n"
LARGE = 32 * 2**20


@dataclass
class Served:
    """Where it listens, what was refused, what is connected, and what the application holds on to."""

    port: int
    refused: list[tuple[str, str]] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[Any] = field(default_factory=set)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Returns a fresh connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def told(self, sent: bytes, *, end: bool = False) -> bytes:
        """Returns everything that comes back on a connection until it is closed; nothing of it where it is reset."""
        reader, writer = await self.connect()
        writer.write(sent)
        if end:
            writer.write_eof()
        answer = b""
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            answer = await reader.read()
        writer.close()
        return answer


async def _answer(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def served(bounds: Bounds, keep_alive_s: int = 30) -> AsyncIterator[Served]:
    """Serves `/early` before it reads, `/held` and the rest of `/events` once the gate opens, at `/heard` what came, all else at once.

    `/large` has more than the system takes for a caller that reads nothing.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    found = Served(listener.getsockname()[1])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/early":
            await _answer(send, 413, b"too large")
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/heard":
            headers = b"".join(b"%s: %s\n" % header for header in scope["headers"])
            await _answer(send, 200, headers + b"body: " + body)
            return
        if scope["path"] == "/events":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
            await send({"type": "http.response.body", "body": b"data: one\n\n", "more_body": True})
        if scope["path"] in ("/held", "/events"):
            found.began.set()
            gone = asyncio.ensure_future(receive())
            opened = asyncio.ensure_future(found.gate.wait())
            await asyncio.wait([gone, opened], return_when=asyncio.FIRST_COMPLETED)
            opened.cancel()
            if gone.done():
                found.left.set()
                return
            gone.cancel()
        if scope["path"] == "/events":
            await send({"type": "http.response.body", "body": b"data: two\n\n"})
        else:
            await _answer(send, 200, b"x" * LARGE if scope["path"] == "/large" else b"fine")

    async with _running(app, listener, bounds, found, keep_alive_s):
        yield found


@contextlib.asynccontextmanager
async def served_as_it_is(app: ASGIApp) -> AsyncIterator[Served]:
    """Serves an application of a test's own."""
    listener = socket.create_server(("127.0.0.1", 0))
    found = Served(listener.getsockname()[1])
    async with _running(app, listener, Bounds(most=64), found, keep_alive_s=30):
        yield found


@contextlib.asynccontextmanager
async def _running(app: ASGIApp, listener: socket.socket, bounds: Bounds, found: Served, keep_alive_s: int) -> AsyncIterator[None]:
    kind = bounded(bounds, lambda why, address: found.refused.append((why, address)))
    options = {"log_config": None, "access_log": False, "lifespan": "off", "ws": "none", "server_header": False}
    server = uvicorn.Server(uvicorn.Config(app, http=kind, timeout_keep_alive=keep_alive_s, timeout_graceful_shutdown=1, **options))
    found.connections = server.server_state.connections
    running = asyncio.ensure_future(server._serve([listener]))
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        await running
