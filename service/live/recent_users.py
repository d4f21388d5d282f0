"""The users that were routed of late, each once, with their weights: what reports on the portfolio's coverage are made of.

    decision ─> RecentUsers.saw(user, weights, ratio) ─> the last `MAX_USERS` distinct users ─> gauge, `GET /portfolio/coverage`

Bounded, in this process, of one bundle: a reload begins a new one, and what a restart loses comes back with traffic. `K` heads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.service.state.store import UserKey

MAX_USERS = 4096


@dataclass(frozen=True, slots=True)
class RecentUser:
    """A user as last seen: weights `[K]` over the serving family's heads, and the certified ratio if there is one for them."""

    weights: NDArray[np.float32]
    ratio: float | None


class RecentUsers:
    """The last `limit` distinct users.

    Args:
        limit: users held; the one not seen for longest makes room.
    """

    def __init__(self, limit: int = MAX_USERS) -> None:
        self.limit = limit
        self._users: OrderedDict[UserKey, RecentUser] = OrderedDict()

    def __len__(self) -> int:
        return len(self._users)

    def saw(self, key: UserKey, weights: NDArray[np.float64], ratio: float | None) -> None:
        """Takes a user in, in place of what was known of them."""
        self._users[key] = RecentUser(weights.astype(np.float32), ratio)
        self._users.move_to_end(key)
        if len(self._users) > self.limit:
            self._users.popitem(last=False)

    def forget(self, key: UserKey) -> None:
        """Lets go of a user, who was deleted."""
        self._users.pop(key, None)

    def of(self, tenant: str | None) -> Iterator[RecentUser]:
        """Yields the users of one tenant, or of all."""
        return (user for key, user in self._users.items() if tenant in {None, key.tenant})

    def mean_gap(self) -> float:
        """Returns the mean of `1 - ratio` over users that have a certified ratio; NaN if none has one."""
        gaps = [1.0 - user.ratio for user in self._users.values() if user.ratio is not None]
        return sum(gaps) / len(gaps) if gaps else float("nan")
