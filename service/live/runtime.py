"""What one process serves with, and what one request holds of it.

    Live (phase, the current Serving) ──lease──> Call (caller, serving, deadline, timings)

A reload puts another `Serving` in place; requests that hold the old one finish on it, and then it is closed. `Runtime` is what outlives
bundles: store, members' numbers, limits, metrics. Both are frozen; the one thing that moves is `Live`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.bundle import Bundle
from attune.models.seam.evidence import Decay
from attune.models.seam.text import TextEncoder
from attune.service.auth import Caller
from attune.service.batching.remote import TextScorer
from attune.service.errors import DeadlineExceeded, NotReady
from attune.service.live.leases import Leases
from attune.service.live.member_tally import MemberTally
from attune.service.live.recent_users import RecentUsers
from attune.service.live.remembered_rows import MOST_ANSWERS, MOST_PROMPTS, RememberedRows
from attune.service.live.score_queue import ScoringLater
from attune.service.live.standing import Standings
from attune.service.members.roster import Roster
from attune.service.observe.metrics import Metrics
from attune.service.observe.timing import Timings
from attune.service.state.store import Limits, Store

T = TypeVar("T")
Phase = Literal["starting", "ready", "draining", "stopping"]
"""`draining`: the end was announced and requests are still taken, so that nobody is refused before the news has spread."""


# The numbers of each consumer, under the names that their settings have; `settings.numbers_for` fills them.


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds of a request, checked before anything is done for it."""

    max_candidates: int
    max_generate_candidates: int
    max_prompt_chars: int
    max_response_chars: int
    max_new_tokens: int


# About two milliseconds of draw and law on a core of 2026; 8,192 samples of 8 members, or 160 of 400.
MOST_DRAWN_VALUES = 65_536
LEAST_SAMPLES = 16


