"""Several scorers' processes as one: who is asked, what happens when one ends, and what all of them are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from attune.service.batching.remote import RemoteBatcher, ScorerLink
from attune.service.batching.spread import SpreadBatcher
from attune.service.errors import DeadlineExceeded, NotReady
from attune.service.live.opened_scorer import SharedScorer
from attune.service.live.scorer_process import RequestsDoor
from tests.batching.scorers import texts
from tests.batching.serving import LONG_S, serving, start, until
from tests.batching.test_remote import LAYOUT, Behind, FlatScorer


class Two:
    """Two scorers behind sockets of their own, and the batcher that spreads over them."""

    def __init__(self, scorers: list[FlatScorer], links: list[ScorerLink], closed: list[str]) -> None:
        self.scorers, self.links, self.closed = scorers, links, closed

        async def one_closed() -> None:
            closed.append("one")

        async def all_closed() -> None:
            closed.append("all")

        self.spread = SpreadBatcher(
            [RemoteBatcher(link, generation=7, layout=LAYOUT, max_text_tokens=400, closed=one_closed) for link in links], all_closed
        )

    def submit(self, *lengths: int, **changes: Any) -> asyncio.Task[Any]:
        return start(self.spread.submit(texts(*lengths), LONG_S, **changes))


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    scorers, links = [FlatScorer(), FlatScorer()], [ScorerLink(), ScorerLink()]
    async with AsyncExitStack() as stack:
        for index, (scorer, link) in enumerate(zip(scorers, links, strict=True)):
            behind = Behind()
            behind.opened = SharedScorer(await stack.enter_async_context(serving(scorer)), "toy", 400, LAYOUT)
            door: Any = partial(RequestsDoor, behind)  # type: ignore[arg-type]
            server = await asyncio.get_running_loop().create_unix_server(door, str(tmp_path / str(index)))
            stack.callback(server.close)
            await link.connect(str(tmp_path / str(index)))
            stack.callback(link.close)
        yield Two(scorers, links, [])


async def test_each_submission_goes_whole_to_the_one_that_has_least_to_do(two: Two) -> None:
    first = two.submit(9, 9)
    assert await two.scorers[0].entered.get() == [9, 9]
    second = two.submit(5)
    assert await two.scorers[1].entered.get() == [5]
    third, fourth = two.submit(7), two.submit(8)  # 18 tokens on the one side and 5 on the other; then 12
    await until(lambda: two.spread._asked_tokens == [18, 20])
    for scorer in two.scorers:
        scorer.release(9)
    rows = [found.rows[0]["toy_rewards"].tolist() for found in await asyncio.gather(first, second, third, fourth)]
    assert rows == [[9, 9], [5, 5], [7, 7], [8, 8]]
    assert two.scorers[0].batches == [[9, 9]]
    assert two.spread._asked_tokens == [0, 0]
    assert two.spread.drain_tokens_per_s > 0


async def test_one_that_has_ended_is_passed_over_and_only_its_own_callers_hear_of_it(two: Two) -> None:
    lost, kept = two.submit(9), two.submit(5)
    for scorer in two.scorers:
        await scorer.entered.get()
    two.links[0].close()
    with pytest.raises(NotReady):
        await lost
    assert two.spread.alive
    two.scorers[1].release(9)
    await kept
    assert [len((await two.submit(length)).rows) for length in (3, 4)] == [1, 1]
    assert two.scorers[1].batches == [[5], [3], [4]]
    two.links[1].close()
    await until(lambda: not two.spread.alive)
    for asked in (two.submit(3), start(two.spread.canary(LONG_S))):
        with pytest.raises(NotReady):
            await asked


class Standing:
    """Stands in for a `RemoteBatcher`, and says whether its process answers."""

    def __init__(self) -> None:
        self.alive, self.hangs = True, False
        self.asked = 0

    async def canary(self, deadline_s: float) -> float:
        if self.hangs:
            raise DeadlineExceeded(f"not within {deadline_s} s")
        return 0.25

    async def submit(self, items: Any, deadline_s: float, *, spare: bool) -> None:
        assert (items, deadline_s, spare) != ((), 0.0, True)
        self.asked += 1


async def test_one_that_hangs_is_passed_over_until_its_canary_is_answered() -> None:
    first, second = Standing(), Standing()
    spread = SpreadBatcher([first, second], lambda: asyncio.sleep(0))  # type: ignore[list-item]  what it needs of them

    async def asked_after_canary() -> list[int]:
        first.asked = second.asked = 0
        assert await spread.canary(LONG_S) == 0.25
        for _ in range(4):
            await spread.submit(texts(9), LONG_S)
        return [first.asked, second.asked]

    assert await asked_after_canary() == [4, 0]
    first.hangs = True
    assert await asked_after_canary() == [0, 4]
    second.alive = False  # better one that may hang than one that is not there
    with pytest.raises(DeadlineExceeded):
        await spread.canary(LONG_S)
    await spread.submit(texts(9), LONG_S)
    assert first.asked == 1
    second.alive, second.hangs = True, True
    with pytest.raises(DeadlineExceeded):
        await spread.canary(LONG_S)
    first.hangs = second.hangs = False
    assert await asked_after_canary() == [4, 0]


async def test_the_canary_is_run_by_each(two: Two) -> None:
    asked = start(two.spread.canary(LONG_S))
    for scorer in two.scorers:
        assert await scorer.entered.get() == [2]
        scorer.release()
    assert await asked >= 0


async def test_all_hear_that_somebody_waits_now_and_the_end_is_told_once(two: Two) -> None:
    running = [two.submit(9), two.submit(9)]
    for scorer in two.scorers:
        await scorer.entered.get()
    spare = [two.submit(4, spare=True), two.submit(4, spare=True)]
    later = [two.submit(300), two.submit(300)]
    await until(lambda: two.spread._asked_tokens == [313, 313])
    two.spread.hurry()
    for scorer in two.scorers:
        scorer.release(9)
    await asyncio.gather(*running, *spare, *later)
    await two.spread.aclose()
    await two.spread.aclose()
    assert two.closed == ["one", "one", "all"]
    with pytest.raises(NotReady):
        await two.submit(3)
