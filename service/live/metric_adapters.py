"""What batching, members and the queue report, as metrics: adapters between plain callbacks and `observe.metrics`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from functools import partial

from attune.service.batching.submission import BatchReport
from attune.service.live.health import PARTS, Health
from attune.service.live.runtime import Live
from attune.service.members.breaker import State
from attune.service.members.roster import MemberRun, Observers
from attune.service.observe.metrics import Metrics


def watch_batch(metrics: Metrics) -> Callable[[BatchReport], None]:
    """Returns the batcher's `on_batch`."""

    def observe(report: BatchReport) -> None:
        metrics.batch_ran(
            items=report.items,
            padded_tokens=report.padded_tokens,
            real_tokens=report.real_tokens,
            inference_s=report.inference_s,
            busy_s=report.busy_s,
            queue_s=report.queue_s,
        )

    return observe


def watch_live(metrics: Metrics, live: Live, in_flight: Callable[[], float]) -> None:
    """Lets the gauges read from whatever serves at the time of a scrape."""
    metrics.watch_in_flight(in_flight)
    metrics.watch_tasks(_tasks)
    metrics.watch_users(
        lambda: live.serving.recent.mean_gap() if live.serving else math.nan,
        lambda: len(live.serving.recent) if live.serving else 0,
    )
    metrics.watch_queue(
        lambda: live.serving.batcher.waiting_items if live.serving else 0,
        lambda: live.serving.batcher.waiting_tokens if live.serving else 0,
    )


def _tasks() -> float:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # asked outside of the loop
        return math.nan


def watch_health(metrics: Metrics, health: Health) -> None:
    """Lets the gauges of readiness show what `/readyz` answers."""
    metrics.watch_ready(lambda: health.ready, {part: partial(health.part_is_well, part) for part in PARTS})


def member_observers(metrics: Metrics, prices: Mapping[str, float]) -> Observers:
    """Returns what is told of each generation, and what it cost; `prices` are of a token, for the members that have one."""

    def ended(run: MemberRun) -> None:
        result = run.failure or {"complete": "ok", "left": "cancelled", "failed": "error"}[run.outcome]
        metrics.member_ran(run.member, result, run.seconds, run.first_token_s, run.prompt_tokens, run.completion_tokens)
        if price := prices.get(run.member):
            metrics.member_cost(run.member, price * (run.prompt_tokens + run.completion_tokens))

    def breaker(member: str, state: State) -> None:
        metrics.breaker_moved(member, is_open=state == "open")

    return Observers(run=ended, breaker=breaker)
