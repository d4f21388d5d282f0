"""The batcher: deadlines, inputs that fail, workers that die, the canary and the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attune.models.seam.families import Row
from attune.models.seam.text import Encoded
from attune.service.batching.batcher import CANARY_FAILURES, Batcher
from attune.service.batching.session import ScorerSession
from attune.service.batching.submission import Submitted
from attune.service.errors import DeadlineExceeded, NotReady, ScorerFailed
from tests.batching.scorers import NAN_ID, UNKNOWN_ID, GatedScorer, text, texts
from tests.batching.serving import LONG_S, Reports, occupied, serving, settle, start


async def test_a_deadline_that_passes_while_waiting_is_told_at_once_with_what_was_done() -> None:
    scorer = GatedScorer()
    reports = Reports()
    async with serving(scorer, reports) as batcher:
        first = await occupied(scorer, batcher)
        with pytest.raises(DeadlineExceeded, match=r"0 of 2 texts were scored within 0.001 s"):
            await batcher.submit(texts(7, 8), 0.001)
        assert reports.drops == [("expired", 2)]
        assert batcher.waiting_items == 0
        scorer.release()
        await first
    assert scorer.batches == [[2]]


async def test_a_deadline_that_passed_on_the_queues_clock_keeps_texts_out_of_the_batch() -> None:
    now_s = 0.0
    scorer = GatedScorer()
    reports = Reports()
    async with serving(scorer, reports, clock=lambda: now_s) as batcher:
        first = await occupied(scorer, batcher)
        late, there = start(batcher.submit(texts(7), LONG_S)), start(batcher.submit(texts(8), 2 * LONG_S))
        await settle()
        now_s = LONG_S
        scorer.release(2)
        with pytest.raises(DeadlineExceeded, match=r"0 of 1 text was scored within 60 s"):
            await late
        await asyncio.gather(first, there)
    assert scorer.batches == [[2], [8]]
    assert reports.drops == [("expired", 1)]


async def test_no_time_left_is_a_deadline_exceeded() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(texts(7), 0.0)
        await batcher.drain()
    assert scorer.batches == []


# --- inputs that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [UNKNOWN_ID, NAN_ID], ids=["the runtime raises", "the answer is not a number"])
async def test_of_a_poisoned_batch_only_the_bad_text_fails(toy: Path, poison: int) -> None:
    reports = Reports()
    async with serving(ScorerSession(toy, threads=1), reports) as batcher:
        good = [batcher.submit([text(0, place, place)], LONG_S) for place in range(1, 8)]
        answers = await asyncio.gather(
            *good[:4], batcher.submit([text(0, 1), text(0, poison, 3)], LONG_S), *good[4:], return_exceptions=True
        )
    failed = answers.pop(4)
    assert isinstance(failed, ScorerFailed)
    assert failed.detail.startswith("the scorer failed on text 2 of 2 (3 tokens): ")
    assert failed.__cause__ is not None
    assert [answer.rows[0]["toy_rewards"][0] for answer in answers if isinstance(answer, Submitted)] == [2 * place for place in range(1, 8)]
    assert [report.items for report in reports.batches] == [9]
    assert reports.drops == [("failed", 1)]


async def test_a_submission_with_two_bad_texts_fails_once_and_harms_nobody() -> None:
    scorer = GatedScorer(refused=frozenset({9}))
    scorer.release(1000)
    async with serving(scorer) as batcher:
        bad, good = await asyncio.gather(
            batcher.submit([text(9), text(9)], LONG_S), batcher.submit([text(5, 5, 5)], LONG_S), return_exceptions=True
        )
    assert isinstance(bad, ScorerFailed)
    assert isinstance(good, Submitted)
    assert [row["toy_rewards"][0] for row in good.rows] == [15]


async def test_a_poisoned_batch_is_run_again_by_halves() -> None:
    scorer = GatedScorer(refused=frozenset({5}))
    scorer.release(1000)
    async with serving(scorer) as batcher:
        answers = await asyncio.gather(*(batcher.submit([item], LONG_S) for item in texts(1, 2, 3, 4, 5, 6, 7, 8)), return_exceptions=True)
    assert [isinstance(answer, ScorerFailed) for answer in answers] == [place == 4 for place in range(8)]
    assert scorer.batches == [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8], [5, 6], [5], [6], [7, 8]]


async def test_a_scorer_that_answers_too_few_rows_fails_its_texts_and_not_the_worker() -> None:
    class Short:
        def run(self, items: list[Encoded]) -> list[Any]:
            return []

    async with serving(Short()) as batcher:  # type: ignore[arg-type]  # the protocol's Sequence is not needed here
        with pytest.raises(ScorerFailed, match=r"ValueError"):
            await batcher.submit(texts(3, 4), LONG_S)
        assert batcher.alive


async def test_when_one_text_of_a_submission_fails_its_waiting_texts_are_not_scored() -> None:
    scorer = GatedScorer(refused=frozenset({1}))
    async with serving(scorer, budget_tokens=10, age_limit_s=0) as batcher:
        task = start(batcher.submit(texts(10, 9, 9, 9), LONG_S))
        assert await scorer.entered.get() == [10]
        scorer.release(1000)
        with pytest.raises(ScorerFailed, match="text 1 of 4"):
            await task
        await batcher.drain()
        # The one behind it was in the worker's hands already, and the one after that was formed as the first came back.
        assert len(scorer.batches) < 4


# --- a worker that dies -----------------------------------------------------------------------------------------------


async def test_a_dead_worker_fails_everybody_who_waits_and_says_that_it_is_dead() -> None:
    scorer = GatedScorer()
    scorer.fatal = SystemExit("gone")
    async with serving(scorer) as batcher:
        before = batcher.alive
        running = await occupied(scorer, batcher)
        waiting = start(batcher.submit(texts(7, 8), LONG_S))
        await settle()
        scorer.release()
        for task in (running, waiting):
            with pytest.raises(NotReady, match=r"the scorer's worker died: SystemExit"):
                await task
        assert (before, batcher.alive) == (True, False)
        for attempt in (batcher.submit(texts(3), LONG_S), batcher.canary(LONG_S)):
            with pytest.raises(NotReady, match=r"worker died"):
                await attempt
        await batcher.drain()


async def test_of_two_batches_that_run_at_once_the_one_that_kills_its_thread_fails_both_and_the_other_comes_too_late() -> None:
    dying, living, loop = threading.Event(), threading.Event(), asyncio.get_running_loop()
    entered: asyncio.Queue[int] = asyncio.Queue()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, told: errors.append(told))

    class OneDies(GatedScorer):
        def run(self, items: Sequence[Encoded]) -> list[Row]:
            loop.call_soon_threadsafe(entered.put_nowait, len(items[0]))
            if len(items[0]) == 20:
                dying.wait(LONG_S)
                raise SystemExit("gone")
            living.wait(LONG_S)
            loop.call_soon_threadsafe(entered.put_nowait, 0)
            return [{} for _ in items]

    async with serving(OneDies(), at_once=2, budget_tokens=20) as batcher:
        tasks = [start(batcher.submit(texts(length), LONG_S)) for length in (20, 21)]
        assert {await entered.get(), await entered.get()} == {20, 21}
        dying.set()
        for task in tasks:
            with pytest.raises(NotReady, match=r"worker died: SystemExit"):
                await task
        living.set()
        assert await entered.get() == 0
        await settle()
        assert (batcher.alive, batcher.running_items) == (False, 0)
    assert errors == []


async def test_before_the_start_nothing_is_admitted_or_alive() -> None:
    batcher = Batcher(GatedScorer(), max_items=1, max_tokens=1, max_text_tokens=1, budget_tokens=1, canary=text(1))
    assert not batcher.alive
    with pytest.raises(NotReady, match="has not started"):
        await batcher.submit(texts(1), LONG_S)
    await batcher.aclose()


async def test_a_batcher_starts_once() -> None:
    async with serving(GatedScorer()) as batcher:
        with pytest.raises(RuntimeError, match="starts once"):
            batcher.start()


# --- the canary -------------------------------------------------------------------------------------------------------


async def test_the_canary_goes_through_the_worker_ahead_of_a_full_queue_and_is_nobodys_text() -> None:
    scorer, reports = GatedScorer(), Reports()
    async with serving(scorer, reports, max_items=2, budget_tokens=10) as batcher:
        first = await occupied(scorer, batcher)
        waiting = start(batcher.submit(texts(9), LONG_S))
        more = start(batcher.submit(texts(8), LONG_S))
        await settle()
        canaries = [asyncio.ensure_future(batcher.canary(LONG_S)) for _ in range(3)]
        await settle()
        scorer.release(4)
        await asyncio.gather(first, waiting, more, *canaries)
    # The worker holds one batch and has the next, which was full; the one canary for the three who asked comes right after.
    assert scorer.batches == [[2], [9], [2], [8]]
    assert [(report.items, report.real_tokens) for report in reports.batches] == [(1, 2), (1, 9), (1, 8)]


async def test_a_canary_that_gets_no_answer_in_time_says_so_and_the_next_one_waits_for_the_same() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        first = await occupied(scorer, batcher)
        for _ in range(3):
            with pytest.raises(DeadlineExceeded, match="0 of 1 text was scored"):
                await batcher.canary(0.001)
        assert batcher.waiting_items == 1
        assert batcher.alive
        scorer.release(2)
        await asyncio.gather(first, batcher.canary(LONG_S))


async def test_a_scorer_that_fails_its_canary_again_and_again_needs_a_restart() -> None:
    scorer = GatedScorer(refused=frozenset({2}))
    scorer.release(1000)
    async with serving(scorer) as batcher:
        for failures in range(CANARY_FAILURES):
            assert batcher.alive, failures
            with pytest.raises(ScorerFailed):
                await batcher.canary(LONG_S)
        assert not batcher.alive


async def test_a_canary_that_succeeds_again_forgives() -> None:
    scorer = GatedScorer(refused=frozenset({2}))
    scorer.release(1000)
    async with serving(scorer) as batcher:
        for _ in range(2 * CANARY_FAILURES):
            scorer.refused = frozenset({2})
            with pytest.raises(ScorerFailed):
                await batcher.canary(LONG_S)
            scorer.refused = frozenset()
            await batcher.canary(LONG_S)
            assert batcher.alive


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_draining_answers_everything_admitted_and_admits_nothing_more() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        admitted = [await occupied(scorer, batcher), start(batcher.submit(texts(7), LONG_S))]
        await settle()
        draining = asyncio.ensure_future(batcher.drain())
        await settle()
        with pytest.raises(NotReady, match="shutting down"):
            await batcher.submit(texts(3), LONG_S)
        assert not draining.done()
        scorer.release(2)
        await draining
        await asyncio.gather(*admitted)


async def test_a_drain_that_is_given_up_changes_nothing_and_may_be_tried_again() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        admitted = await occupied(scorer, batcher)
        draining = asyncio.ensure_future(batcher.drain())
        await settle()
        draining.cancel()
        await settle()
        scorer.release()
        await batcher.drain()
        assert isinstance(await admitted, Submitted)


async def test_a_drain_ends_when_the_last_callers_leave_instead() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        first = await occupied(scorer, batcher)
        waiting = start(batcher.submit(texts(7), LONG_S))
        await settle()
        draining = asyncio.ensure_future(batcher.drain())
        waiting.cancel()
        scorer.release()
        assert isinstance(await first, Submitted)
        await draining
        assert waiting.cancelled()
        assert batcher.waiting_items == 0


async def test_closing_delivers_what_runs_fails_what_waits_and_ends_the_thread() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        running = await occupied(scorer, batcher)
        waiting = start(batcher.submit(texts(7), LONG_S))
        await settle()
        closing = asyncio.ensure_future(batcher.aclose())
        with pytest.raises(NotReady, match="shutting down"):
            await waiting
        assert not closing.done()
        scorer.release()
        await closing
        assert len((await running).rows) == 1
        assert not batcher.alive
        await batcher.aclose()


async def test_closing_that_is_cancelled_may_be_tried_again() -> None:
    scorer = GatedScorer()
    async with serving(scorer) as batcher:
        running = await occupied(scorer, batcher)
        closing = asyncio.ensure_future(batcher.aclose())
        await settle()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        scorer.release()
        await batcher.aclose()
        await running


@pytest.mark.filterwarnings("error")
def test_a_loop_that_ends_while_the_worker_is_busy_hears_nothing_more() -> None:
    async def leave_in_a_hurry() -> tuple[Batcher, GatedScorer]:
        scorer = GatedScorer()
        batcher = Batcher(scorer, max_items=9, max_tokens=99, max_text_tokens=9, budget_tokens=9, canary=text(1))
        batcher.start()
        task = start(batcher.submit(texts(3), LONG_S))
        await scorer.entered.get()
        task.cancel()
        return batcher, scorer

    batcher, scorer = asyncio.run(leave_in_a_hurry())
    scorer.release()
    assert batcher._worker is not None
    batcher._worker.close()
    batcher._worker._threads[0].join(LONG_S)
    assert not batcher.alive
