"""Answers that are scored after they were sent: gathered for a moment, then scored together, one submission at a time.

    usecases ── put(name, read, keep) ──> waiting, bounded ── TOGETHER of them, or GATHER_S ──> read ─> scorer ─> keep(rows)

Nobody asked for these, so there are only so many a second (`spare`), they go behind all that somebody asks of the scorer, and they wait
for each other: a text costs the scorer less in a batch than alone. One that somebody comes to need (`settled`) is in the next submission,
which is asked for as anything else is; those behind it stay what they are. While the scorer is away or full all of them wait, for a minute.
What waits holds the bundle that it is scored under, so a reload and the end of the process wait for it. Where there is no room left an
answer is dropped and counted, and feedback scores it from its text. Knows neither users nor decisions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from attune.models.seam.family import Row
from attune.models.seam.text import Encoded
from attune.service.batching.remote import TextScorer
from attune.service.errors import AttuneError, ComeBackLater, NotReady
from attune.service.live.leases import Leases
from attune.service.live.token_buckets import TokenBuckets
from attune.service.observe.logs import get_logger

Outcome = Literal["scored", "dropped", "failed"]

GATHER_S = 1.0
"""How long the first waits for others. What they tell of their members is written a second later in any case (`member_tally`)."""

MOST_WAITING = 1024
TOGETHER = 16
"""Decisions in one submission: enough to fill a batch, and no more than a request that waits behind it can bear."""

RETRY_S = 1.0
"""A scorer's process that ended is started again after less than that, and asking more often would fill the log."""

