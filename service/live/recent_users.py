"""The users that were routed of late, each once, with their weights: what reports on the portfolio's coverage are made of.

    decision ─> RecentUsers.saw(user, weights, ratio) ─> the last `MAX_USERS` distinct users ─> gauge, `GET /portfolio/coverage`

Bounded, in this process, of one bundle: a reload begins a new one, and what a restart loses comes back with traffic. Whoever was not
seen for a day goes, so that a user who was deleted through another process is not held here for longer. `K` heads.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.service.state.store import UserKey

MAX_USERS = 4096
MAX_AGE_S = 86_400.0


@dataclass(frozen=True, slots=True)
class RecentUser:
    """A user as last seen: weights `[K]` over the serving family's heads, the certified ratio if there is one for them, and when."""

    weights: NDArray[np.float32]
    ratio: float | None
    seen_s: float


class RecentUsers:
    """The last `limit` distinct users of a day.

    Args:
        limit: users held; the one not seen for longest makes room.
        clock: seconds that only rise.
    """

    def __init__(self, limit: int = MAX_USERS, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._users: OrderedDict[UserKey, RecentUser] = OrderedDict()

    def __len__(self) -> int:
        return len(self._young())

    def saw(self, key: UserKey, weights: NDArray[np.float64], ratio: float | None) -> None:
        """Takes a user in, in place of what was known of them."""
        self._users[key] = RecentUser(weights.astype(np.float32), ratio, self._clock())
        self._users.move_to_end(key)
        if len(self._young()) > self.limit:
            self._users.popitem(last=False)

    def forget(self, key: UserKey) -> None:
        """Lets go of a user, who was deleted."""
        self._users.pop(key, None)

    def of(self, tenant: str | None) -> Iterator[RecentUser]:
        """Yields the users of one tenant, or of all."""
        return (user for key, user in self._young().items() if tenant in {None, key.tenant})

    def mean_gap(self) -> float:
        """Returns the mean of `1 - ratio` over users that have a certified ratio; NaN if none has one."""
        gaps = [1.0 - user.ratio for user in self._young().values() if user.ratio is not None]
        return sum(gaps) / len(gaps) if gaps else float("nan")

    def _young(self) -> OrderedDict[UserKey, RecentUser]:
        """Returns the users, once those who were not seen for a day have gone; the first is the one not seen for longest."""
        ends_s = self._clock() - MAX_AGE_S
        while self._users and next(iter(self._users.values())).seen_s < ends_s:
            self._users.popitem(last=False)
        return self._users
