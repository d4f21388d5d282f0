"""So many at once, and so many a second on average: a token bucket, which holds nothing up and says when the next may come."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """A bucket that is full at first.

    Args:
        per_s: tokens that come in a second; 0 lets everything through.
        depth: most tokens that it holds, at least 1.
        clock: monotonic seconds.
    """

    def __init__(self, per_s: float, depth: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._depth = max(1.0, depth)
        self._clock = clock
        self._left = self._depth
        self._updated_s = clock()

    def take(self) -> float:
        """Returns 0 and takes a token, or how many seconds it is until there is one, and takes none."""
        if not self._per_s:
            return 0.0
        now_s = self._clock()
        self._left = min(self._depth, self._left + (now_s - self._updated_s) * self._per_s)
        self._updated_s = now_s
        if self._left < 1.0:
            return (1.0 - self._left) / self._per_s
        self._left -= 1.0
        return 0.0
