"""One answer for all who ask at nearly the same time: what costs every process something must not cost it for every stranger who asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Shared(Generic[Result]):
    """Asks at most once in a while, and once at a time; whoever leaves breaks off nobody else's asking.

    Args:
        ask: what is asked; a failure is told to all who share it.
        fresh_s: seconds for which a result is told again.
        clock: monotonic seconds.
    """

    def __init__(
        self, ask: Callable[[], Coroutine[Any, Any, Result]], fresh_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._fresh_s = fresh_s
        self._clock = clock
        self._asked_s = float("-inf")
        self._asking: asyncio.Task[Result] | None = None

    async def __call__(self) -> Result:
        """Returns a result that is at most `fresh_s` old, or the one that is being asked for."""
        now_s = self._clock()
        if self._asking is None or (self._asking.done() and now_s - self._asked_s >= self._fresh_s):
            self._asked_s = now_s
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(_seen)
        return await asyncio.shield(self._asking)


def _seen(asking: asyncio.Task[Any]) -> None:
    """Takes note of a failure of which nobody waits to hear."""
    if not asking.cancelled():
        asking.exception()
