"""Scored answers on their way to their authors' sums: added up here for about a second, then written, one script a member.

    usecases ── saw(tenant, basis, member, vector) ──> pending sums ── flush ──> Store.add_member

Nobody waits for it. With the store away the sums go on growing and are written when it is back; a store that took an addition and lost the
answer may be given it again, which weighs an answer twice and nothing else. Ending the process orderly writes what is pending; a kill
loses the last second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.service.errors import Overloaded, StoreUnavailable
from attune.service.observe.logs import get_logger
from attune.service.state.store import Store

Vector = NDArray[np.float64]

GATHER_S = 1.0
"""Answers are gathered for this long before they are written."""

_log = get_logger(__name__)


@dataclass(slots=True)
class _Pending:
    count: int
    vector: Vector


class MemberTally:
    """Gathers what members answered, in this process.

    Args:
        store: keeps the sums.
        clock: Unix seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._pending: dict[tuple[str, str, str], _Pending] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def saw(self, tenant: str, basis: str, member: str, vector: Vector, *, times: int = 1) -> None:
        """Takes in one scored answer of a member, or what one comparison tells of all of them.

        Args:
            tenant: whose request it answered.
            basis: under which the sums are kept.
            member: its author.
            vector: what it tells, see `models.seam.member_evidence` and `member_effects`.
            times: -1 takes back what was taken in before.
        """
        pending = self._pending.get((tenant, basis, member))
        if pending is None:
            self._pending[tenant, basis, member] = _Pending(times, times * vector)
        else:
            pending.count += times
            pending.vector += times * vector
        if self._timer is None and (self._writing is None or self._writing.done()):
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._begin)

    async def flush(self) -> None:
        """Returns when everything that was taken in before is written, or has been kept for later because the store is away."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._write()

    def _begin(self) -> None:
        self._timer = None
        self._writing = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        taken, self._pending = self._pending, {}
        for place, pending in taken.items():
            try:
                await self._store.add_member(*place, pending.vector, float(pending.count), observed_s=self._clock())
            except (StoreUnavailable, Overloaded) as error:
                self._keep(place, pending)
                _log.warning("answers of a member wait for the store", member=place[2], answers=pending.count, reason=str(error))
            except ValueError as error:  # the stored sum is of another layout: the next answers would fare no better
                _log.error("answers of a member are not counted", member=place[2], answers=pending.count, reason=str(error))
        if self._pending and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._begin)

    def _keep(self, place: tuple[str, str, str], pending: _Pending) -> None:
        since = self._pending.setdefault(place, _Pending(0, np.zeros_like(pending.vector)))
        since.count += pending.count
        since.vector += pending.vector

    async def aclose(self) -> None:
        """Writes what is pending; what the store does not take now is lost."""
        await self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
