"""What batching, members and the queue report, as metrics: adapters between plain callbacks and `observe.metrics`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

from attune.service.batching.submission import BatchReport
from attune.service.live.health import PARTS, Health
from attune.service.live.runtime import Live
from attune.service.members.breaker import State
from attune.service.members.member import Reason
from attune.service.members.roster import Observers, Outcome
from attune.service.observe.metrics import Metrics


def watch_batch(metrics: Metrics) -> Callable[[BatchReport], None]:
    """Returns the batcher's `on_batch`."""

    def observe(report: BatchReport) -> None:
        metrics.batch_ran(
            items=report.items,
            padded_tokens=report.padded_tokens,
            real_tokens=report.real_tokens,
            inference_s=report.inference_s,
            queue_s=report.queue_s,
        )

    return observe


def watch_live(metrics: Metrics, live: Live, in_flight: Callable[[], float]) -> None:
    """Lets the gauges read from whatever serves at the time of a scrape."""
    metrics.watch_in_flight(in_flight)
    metrics.watch_users(
        lambda: live.serving.recent.mean_gap() if live.serving else math.nan,
        lambda: len(live.serving.recent) if live.serving else 0,
    )
    metrics.watch_queue(
        lambda: live.serving.batcher.waiting_items if live.serving else 0,
        lambda: live.serving.batcher.waiting_tokens if live.serving else 0,
    )


def watch_health(metrics: Metrics, health: Health) -> None:
    """Lets the gauges of readiness show what `/readyz` answers."""
    metrics.watch_ready(lambda: health.ready, {part: partial(health.part_is_well, part) for part in PARTS})


@dataclass(slots=True)
class MemberRun:
    """What is known so far of the member that writes in this task."""

    began_s: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    failure: Reason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


_run: ContextVar[MemberRun | None] = ContextVar("_run", default=None)


def begin_member_run() -> None:
    """Starts the clock of the first member that is asked in this task; each further one begins where the last one ended."""
    _run.set(MemberRun())


def _current() -> MemberRun:
    run = _run.get()
    if run is None:  # a stream that was opened elsewhere and ends here: counted, with nothing known of its beginning
        run = MemberRun()
        _run.set(run)
    return run


def member_observers(metrics: Metrics) -> Observers:
    """Returns what the roster tells of each generation; the pieces of one run come from one task, between `begin` and its end."""

    def first_token(_member: str, seconds: float) -> None:
        _current().first_token_s = seconds

    def tokens(_member: str, prompt_tokens: int, completion_tokens: int) -> None:
        run = _current()
        run.prompt_tokens, run.completion_tokens = prompt_tokens, completion_tokens

    def failed(_member: str, reason: Reason) -> None:
        _current().failure = reason

    def ended(member: str, outcome: Outcome) -> None:
        run = _current()
        _run.set(MemberRun())
        result = run.failure or {"complete": "ok", "left": "cancelled", "failed": "error"}[outcome]
        seconds = time.monotonic() - run.began_s
        metrics.member_ran(member, result, seconds, run.first_token_s, run.prompt_tokens, run.completion_tokens)

    def breaker(member: str, state: State) -> None:
        metrics.breaker_moved(member, is_open=state == "open")

    return Observers(request=ended, failure=failed, tokens=tokens, first_token=first_token, breaker=breaker)
