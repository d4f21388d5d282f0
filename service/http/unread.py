"""A caller that reads nothing: what is written for it is kept for so long and no longer, however its connection is to end.

    write buffer ── not shorter after `limit_s` ──> the connection is cut off
                 └─ shorter ──> as much time again, as long as anything is left

Without it whoever asks and does not read has a place among the connections for good, as a head that never ends would.
"""

from __future__ import annotations

import asyncio


class UnreadWatch:
    """Looks whether a caller reads, from `begin` on.

    Args:
        transport: of the connection.
        loop: it runs on.
        limit_s: how long nothing may be read.
    """

    __slots__ = ("_limit_s", "_loop", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        self._transport = transport
        self._loop = loop
        self._limit_s = limit_s
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Watches what is unread now, if anything is and it is not watched already."""
        if self._timer is None and (left := self._transport.get_write_buffer_size()):
            self._timer = self._loop.call_later(self._limit_s, self._look, left)

    def end(self) -> None:
        """Watches no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, left: int) -> None:
        self._timer = None
        if self._transport.get_write_buffer_size() < left:
            self.begin()
        else:
            self._transport.abort()
