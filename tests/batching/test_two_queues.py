"""Texts that nobody waits for: behind what is asked, on one core, and in time all the same."""

from __future__ import annotations

import asyncio

import pytest

from attune.models.seam.families import Row
from attune.service.batching.running import SPARE_TOKENS, NextBatch
from attune.service.batching.submission import Submission
from attune.service.batching.two_queues import PATIENCE_S, TwoQueues
from attune.service.errors import DeadlineExceeded, NotReady, Overloaded
from tests.batching.scorers import GatedScorer, texts
from tests.batching.serving import LONG_S, Reports, serving, settle, start


async def test_what_is_asked_goes_first_and_never_in_one_batch_with_the_rest() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        first = start(batcher.submit(texts(3), LONG_S))
        assert await scorer.entered.get() == [3]
        spare = start(batcher.submit(texts(5, 5), LONG_S, spare=True))
        await settle()
        asked = start(batcher.submit(texts(5), LONG_S))
        await settle()
        assert batcher.waiting_items == 3
        scorer.release(3)
        await asyncio.gather(first, spare, asked)
    assert scorer.batches == [[3], [5], [5, 5]]


async def test_where_cores_are_shared_it_has_one_of_them_and_whoever_comes_has_another_at_once() -> None:
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, beside=beside, at_once=2) as batcher:
        size = SPARE_TOKENS // 2
        spare = start(batcher.submit(texts(size, size, size), LONG_S, spare=True))
        assert await beside.entered.get() == [size, size]
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (2, 1)  # the rest waits for its end, and leaves a core free
        asked = start(batcher.submit(texts(3), LONG_S))
        assert await beside.entered.get() == [3]
        beside.release(2)
        await asked
        assert await beside.entered.get() == [size]
        beside.release()
        assert len((await spare).rows) == 3
    assert spread.batches == []


async def test_it_begins_at_once_where_all_that_was_asked_came_too_late() -> None:
    scorer, reports, now = GatedScorer(), Reports(), [0.0]
    async with serving(scorer, reports, clock=lambda: now[0]) as batcher:
        first = start(batcher.submit(texts(3), LONG_S))
        assert await scorer.entered.get() == [3]
        late = [batcher.begin(texts(size), 1.0) for size in (4, 6)]
        spare = start(batcher.submit(texts(5), LONG_S, spare=True))
        await settle()
        now[0] = 2.0
        scorer.release()
        await first
        async with asyncio.timeout(LONG_S / 12):
            assert await scorer.entered.get() == [5]
        for each in late:
            assert isinstance(each.answered.exception(), DeadlineExceeded)
            batcher.leave(each)
        scorer.release()
        assert len((await spare).rows) == 1
    assert ("expired", 1) in reports.drops


async def test_it_does_not_begin_while_anything_else_runs() -> None:
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, beside=beside, at_once=4) as batcher:
        asked = start(batcher.submit(texts(3), LONG_S))
        assert await spread.entered.get() == [3]
        spare = start(batcher.submit(texts(4), LONG_S, spare=True))
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (1, 1)
        spread.release()
        await asked
        assert await beside.entered.get() == [4]
        beside.release()
        await spare


async def test_after_its_patience_it_is_asked_as_everything_else() -> None:
    now_s = 100.0
    scorer, reports = GatedScorer(), Reports()
    async with serving(scorer, reports, clock=lambda: now_s) as batcher:
        first = start(batcher.submit(texts(3), LONG_S))
        assert await scorer.entered.get() == [3]
        spare = start(batcher.submit(texts(5), LONG_S, spare=True))
        await settle()
        later = [start(batcher.submit(texts(300), LONG_S)) for _ in range(3)]
        await settle()
        scorer.release()
        assert await scorer.entered.get() == [300]
        now_s += PATIENCE_S + 0.5
        scorer.release()
        assert await scorer.entered.get() == [300]  # it is at the end of those who ask now
        behind = start(batcher.submit(texts(301), LONG_S))
        await settle()
        scorer.release(10)
        await asyncio.gather(first, spare, behind, *later)
    assert scorer.batches.index([5]) < scorer.batches.index([301])
    # What it waited while nobody asked is not in the times that an operator sees.
    assert max(wait_s for report in reports.batches if report.real_tokens == 5 for wait_s in report.queue_s) < PATIENCE_S


