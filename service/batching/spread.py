"""Several scorers' processes as one batcher: a submission goes as a whole to the one that has least to do for this process.

    submit ──> RemoteBatcher of GPU 0
           └─> RemoteBatcher of GPU 1 ...        one that has ended, or hangs, is passed over until it is back

What the other processes have asked of a scorer shows in its answers alone, too late to go by: each process spreads what is its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from attune.models.seam.families import Row
from attune.models.seam.text import Encoded
from attune.service.batching.remote import GONE, RemoteBatcher
from attune.service.batching.submission import Submitted
from attune.service.errors import AttuneError, NotReady
from attune.service.observe.logs import get_logger

_log = get_logger(__name__)


class SpreadBatcher:
    """See the module; it answers as each of its scorers does.

    Args:
        scorers: the same generation in each process.
        closed: called once, when this process needs the generation no more.
    """

    def __init__(self, scorers: Sequence[RemoteBatcher], closed: Callable[[], Awaitable[None]]) -> None:
        self._scorers = scorers
        self._asked_tokens = [0] * len(scorers)
        self._silent: set[int] = set()  # those that gave the last canary no answer
        self._closed = closed
        self._is_closed = False

    @property
    def alive(self) -> bool:
        """Whether any of them is there."""
        return any(scorer.alive for scorer in self._scorers)

    @property
    def waiting_items(self) -> int:
        """Texts that waited, of all processes, when the last answers came."""
        return sum(scorer.waiting_items for scorer in self._scorers)

    @property
    def waiting_tokens(self) -> int:
        """Tokens that waited, of all processes, when the last answers came."""
        return sum(scorer.waiting_tokens for scorer in self._scorers)

    @property
    def drain_tokens_per_s(self) -> float:
        """Measured speed of draining of all together, tokens a second."""
        return sum(scorer.drain_tokens_per_s for scorer in self._scorers)

    async def submit(self, items: Sequence[Encoded], deadline_s: float, *, spare: bool = False) -> Submitted[Row]:
        """Returns the rows of `items`, all of them or an error: as `Batcher.submit`, of one scorer.

        Raises:
            NotReady: none of them is there, or the one that was asked ended meanwhile.
        """
        place, tokens = self._least_asked(), sum(map(len, items))
        self._asked_tokens[place] += tokens
        try:
            return await self._scorers[place].submit(items, deadline_s, spare=spare)
        finally:
            self._asked_tokens[place] -= tokens

    def hurry(self) -> None:
        """Has everything asked for that this process submitted to be done in spare time."""
        for scorer in self._scorers:
            scorer.hurry()

    async def canary(self, deadline_s: float) -> float:
        """Runs the canary in every process that is there; returns the longest time of its batch, seconds.

        One that does not answer is asked nothing else until it does, as long as another one answers.

        Raises:
            DeadlineExceeded, ScorerFailed, NotReady: as `Batcher.canary`, where none of them answers.
        """
        alive = [place for place, scorer in enumerate(self._scorers) if scorer.alive]
        found = await asyncio.gather(*(self._scorers[place].canary(deadline_s) for place in alive), return_exceptions=True)
        times_s: list[float] = []
        failed: dict[int, AttuneError] = {}
        for place, each in zip(alive, found, strict=True):
            if isinstance(each, AttuneError):
                failed[place] = each
            elif isinstance(each, BaseException):
                raise each
            else:
                times_s.append(each)
        for place in failed.keys() - self._silent:
            _log.warning("a scorer's process does not answer its canary", index=place, reason=failed[place].detail)
        self._silent = set(failed)
        if times_s:
            return max(times_s)
        raise next(iter(failed.values()), NotReady(GONE))

    async def aclose(self) -> None:
        """Refuses what comes later, and lets the scorers' processes close the generation once nobody needs it."""
        if not self._is_closed:
            self._is_closed = True
            for scorer in self._scorers:
                await scorer.aclose()
            await self._closed()

    def _least_asked(self) -> int:
        alive = [place for place, scorer in enumerate(self._scorers) if scorer.alive]
        answering = [place for place in alive if place not in self._silent]
        return min(answering or alive or range(len(self._scorers)), key=self._asked_tokens.__getitem__)
