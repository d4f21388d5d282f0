"""Who holds something that must not be closed meanwhile: a count, and when it is zero."""

from __future__ import annotations

import asyncio


class Leases:
    """How many requests hold something, and when the last one has let go."""

    __slots__ = ("_idle", "count")

    def __init__(self) -> None:
        self.count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self) -> None:
        """Counts one holder more."""
        self.count += 1
        self._idle.clear()

    def give_back(self) -> None:
        """Counts one holder less."""
        self.count -= 1
        if not self.count:
            self._idle.set()

    async def idle(self) -> None:
        """Returns when nobody holds it."""
        await self._idle.wait()
