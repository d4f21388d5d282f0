"""Connections are taken as fast as they come, whatever the loop does beside, and none is left when the server closes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest
import uvloop

from attune.service.http.accepting import AT_ONCE, Acceptor

PATIENCE_S = 30.0


class Kept(asyncio.Protocol):
    """A connection that says hello, and is in `made` until it ends."""

    made: set[asyncio.Transport]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the loop has it
        self._transport = transport
        self.made.add(transport)
        transport.write(b"hello")

    def connection_lost(self, exc: Exception | None) -> None:
        self.made.discard(self._transport)


class Listening:
    """A socket that listens, callers that wait in its queue, and what an acceptor made of them."""

    def __init__(self, parts: ExitStack, callers: int) -> None:
        self.listener = parts.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        self.made: set[asyncio.Transport] = set()
        self.acceptor = Acceptor(self.listener, type("KeptHere", (Kept,), {"made": self.made}), 512)
        self._parts = parts
        self.callers = [self.call() for _ in range(callers)]

    def call(self) -> socket.socket:
        caller = self._parts.enter_context(socket.create_connection(self.listener.getsockname(), timeout=PATIENCE_S))
        caller.setblocking(False)
        return caller

    async def until(self, count: int) -> int:
        """Returns after how many turns of the loop there were so many connections."""
        async with asyncio.timeout(PATIENCE_S):
            turns = 0
            while len(self.made) < count:
                await asyncio.sleep(0)
                turns += 1
            return turns


def on_the_servers_loop(test: Callable[[ExitStack], Awaitable[None]]) -> None:
    async def run() -> None:
        with ExitStack() as parts:
            await test(parts)

    uvloop.run(run())


def test_a_queue_of_callers_is_taken_in_few_turns_of_the_loop():
    async def taken(parts: ExitStack) -> None:
        listening = Listening(parts, 4 * AT_ONCE)
        listening.acceptor.start()
        assert await listening.until(4 * AT_ONCE) <= 40  # one a turn would be 256 and more
        for caller in listening.callers:
            assert await asyncio.get_running_loop().sock_recv(caller, 5) == b"hello"
        assert all(
            transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for transport in list(listening.made)
        )
        listening.acceptor.close()
        await listening.acceptor.wait_closed()

    on_the_servers_loop(taken)


def test_closing_leaves_no_connection_half_open_and_takes_no_other():
    async def closed(parts: ExitStack) -> None:
        listening = Listening(parts, 3)
        listening.acceptor.start()
        listening.acceptor._accept()  # the turn in which they are being opened
        listening.acceptor.close()
        await listening.acceptor.wait_closed()
        late = listening.call()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            for caller in listening.callers:
                with contextlib.suppress(ConnectionError):
                    assert await loop.sock_recv(caller, 5) == b""
        assert not listening.made
        with pytest.raises(BlockingIOError):
            late.recv(5)

    on_the_servers_loop(closed)


def test_without_a_descriptor_for_another_connection_it_tries_again_later():
    class Full:
        """A listening socket for whose first callers there is no descriptor."""

        def __init__(self, listener: socket.socket) -> None:
            self._listener, self.refused = listener, 0

        def accept(self) -> tuple[socket.socket, object]:
            if self.refused < 2:
                self.refused += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return self._listener.accept()

        def __getattr__(self, name: str) -> object:
            return getattr(self._listener, name)

    async def tried_again(parts: ExitStack) -> None:
        listening = Listening(parts, 2)
        full = Full(listening.listener)
        acceptor = Acceptor(full, type("KeptHere", (Kept,), {"made": listening.made}), 512, pause_s=0.05)  # type: ignore[arg-type]
        acceptor.start()
        await listening.until(2)
        assert full.refused == 2
        acceptor.close()

    on_the_servers_loop(tried_again)


def test_a_caller_that_left_while_waiting_costs_nobody_else_anything():
    async def left(parts: ExitStack) -> None:
        listening = Listening(parts, 3)
        listening.callers[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        listening.callers[1].close()  # a reset
        listening.acceptor.start()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            for caller in (listening.callers[0], listening.callers[2]):
                assert await loop.sock_recv(caller, 5) == b"hello"
        listening.acceptor.close()

    on_the_servers_loop(left)
