"""A running batcher for tests, what it reports, and how to wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from attune.service.batching.batcher import Batcher
from attune.service.batching.session import Scorer
from attune.service.batching.submission import BatchReport, Drop, Submitted
from tests.batching.scorers import GatedScorer, text

LONG_S = 60.0


class Reports:
    """What a batcher reported."""

    def __init__(self) -> None:
        self.batches: list[BatchReport] = []
        self.drops: list[tuple[Drop, int]] = []


@asynccontextmanager
async def serving(
    scorer: Scorer, reports: Reports | None = None, *, clock: Callable[[], float] = time.monotonic, **changes: Any
) -> AsyncIterator[Batcher]:
    settings: dict[str, Any] = {
        "max_items": 100,
        "max_tokens": 10_000,
        "max_text_tokens": 400,
        "budget_tokens": 400,
        "overhead_tokens": 1e6,
    }
    reports = reports or Reports()
    batcher = Batcher(
        scorer,
        canary=text(1, 2),
        on_batch=reports.batches.append,
        on_drop=lambda why, count: reports.drops.append((why, count)),
        clock=clock,
        **(settings | changes),
    )
    batcher.start()
    try:
        yield batcher
    finally:
        for each in (scorer, changes.get("beside")):
            if isinstance(each, GatedScorer):
                each.release(1000)
        await batcher.aclose()


async def until(happened: Callable[[], bool]) -> None:
    """Lets the loop run until something has happened, which needs the loop alone."""
    async with asyncio.timeout(LONG_S):
        for _ in range(1_000_000):
            if happened():
                return
            await asyncio.sleep(0)
    raise AssertionError("it did not happen")


async def settle() -> None:
    """Lets everything that is ready on the loop run; three turns are more than any hand-over here takes."""
    for _ in range(3):
        await asyncio.sleep(0)


def start(coroutine: Coroutine[Any, Any, Submitted]) -> asyncio.Task[Submitted]:
    return asyncio.ensure_future(coroutine)


async def occupied(scorer: GatedScorer, batcher: Batcher) -> asyncio.Task[Submitted]:
    """Returns a submission of one text whose batch the worker now holds at the gate."""
    task = start(batcher.submit([text(1, 1)], LONG_S))
    assert await scorer.entered.get() == [2]
    return task


# --- rows -------------------------------------------------------------------------------------------------------------
