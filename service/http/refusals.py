"""What is refused before it is a request: answered, counted each time, and told in the log at most once a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from attune.service.errors import Overloaded
from attune.service.http.bounds import Refused
from attune.service.http.problems import render
from attune.service.ids import new_id
from attune.service.observe.logs import get_logger
from attune.service.observe.metrics import Metrics

_log = get_logger(__name__)
EVERY_S = 1.0
LINES_PER_S = 10
"""Of requests that are refused for want of room; in an overload there are thousands, and writing a line costs as much as the refusal."""


class Refusals:
    """Told of each connection or head that was refused.

    Args:
        metrics: counts all of them.
        clock: monotonic seconds.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._told_s = float("-inf")
        self._untold = 0

    def __call__(self, why: Refused, address: str) -> None:
        """Counts one; the line has the newest one's address and the number since the line before."""
        self._metrics.connection_refused(why)
        self._untold += 1
        now_s = self._clock()
        if now_s - self._told_s >= EVERY_S:
            _log.warning("connection refused", reason=why, address=address, since_last_line=self._untold)
            self._told_s, self._untold = now_s, 0


class Thinned:
    """Lines of one kind, of which only so many are written each second; the next one that is written says how many were not.

    Args:
        per_s: lines.
        clock: monotonic seconds.
    """

    def __init__(self, per_s: int = LINES_PER_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._second = float("-inf")
        self._written = self._untold = 0

    def left_out(self) -> int | None:
        """Returns how many lines were left out before this one; None where this one is to be left out as well."""
        second = self._clock() // 1
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= self._per_s:
            self._untold += 1
            return None
        self._written += 1
        untold, self._untold = self._untold, 0
        return untold


async def no_room(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers a request other than for health on a connection that is one too many for that; an ASGI application."""
    status, headers, body = render(
        Overloaded("there are too many open connections; this one may ask for health only"), scope["path"], new_id()
    )
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
