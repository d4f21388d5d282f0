"""Holds a model's forward passes, so that a test decides between which two steps something happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from attune.service.members.local import LocalEngine


def around_each_pass(
    engine: LocalEngine, before: Callable[[Any], object] = lambda ids: None, after: Callable[[Any], object] = lambda logits: None
) -> Callable[[], None]:
    """Has an engine's forward passes call these with the `[N, T]` ids and the `[N, V]` logits; returns what takes it back, last first."""
    decoder = engine.model.decoder
    assert decoder is not None, "the tests' model is one that is written out"
    inner = decoder.forward

    def forward(ids: Any, *rest: Any) -> Any:
        before(ids)
        logits = inner(ids, *rest)
        after(logits)
        return logits

    decoder.forward = forward

    def take_back() -> None:
        decoder.forward = inner

    return take_back


class Gate:
    """Lets forward passes of an engine through one by one while it is closed.

    Args:
        engine: loaded; the gate stays on its forward pass for good and begins open.
    """

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._condition = threading.Condition()
        self._closed = False
        self._permits = 0
        self._reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.widths: list[int] = []  # rows of each forward pass that was begun
        self.poison: int | None = None  # a token that breaks every forward pass which reads it
        self._take_back = around_each_pass(engine, before=self._wait)

    def close(self) -> None:
        with self._condition:
            self._closed = True

    def open(self) -> None:
        with self._condition:
            self._closed = False
            self._condition.notify_all()

    def remove(self) -> None:
        self.open()
        self._take_back()

    async def reached(self) -> None:
        """Returns when a forward pass waits at the gate."""
        await self._reached.wait()
        self._reached.clear()

    async def step(self) -> None:
        """Lets one forward pass through and returns when the next one waits."""
        with self._condition:
            self._permits += 1
            self._condition.notify_all()
        await self.reached()

    def _wait(self, ids: Any) -> None:
        with self._condition:
            self.widths.append(len(ids))
            if self._closed and self._permits == 0:
                self._loop.call_soon_threadsafe(self._reached.set)
            self._condition.wait_for(lambda: not self._closed or self._permits > 0)
            self._permits = max(0, self._permits - 1)
        if self.poison is not None and bool((ids == self.poison).any()):
            raise RuntimeError("this row cannot be computed")
