"""So many at once, and so many a second on average, for each of several names: token buckets, which hold nothing up."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBuckets:
    """A bucket for each name, full at first; names are tenants or keys, of which there are only so many.

    Args:
        per_s: tokens that come into each in a second; 0 lets everything through.
        depth: most tokens that one holds, at least 1.
        clock: monotonic seconds.
    """

    def __init__(self, per_s: float, depth: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._depth = max(1.0, depth)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted

    def take(self, name: str) -> float:
        """Returns 0 and takes a token, or how many seconds it is until there is one, and takes none."""
        if not self._per_s:
            return 0.0
        now_s = self._clock()
        left, counted_s = self._left.get(name, (self._depth, now_s))
        left = min(self._depth, left + (now_s - counted_s) * self._per_s)
        taken = left >= 1.0
        self._left[name] = (left - taken, now_s)
        return 0.0 if taken else (1.0 - left) / self._per_s