LIMIT_S = 60.0
"""Requests go first, but for some seconds only (`two_queues`); then a submission may wait for as long as they do."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Later:
    """The answers of one decision, to be scored.

    Attributes:
        name: of the decision; None where nobody can refer to it.
        scorer: what scores them.
        held: the leases of what closes the scorer.
        read: returns the texts as the scorer reads them.
        keep: takes the scorer's outputs for each of them.
    """

    name: str | None
    scorer: TextScorer
    held: Leases
    read: Callable[[], Awaitable[Sequence[Encoded]]]
    keep: Callable[[Sequence[Row]], Awaitable[None]]
    put_at_s: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ScoringLater:
    """The queue of one process.

    Args:
        count: told what became of each decision.
        most_waiting: decisions that may wait.
        gather_s: how long to wait for others.
        per_s: decisions a second of each tenant that nobody needs scored; 0: no bound. One submission's worth of them may come at once.
        retry_s: pause after the scorer was away or had no room.
        limit_s: how long one waits for a scorer that is, from when it came.
    """

    def __init__(
        self,
        count: Callable[[Outcome], None],
        most_waiting: int = MOST_WAITING,
        gather_s: float = GATHER_S,
        per_s: float = 0.0,
        retry_s: float = RETRY_S,
        limit_s: float = LIMIT_S,
    ) -> None:
        self._count = count
        self._unneeded = TokenBuckets(per_s, TOGETHER)
        self._most = most_waiting
        self._gather_s = gather_s
        self._retry_s = retry_s
        self._limit_s = limit_s
        self._waiting: deque[Later] = deque()
        self._named: dict[str, Later] = {}
        self._given_up: deque[str] = deque(maxlen=MOST_WAITING)  # the last that were dropped or failed
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False  # then no scorer is waited for
        self._rest: asyncio.TimerHandle | None = None  # until then nothing is begun
        self._running: asyncio.Task[None] | None = None
        self._scorer: TextScorer | None = None  # that of what is being scored
        self._wanted: set[Later] = set()  # those that somebody waits for: they are first among what waits
        self._asked = False  # whether somebody waits for what is being scored, or for what is behind it

    @property
    def waiting(self) -> int:
        """How many decisions wait."""
        return len(self._waiting)

    def spare(self, tenant: str) -> bool:
        """Returns whether there is time for one more decision of a tenant that nobody needs scored, and counts it.

        Time alone decides, which knows neither members nor answers: those that are scored stay a fair sample. Each tenant has its own,
        since members are known to each by its own answers, and one of much traffic would leave another none.
        """
        return self._unneeded.take(tenant) == 0.0

    def put(self, later: Later) -> bool:
        """Returns whether it will be scored; else there was no room."""
        if len(self._waiting) >= self._most:
            self._count("dropped")
            self._give_up(later)
            return False
        later.held.take()
        self._waiting.append(later)
        if later.name is not None:
            self._named[later.name] = later
        self._begin_soon()
        return True

    async def settled(self, names: Iterable[str], limit_s: float) -> None:
        """Returns when none of these decisions waits here any more, or after `limit_s`; they are begun at once."""
        wanted = [self._named[name] for name in names if name in self._named]
        if wanted:
            self._want(wanted)
            await asyncio.wait([later.done for later in wanted], timeout=limit_s)

    def gave_up(self, name: str) -> bool:
        """Returns whether this decision was not scored and will not be, as far as this process remembers."""
        return name in self._given_up

    async def idle(self) -> None:
        """Returns when nothing waits and nothing is being scored."""
        while self._waiting or self._running is not None:
            self._want(tuple(self._waiting))
            unfinished = [self._running] if self._running is not None else [later.done for later in self._waiting]
            await asyncio.wait(unfinished)

    def hurry(self) -> None:
        """Has what waits scored at once, and what still comes: at the end of the process no other is worth waiting for."""
        self._gather_s, self._ending = 0.0, True
        self._want(tuple(self._waiting))

    async def aclose(self) -> None:
        """Drops what waits."""
        for timer in (self._timer, self._rest):
            if timer is not None:
                timer.cancel()
        if self._waiting:
            _log.warning("answers are left unscored", decisions=len(self._waiting))
        self._wanted.clear()
        while self._waiting:  # before the task is cancelled, whose end would begin the next
            self._end(self._waiting.popleft(), "dropped")
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def _begin_soon(self) -> None:
        if self._running is not None or self._rest is not None or not self._waiting:
            return
        if self._wanted or len(self._waiting) >= TOGETHER:
            self._begin()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._gather_s, self._begin)

    def _want(self, needed: Sequence[Later]) -> None:
        """Has these scored next, and what is being scored, as what somebody asks for."""
        self._wanted.update(set(needed).intersection(self._waiting))
        self._waiting = deque(sorted(self._waiting, key=lambda later: later not in self._wanted))
        self._asked = True
        if self._scorer is not None:
            self._scorer.hurry()
        self._begin()

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is None and self._rest is None and self._waiting:
            self._running = asyncio.ensure_future(self._run())
            self._running.add_done_callback(self._ran)

    def _ran(self, _task: asyncio.Task[None]) -> None:
        self._running = None
        self._begin_soon()  # for what came meanwhile

    async def _run(self) -> None:
        scorer = self._waiting[0].scorer
        together: list[Later] = []
        while self._waiting and len(together) < TOGETHER and self._waiting[0].scorer is scorer:
            together.append(self._waiting.popleft())
        wanted = self._wanted.intersection(together)
        self._asked = bool(wanted)
        self._wanted -= wanted
        outcomes: dict[Later, Outcome | Literal["again"]] = dict.fromkeys(together, "dropped")  # what a cancellation leaves
        self._scorer = scorer
        try:
            await _score(scorer, together, outcomes, self._limit_s, lambda: self._asked)
        finally:
            self._scorer = None
            again = []
            for later in together:
                if (outcome := outcomes[later]) != "again":
                    self._end(later, outcome)
                elif self._ending:
                    self._end(later, "failed")
                else:
                    again.append(later)
            if again:
                self._waiting.extendleft(reversed(again))
                self._wanted |= wanted.intersection(again)
                self._rest = asyncio.get_running_loop().call_later(self._retry_s, self._rested)

    def _rested(self) -> None:
        self._rest = None
        self._begin()

    def _end(self, later: Later, outcome: Outcome) -> None:
        self._count(outcome)
        if later.name is not None:
            self._named.pop(later.name, None)
        if outcome != "scored":
            self._give_up(later)
        later.held.give_back()
        if not later.done.done():
            later.done.set_result(None)

    def _give_up(self, later: Later) -> None:
        if later.name is not None:
            self._given_up.append(later.name)


async def _score(
    scorer: TextScorer,
    together: Sequence[Later],
    outcomes: dict[Later, Outcome | Literal["again"]],
    limit_s: float,
    wanted: Callable[[], bool],
) -> None:
    try:
        read = [await later.read() for later in together]
        rows = (await scorer.submit([text for texts in read for text in texts], limit_s, spare=not wanted())).rows
        start = 0
        for later, texts in zip(together, read, strict=True):
            await later.keep(rows[start : start + len(texts)])
            start += len(texts)
            outcomes[later] = "scored"
    except AttuneError as error:  # the scorer is full, late or broken: counted, and its own metrics say more
        passes, now_s = isinstance(error, ComeBackLater | NotReady), asyncio.get_running_loop().time()
        left = [later for later in together if outcomes[later] != "scored"]
        outcomes.update({later: "again" if passes and now_s - later.put_at_s < limit_s else "failed" for later in left})
        if failed := sum(outcomes[later] == "failed" for later in left):
            _log.warning("answers are left unscored", decisions=failed, code=error.code, reason=error.detail)
    except Exception as error:  # noqa: BLE001  nobody awaits this: the next answers must be scored all the same
        outcomes.update({later: "failed" for later in together if outcomes[later] != "scored"})
        _log.error("unexpected error while answers were scored", kind=type(error).__name__, exc_info=error)
