"""The queue alone: what it admits, which batch it forms, and that nothing is lost, doubled or starved."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.service.batching.queue import RETRY_AFTER_MOST_S, RETRY_AFTER_UNKNOWN_S, TURN_BUDGETS
from attune.service.errors import Overloaded, TooLarge
from tests.batching.queues import Caller, lengths, names, put, queue

LENGTHS = st.integers(1, 300)


# --- which batch ------------------------------------------------------------------------------------------------------


def test_neighbours_in_length_share_a_batch_and_far_lengths_do_not() -> None:
    waiting = queue()
    put(waiting, 20, 250, 21, 250, 22)
    assert lengths(waiting.take(0.0).texts) == [20, 21, 22]
    assert lengths(waiting.take(0.0).texts) == [250, 250]
    assert waiting.items == 0


def test_where_starting_a_batch_is_dear_far_lengths_share_one() -> None:
    waiting = queue(budget_tokens=8192, overhead_tokens=2000)
    put(waiting, 20, 250, 21, 250, 22)
    batch = waiting.take(0.0)
    assert lengths(batch.texts) == [20, 21, 22, 250, 250]
    assert (batch.real_tokens, batch.padded_tokens) == (563, 1250)


def test_the_budget_counts_padding() -> None:
    waiting = queue(budget_tokens=300, overhead_tokens=1e6)
    put(waiting, 100, 90, 80, 70)
    # Four texts would be 340 real tokens but 400 padded ones.
    assert waiting.take(0.0).padded_tokens <= 300


def test_a_text_over_the_budget_is_a_batch_alone() -> None:
    waiting = queue(budget_tokens=64, overhead_tokens=1e6)
    put(waiting, 200, 10, 200)
    assert lengths(waiting.take(0.0).texts) == [200]
    assert lengths(waiting.take(0.0).texts) == [10]
    assert lengths(waiting.take(0.0).texts) == [200]


def test_equal_texts_go_in_order_of_arrival() -> None:
    waiting = queue(budget_tokens=20)
    put(waiting, 10, 10, 10, 10)
    assert names(waiting.take(0.0).texts) == ["0", "1"]
    assert names(waiting.take(0.0).texts) == ["2", "3"]


def test_a_large_submission_yields_its_later_turns_to_small_ones_that_come_within_the_age_limit() -> None:
    waiting = queue(budget_tokens=100, max_items=10_000, age_limit_s=1.0)
    put(waiting, *[100] * (3 * TURN_BUDGETS), name="large", now_s=0.0)
    put(waiting, 30, name="early", now_s=0.5)
    put(waiting, 30, name="late", now_s=1.5)
    order = [name for _ in range(waiting.items) for name in names(waiting.take(2.0).texts)]
    firsts = [f"large{place}" for place in range(3 * TURN_BUDGETS)]
    # "late" rides along with "early", its neighbour in length.
    assert order == [*firsts[:TURN_BUDGETS], "early0", "late0", *firsts[TURN_BUDGETS:]]


def test_a_small_request_behind_a_large_one_of_the_same_length_is_one_batch() -> None:
    waiting = queue()
    put(waiting, *[32] * 640, name="large")
    while waiting.items > 640 - TURN_BUDGETS * 16:
        waiting.take(0.0)
    put(waiting, *[32] * 8, now_s=0.1, name="small")
    small = [f"small{index}" for index in range(8)]
    assert sorted(names(waiting.take(0.2).texts))[-8:] == small
    put(waiting, 31, *[32] * 7, now_s=0.3, name="small")
    batch = waiting.take(0.4).texts
    assert len(batch) == 16
    assert sorted(names(batch))[-8:] == small


def test_an_urgent_text_is_in_the_next_batch_and_needs_no_room() -> None:
    waiting = queue(max_items=1, max_tokens=50, budget_tokens=50)
    put(waiting, 50)
    waiting.put(Caller([2], "canary", submitted_at_s=9.0), [2], urgent=True)
    assert names(waiting.take(9.0).texts) == ["canary0"]


@given(st.lists(LENGTHS, min_size=1, max_size=60), st.integers(1, 600), st.floats(0, 5000))
def test_a_batch_holds_the_budget_and_the_one_due_first_and_skips_nobody_in_between(sizes: list[int], budget: int, overhead: float) -> None:
    waiting = queue(budget_tokens=budget, overhead_tokens=overhead)
    put(waiting, *sizes)
    turns = [sum(sizes[:index]) // (TURN_BUDGETS * budget) for index in range(len(sizes))]
    left = set(range(len(sizes)))
    while left:
        first = min(left, key=lambda index: (turns[index], index))
        batch = waiting.take(0.0)
        found = lengths(batch.texts)
        assert first in {index for _, index in batch.texts}
        assert (batch.real_tokens, batch.padded_tokens) == (sum(found), found[-1] * len(found))
        assert batch.padded_tokens <= budget or len(found) == 1
        assert all(shorter <= longer for shorter, longer in pairwise(found))
        left -= {index for _, index in batch.texts}
        assert not [index for index in left if found[0] < sizes[index] < found[-1]]
    assert waiting.take(0.0).texts == ()


@given(st.lists(LENGTHS, min_size=1, max_size=60), st.integers(16, 600))
def test_a_batch_never_computes_less_per_cost_than_its_first_due_text_alone(sizes: list[int], budget: int) -> None:
    waiting = queue(budget_tokens=budget)
    put(waiting, *sizes)
    batch = waiting.take(0.0)
    assert batch.real_tokens / (16 + batch.padded_tokens) >= sizes[0] / (16 + sizes[0])


@given(LENGTHS, st.lists(st.lists(LENGTHS, min_size=1, max_size=6), min_size=1, max_size=40), st.integers(1, 600))
def test_nothing_starves_however_many_come_after_it(first: int, later: list[list[int]], budget: int) -> None:
    waiting = queue(budget_tokens=budget, max_items=10**6, max_tokens=10**9, age_limit_s=0.5)
    put(waiting, *[7] * 10)
    put(waiting, first, name="first")
    ahead = waiting.items - 1
    for batches, sizes in enumerate(later, 1):
        put(waiting, *sizes, now_s=0.01 * batches)
        if "first0" in names(waiting.take(0.01 * batches).texts):
            return
        # Each batch takes at least one of those that were due before it.
        assert batches <= ahead


# --- what is admitted -------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_the_whole_submission_with_its_numbers_and_when_to_return() -> None:
    waiting = queue(max_items=4, max_tokens=1000)
    put(waiting, 100, 100, 100)
    waiting.drained(tokens=1500, elapsed_s=10.0)
    with pytest.raises(Overloaded, match=r"holds 3 of 4 texts; 2 more do not fit") as refused:
        put(waiting, 5, 5)
    assert refused.value.retry_after_s == pytest.approx(300 / 150)
    assert (waiting.items, waiting.tokens) == (3, 300)
    put(waiting, 5)


def test_tokens_are_bounded_as_well_as_texts() -> None:
    waiting = queue(max_items=100, max_tokens=300)
    put(waiting, 290)
    with pytest.raises(Overloaded, match=r"holds 290 of 300 tokens; 11 more do not fit"):
        put(waiting, 11)
    put(waiting, 10)


def test_a_submission_that_would_never_fit_is_not_told_to_come_back() -> None:
    waiting = queue(max_items=4, max_tokens=300)
    with pytest.raises(TooLarge, match=r"5 texts in one request, the scoring queue takes at most 4"):
        put(waiting, 1, 1, 1, 1, 1)
    with pytest.raises(TooLarge, match=r"301 tokens in one request, the scoring queue takes at most 300"):
        put(waiting, 301)
    assert waiting.items == 0


def test_the_time_to_return_is_a_guess_before_the_first_batch_and_never_absurd() -> None:
    waiting = queue()
    put(waiting, 100)
    assert waiting.retry_after_s() == RETRY_AFTER_UNKNOWN_S
    waiting.drained(tokens=1, elapsed_s=1000.0)
    assert waiting.retry_after_s() == RETRY_AFTER_MOST_S


def test_the_drain_rate_follows_the_last_batches() -> None:
    waiting = queue()
    for _ in range(200):
        waiting.drained(tokens=512, elapsed_s=0.5)
    assert waiting.drain_tokens_per_s == pytest.approx(1024)
    waiting.drained(tokens=512, elapsed_s=5.0)
    assert waiting.drain_tokens_per_s == pytest.approx(512 / (0.9 * 0.5 + 0.1 * 5.0))


def test_the_drain_rate_is_of_all_tokens_where_batches_are_finished_together() -> None:
    waiting = queue()
    waiting.drained(tokens=512, elapsed_s=0.0)  # a clock too coarse to have seen the batch says nothing
    assert waiting.drain_tokens_per_s is None
    for _ in range(200):  # four side by side, of which the last two are told in another order than they were finished
        for elapsed_s in (0.5, 1e-6, 0.0, -1e-6):
            waiting.drained(tokens=256, elapsed_s=elapsed_s)
    assert waiting.drain_tokens_per_s == pytest.approx(4 * 256 / 0.5, rel=0.25)


def test_a_speed_that_is_known_before_the_first_batch_counts_with_it() -> None:
    waiting = queue()
    waiting.drain_tokens_per_s = 1000.0
    waiting.drained(tokens=400, elapsed_s=0.2)
    assert waiting.drain_tokens_per_s == pytest.approx(0.9 * 1000 + 0.1 * 2000)


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        put(queue(), 3, 0)


@pytest.mark.parametrize(
    "change", [{"max_items": 0}, {"max_tokens": 0}, {"budget_tokens": 0}, {"overhead_tokens": -1}, {"age_limit_s": math.nan}]
)
def test_a_setting_that_makes_no_sense_is_named(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        queue(**change)
