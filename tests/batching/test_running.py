"""Batches on all cores and on one each: which of them a batcher is given, how large, and by which scorer."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from attune.models.seam.families import Row
from attune.service.batching.queue import Batch, BatchQueue
from attune.service.batching.running import RunningBatches, WaitingTexts
from attune.service.batching.submission import Submission
from tests.batching.scorers import GatedScorer, texts
from tests.batching.serving import LONG_S, Reports, serving, settle, start


async def test_full_batches_have_a_core_each_and_what_is_too_little_to_share_has_all_cores() -> None:
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, beside=beside, at_once=2, budget_tokens=40) as batcher:
        alone = start(batcher.submit(texts(10, 10), LONG_S))
        assert await spread.entered.get() == [10, 10]
        more = [start(batcher.submit(texts(size), LONG_S)) for size in (40, 39, 38, 31)]
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (2, 4)  # nothing is run beside a batch that has all cores
        spread.release()
        # Two have a core each, one is ready for whichever is done first, and the last is not full and waits.
        assert sorted([await beside.entered.get() for _ in range(2)]) == [[39], [40]]
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (3, 1)
        beside.release(3)
        assert await spread.entered.get() == [31]
        spread.release()
        done = await asyncio.gather(alone, *more)
    assert [[row["toy_rewards"].tolist()[1] for row in each.rows] for each in done] == [[10, 10], [40], [39], [38], [31]]
    assert (len(spread.batches), len(beside.batches)) == (2, 3)


async def test_what_is_no_full_batch_waits_for_those_that_run_and_then_has_all_cores() -> None:
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, beside=beside, at_once=2, budget_tokens=40) as batcher:
        both = [start(batcher.submit(texts(40), LONG_S)) for _ in range(2)]
        assert [await beside.entered.get() for _ in both] == [[40], [40]]
        beside.release()
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        late = [start(batcher.submit(texts(size), LONG_S)) for size in (3, 4)]
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (1, 2)
        beside.release()
        assert await spread.entered.get() == [3, 4]
        spread.release()
        await asyncio.gather(*both, *late)
        assert batcher.running_items == 0


async def test_fewer_full_batches_than_cores_have_all_cores_one_after_the_other_with_one_ready() -> None:
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, beside=beside, at_once=4, budget_tokens=40) as batcher:
        three = [start(batcher.submit(texts(40), LONG_S)) for _ in range(3)]
        assert await spread.entered.get() == [40]
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (2, 1)
        assert spread.batches == [[40]]  # the one that is ready does not begin beside the one that runs
        spread.release(3)
        await asyncio.gather(*three)
        assert (len(spread.batches), len(beside.batches)) == (3, 0)
        four = [start(batcher.submit(texts(40), LONG_S)) for _ in range(4)]
        assert [await beside.entered.get() for _ in four] == [[40]] * 4
        beside.release(4)
        await asyncio.gather(*four)


async def test_what_waits_is_shared_out_evenly_over_the_cores() -> None:
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, beside=beside, at_once=2, budget_tokens=400) as batcher:
        seven = start(batcher.submit(texts(*[32] * 7), LONG_S))
        assert sorted([await beside.entered.get() for _ in range(2)]) == [[32] * 3, [32] * 4]
        beside.release(2)
        assert len((await seven).rows) == 7
        # The last part has room for padding: 10 + 60 + 64 tokens are two parts of 67, and two texts side by side are 128.
        uneven = start(batcher.submit(texts(10, 60, 64), LONG_S))
        assert sorted([await beside.entered.get() for _ in range(2)]) == [[10], [60, 64]]
        beside.release(2)
        await uneven
        # Two texts of too few tokens, and one text of many, have all cores.
        for few in (texts(31, 32), texts(300)):
            task = start(batcher.submit(few, LONG_S))
            await spread.entered.get()
            spread.release()
            await task
    assert (len(spread.batches), len(beside.batches)) == (2, 4)


async def test_a_core_that_is_done_before_the_others_takes_what_waits_once_it_is_worth_a_batch() -> None:
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, beside=beside, at_once=2, budget_tokens=400) as batcher:
        first = [start(batcher.submit(texts(50), LONG_S)) for _ in range(2)]
        assert [await beside.entered.get() for _ in first] == [[50], [50]]
        beside.release()
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        late = [start(batcher.submit(texts(31), LONG_S))]
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (1, 1)
        late.append(start(batcher.submit(texts(1), LONG_S)))
        await settle()
        assert (batcher.running_items, batcher.waiting_items) == (3, 0)
        assert await beside.entered.get() == [1, 31]
        beside.release(2)
        await asyncio.gather(*first, *late)
    assert (len(spread.batches), len(beside.batches)) == (0, 3)


async def test_cores_that_are_free_share_what_waits_while_others_compute() -> None:
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, beside=beside, at_once=4, budget_tokens=400) as batcher:
        first = [start(batcher.submit(texts(32), LONG_S)) for _ in range(4)]
        assert [await beside.entered.get() for _ in first] == [[32]] * 4
        beside.release(2)
        while sum(task.done() for task in first) < 2:
            await asyncio.wait([task for task in first if not task.done()], return_when=asyncio.FIRST_COMPLETED)
        five = start(batcher.submit(texts(*[33] * 5), LONG_S))
        assert sorted([await beside.entered.get() for _ in range(2)]) == [[33] * 2, [33] * 3]
        assert (batcher.running_items, batcher.waiting_items) == (7, 0)
        beside.release(4)
        await asyncio.gather(*first, five)
    assert (len(spread.batches), len(beside.batches)) == (0, 6)


async def test_a_text_that_is_most_of_what_waits_has_all_cores() -> None:
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, beside=beside, at_once=2, budget_tokens=400, overhead_tokens=1.0) as batcher:
        task = start(batcher.submit(texts(200, 55, 64), LONG_S))
        assert await spread.entered.get() == [200]
        # Without it there is enough for each: what is left is shared out.
        spread.release()
        assert sorted([await beside.entered.get() for _ in range(2)]) == [[55], [64]]
        beside.release(2)
        await task
        task = start(batcher.submit(texts(200, 60, 60), LONG_S))
        assert sorted([await beside.entered.get() for _ in range(2)]) == [[60, 60], [200]]
        beside.release(2)
        await task
    assert (len(spread.batches), len(beside.batches)) == (1, 4)


async def test_batches_side_by_side_of_one_submission_are_counted_once_in_its_time_and_all_in_the_speed() -> None:
    now_s = 100.0
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, beside=beside, at_once=2, budget_tokens=400, clock=lambda: now_s) as batcher:
        both = start(batcher.submit(texts(50, 50), LONG_S))
        assert [await beside.entered.get() for _ in range(2)] == [[50], [50]]
        now_s = 102.0
        beside.release(2)
        found = await both
        assert (found.queue_s, found.inference_s) == (0.0, 2.0)
        assert batcher.drain_tokens_per_s == pytest.approx((0.9 * 50 + 0.1 * 50) / (0.9 * 2))
    assert len(found.rows) == 2


async def test_the_worker_is_busy_while_any_batch_runs_and_never_for_longer() -> None:
    now_s, reports = 100.0, Reports()
    spread, beside = GatedScorer(), GatedScorer()
    async with serving(spread, reports, beside=beside, at_once=2, budget_tokens=40, clock=lambda: now_s) as batcher:
        pair = [start(batcher.submit(texts(40), LONG_S)) for _ in range(2)]
        assert [await beside.entered.get() for _ in pair] == [[40], [40]]
        now_s = 104.0
        beside.release()
        await asyncio.wait(pair, return_when=asyncio.FIRST_COMPLETED)
        now_s = 105.0
        third = start(batcher.submit(texts(40), LONG_S))
        assert await beside.entered.get() == [40]
        now_s = 107.0
        beside.release(2)
        await asyncio.gather(*pair, third)
        now_s = 120.0  # nothing runs
        last = start(batcher.submit(texts(2), LONG_S))
        assert await spread.entered.get() == [2]
        now_s = 121.0
        spread.release()
        await last
    assert [report.busy_s for report in reports.batches] == [4.0, 3.0, 0.0, 1.0]
    assert sum(report.inference_s for report in reports.batches) == 4.0 + 7.0 + 2.0 + 1.0


async def test_the_time_of_a_submission_is_that_in_which_some_batch_of_it_ran() -> None:
    submission: Submission[Row] = Submission(asyncio.get_running_loop().create_future(), texts(*[1] * 5), 100.0, 200.0)
    for times in ((104.0, 105.0), (101.0, 106.0), (105.5, 107.0), (110.0, 111.0)):
        submission.ran(1, *times)
    assert (submission.inference_s, submission.missing, submission.answered.done()) == (7.0, 1, False)
    submission.ran(1, 111.0, 112.5)
    assert (submission.inference_s, submission.answered.result()) == (8.5, 112.5)


@pytest.mark.parametrize("cores", [1, 2, 4, 16])
@pytest.mark.parametrize("shared", [False, True])
async def test_whatever_comes_and_ends_something_runs_while_anything_waits_and_never_too_much(cores: int, shared: bool) -> None:
    draw = random.Random(cores)
    for _ in range(40):
        budget = draw.choice([64, 256, 1024])
        queue: BatchQueue[Submission[Row]] = BatchQueue(
            max_items=1000, max_tokens=1_000_000, budget_tokens=budget, overhead_tokens=16.0, age_limit_s=0.5
        )
        spread, beside = GatedScorer(), GatedScorer() if shared else None
        batches = RunningBatches(spread, beside, cores, budget)
        running: dict[int, bool] = {}
        spare, of_spare = 0, set[int]()
        put, run = 0, 0
        for now_s in range(60):
            if draw.random() < 0.6:
                many = [draw.choice([1, 20, 32, 60, 200, 512]) for _ in range(draw.choice([1, 1, 3, 20]))]
                answered = asyncio.get_running_loop().create_future()
                queue.put(Submission(answered, texts(*many), float(now_s), math.inf), many)
                put += len(many)
            spare += draw.choice([0, 0, 0, 3])
            if running and draw.random() < 0.7:
                number = draw.choice(list(running))
                assert batches.end(number) is not None
                del running[number]
                of_spare.discard(number)
            while (turn := batches.turn(WaitingTexts(queue.items, queue.tokens, queue.longest), WaitingTexts(spare, spare, 1))) is not None:
                if turn.spare:  # one at a time, where nothing else waits or runs
                    assert not running
                    assert not queue.items
                    number, scorer = batches.begin(Batch(), turn)
                    running[number], spare = turn.alone, 0
                    of_spare.add(number)
                    assert scorer is (spread if beside is None else beside)
                    continue
                batch = queue.take(float(now_s), turn.budget_tokens)
                if not batch.texts:
                    break
                assert batch.padded_tokens <= turn.budget_tokens <= budget or len(batch.texts) == 1
                number, scorer = batches.begin(batch, turn)
                running[number] = turn.alone
                run += len(batch.texts)
                assert scorer is (spread if turn.alone or beside is None else beside)
                assert len(running) == 1 or len(set(running.values())) == 1  # nothing runs beside a batch that has all cores
                assert len(running) <= (1 if turn.alone else cores) + 1
            assert running or not (queue.items or spare)
            # Who asks has a core while another one computes what nobody waits for.
            assert not queue.items or not shared or cores == 1 or set(running) != of_spare
        assert put == run + queue.items
