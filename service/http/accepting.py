"""Taking connections from a listening socket, many at each turn of the loop.

    listening socket is readable ─> accept, at most AT_ONCE ─> a transport and a protocol for each

libuv takes one connection a turn. A turn of a loop that has much to answer lasts a tenth of a second, so whoever is new waits in the
kernel's queue behind hundreds of others: for twelve seconds where 1,000 callers send feedback, health checks among them.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from functools import partial

from attune.service.observe.logs import get_logger

AT_ONCE = 64
"""Connections taken at one turn: a queue of a thousand is gone in sixteen, and those who are being answered hardly notice."""

PAUSE_S = 1.0

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = get_logger(__name__)


class Acceptor:
    """Takes the connections of one socket until it is closed; what uvicorn expects of a server that listens.

    Args:
        listener: bound; from `start` on it listens. It is closed by whoever opened it.
        protocol: makes the protocol of one connection.
        backlog: connections that wait in the kernel.
        pause_s: how long none is taken where there is no descriptor or memory for another.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], backlog: int, *, pause_s: float = PAUSE_S
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._backlog = backlog
        self._pause_s = pause_s
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[bool]] = set()
        self._resuming: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to take connections."""
        self._listener.setblocking(False)
        self._listener.listen(self._backlog)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Takes none any more; connections that are being opened are closed."""
        self._loop.remove_reader(self._listener)
        if self._resuming is not None:
            self._resuming.cancel()
        for opening in self._opening:
            opening.cancel()

    async def wait_closed(self) -> None:
        """Returns when nothing is being opened any more."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause(error)
                    return
                continue  # of one caller, who left while waiting
            opening = self._loop.create_task(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(partial(self._opened, connection))

    async def _open(self, connection: socket.socket) -> bool:
        """Returns whether the connection has a transport, which owns its socket from then on."""
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # the caller has gone
            return False
        return True

    def _opened(self, connection: socket.socket, done: asyncio.Task[bool]) -> None:
        self._opening.discard(done)
        if done.cancelled() or not done.result():  # cancelled perhaps before it began
            connection.close()

    def _pause(self, error: OSError) -> None:
        _log.error("no room for another connection", reason=error.strerror, again_s=self._pause_s)
        self._loop.remove_reader(self._listener)
        self._resuming = self._loop.call_later(self._pause_s, self._loop.add_reader, self._listener, self._accept)
