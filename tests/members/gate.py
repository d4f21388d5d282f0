"""Holds a model's forward passes, so that a test decides between which two steps something happens."""

from __future__ import annotations

import asyncio
import threading

from attune.service.members.local import LocalEngine


class Gate:
    """Lets forward passes of an engine through one by one while it is closed.

    Args:
        engine: loaded; the gate stays on its network for good and begins open.
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
        self._hook = engine.model.network.register_forward_pre_hook(self._wait, with_kwargs=True)

    def close(self) -> None:
        with self._condition:
            self._closed = True

    def open(self) -> None:
        with self._condition:
            self._closed = False
            self._condition.notify_all()

    def remove(self) -> None:
        self.open()
        self._hook.remove()

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

    def _wait(self, _network: object, _args: object, kwargs: dict) -> None:
        with self._condition:
            self.widths.append(len(kwargs["input_ids"]))
            if self._closed and self._permits == 0:
                self._loop.call_soon_threadsafe(self._reached.set)
            self._condition.wait_for(lambda: not self._closed or self._permits > 0)
            self._permits = max(0, self._permits - 1)
        if self.poison is not None and bool((kwargs["input_ids"] == self.poison).any()):
            raise RuntimeError("this row cannot be computed")
