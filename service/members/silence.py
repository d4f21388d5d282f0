"""What is remembered of a server that shows no sign of an answer, for those who could ask another one.

    asked ── a sign ──> heard: nothing is remembered
        └─ none in time ──> silent ── rest_s, or until a late sign ──> one request tries ──> heard, or silent again

One request's wait is enough: those that wait beside it leave, and later ones do not begin. A sign to anybody ends it, so
one slow answer of a busy server is no silence. Knows no request and no limit; belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Waiting:
    """One request's wait.

    Args:
        seen: how many signs the server had shown to all when this request began, or at its own last sign.
    """

    seen: int


class Silence:
    """Says whether those who have a choice shall ask another server.

    Args:
        clock: seconds that only grow.
        rest_s: how long the server is left alone after a silence, before one request tries again.
    """

    def __init__(self, clock: Callable[[], float], rest_s: float) -> None:
        self._clock = clock
        self._rest_s = rest_s
        self._signs = 0
        self._silent = False
        self._until_s = float("-inf")
        self._trial: Waiting | None = None
        self._listener: asyncio.Future[Any] | None = None
        self._begins: asyncio.Future[None] | None = None

    @property
    def lasts(self) -> bool:
        """Whether the server is silent and not to be tried now: another request tries or still listens, or its rest is not over."""
        return self._silent and (self._trial is not None or self._listener is not None or self._clock() < self._until_s)

    @property
    def begins(self) -> asyncio.Future[None]:
        """Done as soon as the server is found silent; for those that wait for it at that moment."""
        if self._begins is None:
            self._begins = asyncio.get_running_loop().create_future()
        return self._begins

    def enter(self) -> Waiting:
        """Returns a request's wait; one `leave` must follow. Of a silent server it is the one trial."""
        waiting = Waiting(self._signs)
        if self._silent and self._trial is None:
            self._trial = waiting
        return waiting

    def leave(self, waiting: Waiting) -> None:
        """Takes note that a request has ended, however it did."""
        if self._trial is waiting:
            self._trial = None

    def heard(self, waiting: Waiting) -> None:
        """Takes note of a sign, which ends a silence."""
        self._signs += 1
        waiting.seen = self._signs
        self._silent, self._trial = False, None

    def fell(self, waiting: Waiting) -> bool:
        """Takes note that a request was kept waiting in vain; returns whether that is a silence: nobody else has heard anything since."""
        if waiting.seen != self._signs:
            return False
        self._silent, self._until_s = True, self._clock() + self._rest_s
        self.leave(waiting)
        if self._begins is not None:
            self._begins.set_result(None)
            self._begins = None
        return True

    def listen(self, listener: asyncio.Future[Any]) -> bool:
        """Takes a request that goes on waiting alone, where none does; returns whether it was taken. Over when it is done."""
        if self._listener is not None:
            return False
        self._listener = listener
        listener.add_done_callback(self._listened)
        return True

    def close(self) -> None:
        """Ends what listens."""
        if self._listener is not None:
            self._listener.cancel()

    def _listened(self, _listener: asyncio.Future[Any]) -> None:
        self._listener = None