async def test_who_comes_to_need_it_has_it_asked_and_it_can_still_be_left() -> None:
    scorer, reports = GatedScorer(), Reports()
    async with serving(scorer, reports, budget_tokens=40) as batcher:
        first = start(batcher.submit(texts(40), LONG_S))
        assert await scorer.entered.get() == [40]
        spare, left = (start(batcher.submit(texts(size, size), LONG_S, spare=True)) for size in (39, 38))
        await settle()
        batcher.hurry()
        later = start(batcher.submit(texts(37), LONG_S))
        await settle()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        scorer.release(10)
        await asyncio.gather(first, spare, later)
    assert scorer.batches == [[40], [39], [39], [37]]
    assert reports.drops == [("abandoned", 2)]


async def test_where_those_who_ask_have_no_room_for_it_it_stays_where_it_is() -> None:
    scorer = GatedScorer()
    async with serving(scorer, max_items=2) as batcher:
        first = start(batcher.submit(texts(3), LONG_S))
        assert await scorer.entered.get() == [3]
        spare = start(batcher.submit(texts(6, 6), LONG_S, spare=True))
        asked = start(batcher.submit(texts(4, 4), LONG_S))
        await settle()
        batcher.hurry()
        with pytest.raises(Overloaded):
            await batcher.submit(texts(5, 5, 5)[:2], LONG_S, spare=True)
        scorer.release(10)
        await asyncio.gather(first, spare, asked)
    assert scorer.batches == [[3], [4, 4], [6, 6]]


async def test_what_has_waited_long_and_finds_no_room_is_not_moved_about_at_every_batch() -> None:
    queue, item = TwoQueues[Row](max_items=10, max_tokens=1000, budget_tokens=100, overhead_tokens=1, age_limit_s=1.0), texts(3)[0]

    def put(many: int, *, spare: bool) -> Submission[Row]:
        submission: Submission[Row] = Submission(asyncio.Future(), [item] * many, 0.0, 60.0, spare=spare)
        queue.put(submission, [3] * many)
        return submission

    first, second = put(4, spare=True), put(2, spare=True)
    put(8, spare=False)
    places = first.waiting, second.waiting
    queue.waiting(PATIENCE_S + 1.0)
    assert (first.spare, second.spare) == (True, True)  # nobody goes past the one who came first
    assert (first.waiting, second.waiting) == places
    queue.take(PATIENCE_S + 1.0, NextBatch(6))
    queue.waiting(PATIENCE_S + 1.0)
    assert (first.spare, second.spare) == (False, True)
    assert queue.asked.items == 10


async def test_whoever_leaves_takes_their_own_texts_along_and_those_of_the_other_queue_stay() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        first = start(batcher.submit(texts(3), LONG_S))
        assert await scorer.entered.get() == [3]
        asked = [start(batcher.submit(texts(7), LONG_S)) for _ in range(2)]
        spare = [start(batcher.submit(texts(8), LONG_S, spare=True)) for _ in range(2)]
        await settle()
        for task in (asked[0], spare[1]):
            task.cancel()
        await asyncio.gather(asked[0], spare[1], return_exceptions=True)
        assert batcher.waiting_items == 2
        scorer.release(10)
        await asyncio.gather(first, asked[1], spare[0])
    assert scorer.batches == [[3], [7], [8]]


async def test_its_wait_is_no_wait_of_a_request() -> None:
    scorer, reports = GatedScorer(), Reports()
    async with serving(scorer, reports) as batcher:
        task = start(batcher.submit(texts(4), LONG_S, spare=True))
        scorer.release()
        await task
    assert [(report.items, report.queue_s) for report in reports.batches] == [(1, ())]


async def test_what_ran_before_somebody_asked_for_it_waited_for_nobody() -> None:
    scorer, reports, now_s = GatedScorer(), Reports(), 0.0
    async with serving(scorer, reports, clock=lambda: now_s, budget_tokens=4) as batcher:
        task = start(batcher.submit(texts(4, 4), LONG_S, spare=True))
        assert await scorer.entered.get() == [4]
        now_s = 1.0
        batcher.hurry()
        now_s = 3.0
        scorer.release(2)
        await task
    assert [report.queue_s for report in reports.batches] == [(), (2.0,)]


async def test_a_scorer_that_ends_answers_it_first_and_one_that_closes_says_that_it_does() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        spare = start(batcher.submit(texts(4), LONG_S, spare=True))
        await settle()
        scorer.release(1)
        await batcher.drain()
        assert len((await spare).rows) == 1
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        first = start(batcher.submit(texts(3), LONG_S))
        assert await scorer.entered.get() == [3]
        spare = start(batcher.submit(texts(4), LONG_S, spare=True))
        await settle()
        scorer.release(1)
        await batcher.aclose()
        await first
        with pytest.raises(NotReady):
            await spare
