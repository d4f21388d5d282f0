"""A server on a real socket that speaks the OpenAI API and answers each request as a script says.

    async with running_upstream() as upstream: upstream.answers(MODES["hangs"])

The scripts are in `upstream_modes`. It notices when its client leaves, counts connections that are open, and writes every
answer chunked. Standard library only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

SSE = "text/event-stream; charset=utf-8"


@dataclass
class Turn:
    """One request and the way to answer it."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pause_s: float = 0.0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def head(self, status: int = 200, content_type: str = SSE, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"content-type: {content_type}", "transfer-encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        await self.writer.drain()

    async def send(self, content: bytes) -> None:
        self.writer.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        await self.writer.drain()
        if self.pause_s:
            await asyncio.sleep(self.pause_s)

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def event(self, data: object) -> None:
        await self.send(b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n")

    async def delta(self, finish: str | None = None, **delta: object) -> None:
        await self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    async def text(self, text: str) -> None:
        await self.delta(content=text)

    async def finish(self, reason: str = "stop", usage: tuple[int, int] | None = (7, 3)) -> None:
        await self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": None})
        if usage is not None:
            await self.event({"choices": [], "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}})
        await self.event(b"[DONE]")
        await self.end()

    async def refuse(self, status: int, body: object, **headers: str) -> None:
        await self.head(status, "application/json", **headers)
        await self.send(json.dumps(body).encode())
        await self.end()

    async def whole(self, text: str, finish: str = "stop", usage: tuple[int, int] | None = (7, 3), **message: object) -> None:
        body: dict[str, Any] = {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": finish}]
        }
        if usage is not None:
            body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        await self.refuse(200, body)

    def hang_up(self) -> None:
        self.writer.transport.abort()

    async def client_left(self) -> None:
        """Returns when the client has closed the connection; it sends nothing after its request."""
        with suppress(ConnectionError):  # a reset: it closed with something of ours unread
            if await self.reader.read(1) != b"":
                raise AssertionError("the client sent more than its request")
        self.left.set()


Script = Callable[[Turn], Awaitable[None]]


@dataclass
class Upstream:
    """What the server was asked, and what it answers next; the last script answers all further requests."""

    port: int = 0
    scripts: list[Script] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    connections: int = 0
    open_now: int = 0
    pause_s: float = 0.0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answers(self, *scripts: Script) -> None:
        self.scripts = list(scripts)

    async def all_left(self) -> None:
        """Returns when no connection is open."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.open_now == 0)

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_now += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while head := await reader.readuntil(b"\r\n\r\n"):
                    first, *lines = head.decode().strip().split("\r\n")
                    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                    body = await reader.readexactly(int(headers.get("content-length", "0")))
                    method, path, _ = first.split(" ")
                    turn = Turn(method, path, headers, json.loads(body or b"{}"), reader, writer, self.pause_s)
                    self.turns.append(turn)
                    script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                    await script(turn)
            writer.close()
        finally:
            async with self.changed:
                self.open_now -= 1
                self.changed.notify_all()


@asynccontextmanager
async def running_upstream(port: int = 0) -> AsyncIterator[Upstream]:
    """A server on loopback, on a free port unless one is named."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve_connection, "127.0.0.1", port)
    upstream.port = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield upstream
        finally:
            server.close()
            for turn in upstream.turns:
                turn.writer.transport.abort()
