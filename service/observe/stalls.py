"""What stops everybody at once: the garbage collector, and an event loop that is late.

A full collection walks every object that lives; after start most of them live for good, so they are collected once and frozen. What the
collector and the loop still cost is measured here, because every stage that is timed around an `await` includes it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

LOOK_S = 0.1
YOUNG, MIDDLE, OLD = 10_000, 20, 50
"""More objects before a collection of the youngest than the default 700: a request makes thousands that die with it."""


def settle_heap() -> int:
    """Collects, and freezes what is left: it is not walked again. Returns how many objects are frozen; to be called after each load."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
    return gc.get_freeze_count()


class LoopWatch:
    """Reports how late the loop is and how long collections take.

    Args:
        lag: told, about ten times a second, by how many seconds the loop woke late.
        pause: told of each collection: its generation and seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self, lag: Callable[[float], None], pause: Callable[[int, float], None], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._lag = lag
        self._pause = pause
        self._clock = clock
        self._began_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to look, on the loop that runs."""
        gc.callbacks.append(self._collecting)
        self._again(asyncio.get_running_loop())

    def stop(self) -> None:
        """Ends it."""
        if self._collecting in gc.callbacks:
            gc.callbacks.remove(self._collecting)
        if self._timer is not None:
            self._timer.cancel()

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        due_s = self._clock() + LOOK_S

        def look() -> None:
            self._lag(max(0.0, self._clock() - due_s))
            self._again(loop)

        self._timer = loop.call_later(LOOK_S, look)

    def _collecting(self, phase: str, info: Mapping[str, Any]) -> None:
        if phase == "start":
            self._began_s = self._clock()
        else:
            self._pause(int(info["generation"]), self._clock() - self._began_s)