@dataclass(frozen=True, slots=True)
class RoutingNumbers:
    """How members are drawn.

    Attributes:
        routing_epsilon: share of decisions drawn uniformly.
        routing_hysteresis: reward by which another member must be better before policy `best` leaves the one that served last; 0 keeps
            nobody.
        routing_cost_weight: reward that the dearest member's cost is worth; 0 weighs no costs.
        posterior_samples: behind one decision, unless there are very many members: see `samples_for`.
    """

    routing_epsilon: float
    routing_hysteresis: float
    routing_cost_weight: float
    posterior_samples: int

    def samples_for(self, members: int) -> int:
        """Returns how many samples a decision among so many members takes; the draw is made on the event loop and holds everybody."""
        return max(LEAST_SAMPLES, min(self.posterior_samples, MOST_DRAWN_VALUES // max(1, members)))


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is kept of a request: for how long its decision, whether prompts and answers are, and what is scored after it was sent.

    Attributes:
        score_later_share: of the answers that nobody asked to have scored, once `score_later_until` of each member are known.
    """

    decision_ttl_s: float
    keep_text: bool
    score_later_share: float
    score_later_until: int


@dataclass(frozen=True, slots=True)
class Serving:
    """One bundle, loaded: everything that must be swapped together.

    Attributes:
        family: the family that serves where a request names none.
        shadows: families whose predictions are measured while they do not serve.
        candidate_outputs, prompt_outputs: scorer outputs that a decision keeps.
        provider: what runs the scorer.
        budget_tokens: padded tokens of a batch.
        owns_members: whether members end with it; not where they were given from outside.
        costs: `[M]` of the members, in the order of the portfolio, from price and latency; within 0 and 1.
        priced: the members with a price, whose tokens are counted as cost.
        standings: what the members are worth, by tenant.
        recent: the users that it routed of late.
        prompts, judged: what the scorer said of the last prompts, and of the last answers that somebody judged by their texts.
    """

    bundle: Bundle
    encoder: TextEncoder
    batcher: TextScorer
    roster: Roster
    family: str
    shadows: tuple[str, ...]
    candidate_outputs: tuple[str, ...]
    prompt_outputs: tuple[str, ...]
    provider: str
    budget_tokens: int
    owns_members: bool
    costs: NDArray[np.float64]
    priced: tuple[str, ...]
    standings: Standings
    recent: RecentUsers = field(default_factory=RecentUsers)
    prompts: RememberedRows = field(default_factory=lambda: RememberedRows(MOST_PROMPTS))
    judged: RememberedRows = field(default_factory=lambda: RememberedRows(MOST_ANSWERS))
    leases: Leases = field(default_factory=Leases)

    async def aclose(self) -> None:
        """Closes members and scorer; requests that still hold it fail."""
        if self.owns_members:
            await self.roster.aclose()
        await self.batcher.aclose()


@dataclass(frozen=True, slots=True)
class Runtime:
    """What outlives bundles.

    Attributes:
        bounds: what the store keeps of one user at most.
        user_secret: hashes user ids.
        clock: Unix seconds.
        user_header: names the user of a compatible request that names nobody; empty: none.
        root_path: what a proxy puts in front of our paths.
        reload: loads and checks another bundle and puts it in place; its caller gets the new `Serving`.
        tally: takes in what members answered.
        later: scores answers after they were sent.
    """

    store: Store
    metrics: Metrics
    limits: RequestLimits
    routing: RoutingNumbers
    keeping: Keeping
    bounds: Limits
    decay: Decay
    user_secret: bytes
    clock: Callable[[], float]
    reload: Callable[[Path | None], Awaitable[Serving]]
    tally: MemberTally
    later: ScoringLater
    user_header: str = ""
    root_path: str = ""
    _unfinished: set[asyncio.Task[Any]] = field(default_factory=set)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns what `work` returns; it runs to its end even if the caller leaves meanwhile."""
        task = asyncio.ensure_future(work)
        self._unfinished.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._unfinished.discard(task)
        if not task.cancelled():
            task.exception()  # asked for, because the caller may have left before it

    async def all_finished(self) -> None:
        """Returns when no work whose caller left is unfinished."""
        while self._unfinished:
            await asyncio.wait(set(self._unfinished))


class Live:
    """The phase of the process and what serves now."""

    __slots__ = ("phase", "runtime", "serving")

    def __init__(self) -> None:
        self.phase: Phase = "starting"
        self.runtime: Runtime | None = None
        self.serving: Serving | None = None

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.phase == "ready"

    def check_serving(self) -> None:
        """Returns when requests are taken.

        Raises:
            NotReady: the process is starting or stopping.
        """
        if self.phase not in {"ready", "draining"} or self.serving is None:
            raise NotReady(f"the service is {self.phase}")

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[tuple[Runtime, Serving]]:
        """Holds the current `Serving`, so that it is not closed meanwhile.

        Raises:
            NotReady: the process is starting or stopping.
        """
        runtime, serving = self.runtime, self.serving
        self.check_serving()
        assert runtime is not None
        assert serving is not None
        serving.leases.take()
        try:
            yield runtime, serving
        finally:
            serving.leases.give_back()


@dataclass(slots=True)
class TextReading:
    """How a request's texts are read, and what of them the scorer could not read.

    Attributes:
        truncate: whether a text that is too long is cut; else it is refused.
        truncated_prompt_tokens: cut from the prompt, at most for any of the responses; its start is what is cut.
        truncated_tokens: cut from the prompt and from all responses.
        unknown_tokens: of what was read, those for which the tokenizer has no token of their own.
    """

    truncate: bool = True
    truncated_prompt_tokens: int = 0
    truncated_tokens: int = 0
    unknown_tokens: int = 0


@dataclass(slots=True, eq=False)
class Call:
    """One admitted request.

    Attributes:
        reading: of its texts.
        deadline_at_s: on the clock of the event loop.
        headers: added to the response.
    """

    runtime: Runtime
    serving: Serving
    caller: Caller
    request_id: str
    deadline_at_s: float
    timings: Timings
    headers: dict[str, str] = field(default_factory=dict)
    reading: TextReading = field(default_factory=TextReading)

    @property
    def kept_under(self) -> str:
        """The name of the sums that this request reads and adds to: the bundle's basis, and the half-life where there is one."""
        return self.runtime.decay.keep_under(self.serving.bundle.basis)

    @property
    def left_s(self) -> float:
        """Seconds until the deadline.

        Raises:
            DeadlineExceeded: none are left.
        """
        left_s = self.deadline_at_s - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise DeadlineExceeded("the request's deadline passed before its next step could begin")
        return left_s
