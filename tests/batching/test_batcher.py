"""The batcher: rows, admission and callers who leave."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from attune.service.batching.session import ScorerSession
from attune.service.batching.submission import BatchReport
from attune.service.errors import Overloaded, TooLarge
from tests.batching.scorers import NAN_ID, GatedScorer, text, texts
from tests.batching.serving import LONG_S, Reports, occupied, serving, settle, start


async def test_every_caller_gets_the_rows_of_its_own_texts_in_its_own_order(toy: Path, rng: np.random.Generator) -> None:
    session = ScorerSession(toy, threads=1)
    callers = [
        [text(*(int(token) for token in rng.integers(0, NAN_ID, size=size))) for size in rng.integers(1, 200, size=count)]
        for count in rng.integers(1, 9, size=40)
    ]
    expected = [[session.run([item])[0] for item in items] for items in callers]
    reports = Reports()
    async with serving(session, reports, max_items=1000, max_tokens=10**6, overhead_tokens=16) as batcher:
        answers = await asyncio.gather(*(batcher.submit(items, LONG_S) for items in callers))
    for answer, rows in zip(answers, expected, strict=True):
        assert len(answer.rows) == len(rows)
        for found, alone in zip(answer.rows, rows, strict=True):
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                np.testing.assert_array_equal(found[name], value)
    assert sum(report.items for report in reports.batches) == sum(len(items) for items in callers)
    assert sum(report.real_tokens for report in reports.batches) == sum(len(item) for items in callers for item in items)
    assert max(report.items for report in reports.batches) > 1


async def test_no_texts_are_answered_with_no_rows() -> None:
    async with serving(GatedScorer()) as batcher:
        assert (await batcher.submit([], LONG_S)).rows == []
        await batcher.drain()


async def test_submissions_of_one_turn_of_the_loop_share_the_first_batch() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        tasks = [start(batcher.submit(texts(5, 5), LONG_S)) for _ in range(3)]
        assert await scorer.entered.get() == [5] * 6
        scorer.release()
        await asyncio.gather(*tasks)


async def test_while_one_batch_runs_the_next_collects_shortest_first() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        first = await occupied(scorer, batcher)
        others = [start(batcher.submit(texts(*sizes), LONG_S)) for sizes in [(9, 4), (7,), (4, 5)]]
        await settle()
        assert (batcher.running_items, batcher.waiting_items, batcher.waiting_tokens) == (1, 5, 29)
        scorer.release()
        await first
        assert await scorer.entered.get() == [4, 4, 5, 7, 9]
        scorer.release()
        answers = await asyncio.gather(*others)
        assert [[row["toy_rewards"][1] for row in answer.rows] for answer in answers] == [[9, 4], [7], [4, 5]]


async def test_a_batch_that_is_full_already_is_formed_while_one_runs_and_another_is_not() -> None:
    scorer = GatedScorer()
    async with serving(scorer, budget_tokens=40) as batcher:
        first = await occupied(scorer, batcher)
        others = [start(batcher.submit(texts(10, 10, 10, 10), LONG_S)) for _ in range(3)]
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (5, 8)
        scorer.release(4)
        await asyncio.gather(first, *others)


async def test_waiting_and_inference_add_up_to_the_whole_time_on_the_clock_given() -> None:
    now_s = 100.0
    scorer = GatedScorer()
    reports = Reports()
    async with serving(scorer, reports, clock=lambda: now_s) as batcher:
        first = await occupied(scorer, batcher)
        second = start(batcher.submit(texts(8), LONG_S))
        await settle()
        now_s = 103.0
        scorer.release()
        assert await scorer.entered.get() == [8]
        now_s = 105.0
        scorer.release()
        assert ((await first).queue_s, (await first).inference_s) == (0.0, 3.0)
        assert ((await second).queue_s, (await second).inference_s) == (3.0, 2.0)
        assert batcher.drain_tokens_per_s == pytest.approx((0.9 * 2 + 0.1 * 8) / (0.9 * 3 + 0.1 * 2))
    assert reports.batches == [BatchReport(1, 2, 2, 3.0, 3.0, (0.0,)), BatchReport(1, 8, 8, 2.0, 2.0, (3.0,))]


# --- admission --------------------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_at_once_with_the_numbers_and_admits_again_when_there_is_room() -> None:
    scorer = GatedScorer()
    reports = Reports()
    async with serving(scorer, reports, max_items=3, tokens_per_s=10.0) as batcher:
        first = await occupied(scorer, batcher)
        second = start(batcher.submit(texts(10, 10), LONG_S))
        await settle()
        with pytest.raises(Overloaded, match=r"holds 2 of 3 texts; 2 more do not fit") as refused:
            await batcher.submit(texts(5, 5), LONG_S)
        assert refused.value.retry_after_s == pytest.approx(2.0)
        assert reports.drops == [("refused", 2)]
        scorer.release(2)
        await asyncio.gather(first, second)
        scorer.release()
        assert len((await batcher.submit(texts(5, 5), LONG_S)).rows) == 2


async def test_a_text_over_the_limit_is_refused_by_its_number_and_the_others_of_its_request_with_it() -> None:
    async with serving(GatedScorer(), max_text_tokens=20) as batcher:
        with pytest.raises(TooLarge, match=r"text 2 of 2 has 21 tokens, the scorer takes at most 20"):
            await batcher.submit(texts(20, 21), LONG_S)
        assert batcher.waiting_items == 0


async def test_a_text_over_the_budget_but_under_the_limit_is_scored_alone() -> None:
    scorer = GatedScorer()
    scorer.release(3)
    async with serving(scorer, budget_tokens=50, max_text_tokens=300) as batcher:
        await batcher.submit(texts(300, 10, 300), LONG_S)
    assert sorted(scorer.batches) == [[10], [300], [300]]


async def test_a_small_submission_does_not_wait_for_all_of_a_large_one() -> None:
    scorer = GatedScorer()
    async with serving(scorer, budget_tokens=40, max_items=1000, max_tokens=10**6, age_limit_s=LONG_S) as batcher:
        first = await occupied(scorer, batcher)
        large = start(batcher.submit(texts(*[20] * 60), LONG_S))
        await settle()
        small = start(batcher.submit(texts(13), LONG_S))
        await settle()
        scorer.release(9)
        await asyncio.gather(first, small)
        assert not large.done()
        assert batcher.waiting_items > 40
        scorer.release(1000)
        assert len((await large).rows) == 60


# --- callers who leave ------------------------------------------------------------------------------------------------


async def test_a_caller_who_leaves_before_it_was_first_run_submits_nothing() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        task = start(batcher.submit(texts(5), LONG_S))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await batcher.drain()
    assert scorer.batches == []


async def test_a_caller_who_leaves_in_the_turn_of_its_dispatch_leaves_nothing_behind() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        task = start(batcher.submit(texts(5), LONG_S))
        asyncio.get_running_loop().call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        scorer.release()
        await batcher.drain()
        assert (batcher.waiting_items, batcher.waiting_tokens, batcher.running_items) == (0, 0, 0)


async def test_a_caller_who_leaves_while_waiting_is_not_scored_and_its_room_is_free() -> None:
    scorer = GatedScorer()
    reports = Reports()
    async with serving(scorer, reports, max_items=2) as batcher:
        first = await occupied(scorer, batcher)
        gone = start(batcher.submit(texts(7, 8), LONG_S))
        await settle()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (batcher.waiting_items, batcher.waiting_tokens) == (0, 0)
        assert reports.drops == [("abandoned", 2)]
        there = start(batcher.submit(texts(3, 3), LONG_S))
        scorer.release(2)
        await asyncio.gather(first, there)
    assert scorer.batches == [[2], [3, 3]]


@pytest.mark.parametrize("fails", [False, True], ids=["and it is scored", "and it fails"])
async def test_a_caller_who_leaves_while_its_batch_runs_takes_nothing_from_its_neighbours(fails: bool) -> None:
    scorer = GatedScorer(refused=frozenset({9}) if fails else frozenset())
    async with serving(scorer) as batcher:
        gone, there = start(batcher.submit([text(9, 9)], LONG_S)), start(batcher.submit([text(5, 5, 5)], LONG_S))
        assert await scorer.entered.get() == [2, 3]
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        scorer.release(3)
        assert (await there).rows[0]["toy_rewards"].tolist() == [15, 3]


async def test_a_caller_who_leaves_between_two_of_its_batches_drops_the_second() -> None:
    scorer = GatedScorer()
    async with serving(scorer, budget_tokens=60) as batcher:
        first = await occupied(scorer, batcher)
        gone = start(batcher.submit(texts(10, 50), LONG_S))
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (2, 1)  # one of its texts is formed into a batch, one waits
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        scorer.release(2)
        await first
        await batcher.drain()
    assert len(scorer.batches) == 2


async def test_a_caller_who_leaves_as_its_answer_arrives_leaves_the_batcher_whole() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        task = await occupied(scorer, batcher)
        answered = asyncio.Event()
        # Runs in the turn in which the rows are delivered, before the caller wakes up.
        batcher._on_batch = lambda _: (task.cancel(), answered.set())  # type: ignore[func-returns-value,assignment]
        scorer.release()
        await answered.wait()
        with pytest.raises(asyncio.CancelledError):
            await task
        batcher._on_batch = None
        scorer.release()
        assert len((await batcher.submit(texts(4), LONG_S)).rows) == 1


async def test_a_device_that_runs_two_batches_at_once_gets_the_second_only_when_it_is_full() -> None:
    scorer = GatedScorer()
    async with serving(scorer, at_once=2, budget_tokens=40) as batcher:
        first = start(batcher.submit(texts(10, 10), LONG_S))
        assert await scorer.entered.get() == [10, 10]
        part = start(batcher.submit(texts(10), LONG_S))
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (2, 1)
        rest = start(batcher.submit(texts(10, 10, 10), LONG_S))
        assert await scorer.entered.get() == [10, 10, 10, 10]
        scorer.release(2)
        done = await asyncio.gather(first, part, rest)
    assert [[row["toy_rewards"].tolist() for row in each.rows] for each in done] == [
        [[10, 10], [20, 10]],
        [[10, 10]],
        [[10, 10], [20, 10], [30, 10]],
    ]


async def test_closing_waits_for_every_batch_that_runs() -> None:
    scorer = GatedScorer()
    async with serving(scorer, at_once=2, budget_tokens=20) as batcher:
        both = [start(batcher.submit(texts(20), LONG_S)) for _ in range(2)]
        assert [await scorer.entered.get() for _ in both] == [[20], [20]]
        closing = asyncio.ensure_future(batcher.aclose())
        await settle()
        assert not closing.done()
        scorer.release(2)
        await closing
        assert [len((await each).rows) for each in both] == [1, 1]
        assert not batcher.alive


async def test_a_scorer_is_given_back_when_its_batcher_is_closed_and_not_when_a_collector_comes_by():
    gc.collect()
    gc.disable()
    try:
        scorer = GatedScorer()
        seen = weakref.ref(scorer)
        scorer.release(1000)
        async with serving(scorer) as batcher:
            assert (await batcher.submit([text(1, 2)], LONG_S)).rows
        assert not batcher.alive
        with pytest.raises(RuntimeError, match="starts once"):
            batcher.start()
        del scorer, batcher
        assert seen() is None
    finally:
        gc.enable()
