"""Who leaves the queue, by a deadline or by themselves, and that nothing is lost or doubled whatever happens in what order."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from attune.service.batching.queue import TURN_BUDGETS, BatchQueue
from attune.service.errors import Overloaded, TooLarge
from tests.batching.queues import Caller, lengths, names, put, queue

LENGTHS = st.integers(1, 300)


def test_a_deadline_that_has_passed_takes_the_text_out_at_the_next_batch() -> None:
    waiting = queue()
    put(waiting, 10, deadline_at_s=1.0, name="gone")
    put(waiting, 10, deadline_at_s=1.1, name="there")
    batch = waiting.take(1.0)
    assert names(batch.expired) == ["gone0"]
    assert names(batch.texts) == ["there0"]


def test_deadlines_are_found_in_any_order() -> None:
    waiting = queue(budget_tokens=10)
    for place, deadline in enumerate([5.0, 3.0, 4.0, 9.0, 6.0]):
        put(waiting, 10, deadline_at_s=deadline, name=f"{place}-")
    assert names(waiting.take(2.0).texts) == ["0-0"]
    assert names(waiting.take(4.5).expired) == ["1-0", "2-0"]
    assert names(waiting.take(6.0).expired) == ["4-0"]
    assert waiting.items == 0


def test_a_deadline_that_passes_has_nobody_looked_at_whose_deadline_has_not() -> None:
    looked = 0

    class Watched(Caller):
        def __getattribute__(self, name: str) -> object:
            nonlocal looked
            looked += name == "deadline_at_s"
            return super().__getattribute__(name)

    waiting: BatchQueue[Caller] = queue()
    for number in range(200):
        waiting.put(Watched([5], str(number), deadline_at_s=200.0 - number), [5])
    put_in, late, now_s = looked, 0, 0.0
    while waiting.items:
        now_s += 1.0
        late += len(waiting.take(now_s, 1).expired)
    assert (late, looked - put_in) == (100, 0)


def test_room_of_callers_who_left_is_free_at_once() -> None:
    waiting = queue(max_items=2)
    orders = put(waiting, 10, 20)
    assert waiting.abandon(orders) == 2
    assert waiting.abandon(orders) == 0
    assert (waiting.items, waiting.tokens) == (0, 0)
    put(waiting, 10, 20)


def test_callers_who_come_and_go_while_nothing_is_taken_leave_no_trace() -> None:
    waiting = queue()
    for _ in range(5000):
        waiting.abandon(put(waiting, 10, 20))
    assert len(waiting._by_due) < 200


def test_callers_who_come_and_go_do_not_change_whose_turn_it_is() -> None:
    waiting = queue(budget_tokens=100, age_limit_s=1.0)
    put(waiting, *[100] * (2 * TURN_BUDGETS), name="large", now_s=0.0)
    for _ in range(TURN_BUDGETS):
        waiting.take(0.0)
    put(waiting, 30, name="small", now_s=0.5)
    turns = 0
    while len(waiting._by_due) > turns:  # until the order of turns has just been rebuilt
        turns = len(waiting._by_due)
        waiting.abandon(put(waiting, 10, now_s=0.9))
    assert names(waiting.take(2.0).texts) == ["small0"]


def test_the_oldest_is_the_first_to_have_come_of_those_that_wait() -> None:
    waiting = queue(budget_tokens=10)
    assert waiting.oldest() is None
    put(waiting, 10, name="first")
    put(waiting, 10, name="second")
    for name in ("first", "second"):
        oldest = waiting.oldest()
        assert oldest is not None
        assert oldest.name == name
        waiting.take(5.0)


class Accounts(RuleBasedStateMachine):
    """Every text that was put leaves exactly once: in a batch, expired, or abandoned; and the counts are right meanwhile."""

    @initialize(budget=st.integers(1, 600), overhead=st.floats(0, 1000), max_items=st.integers(1, 40), max_tokens=st.integers(1, 4000))
    def start(self, budget: int, overhead: float, max_items: int, max_tokens: int) -> None:
        self.queue = queue(budget_tokens=budget, overhead_tokens=overhead, max_items=max_items, max_tokens=max_tokens, age_limit_s=0.5)
        self.now_s = 0.0
        self.waiting: dict[int, tuple[Caller, int]] = {}

    def tokens(self) -> int:
        return sum(lengths(self.waiting.values()))

    @rule(sizes=st.lists(LENGTHS | st.sampled_from([7, 8]), max_size=8), patience_s=st.floats(0, 3), wait_s=st.floats(0, 1))
    def put(self, sizes: list[int], patience_s: float, wait_s: float) -> None:
        self.now_s += wait_s
        caller = Caller(sizes, "", self.now_s, self.now_s + patience_s)
        try:
            orders = self.queue.put(caller, sizes)
        except TooLarge:
            assert len(sizes) > self.queue.max_items or sum(sizes) > self.queue.max_tokens
        except Overloaded:
            assert len(self.waiting) + len(sizes) > self.queue.max_items or self.tokens() + sum(sizes) > self.queue.max_tokens
        else:
            assert len(orders) == len(sizes)
            assert not self.waiting.keys() & set(orders)
            self.waiting |= {order: (caller, index) for index, order in enumerate(orders)}

    @rule(wait_s=st.floats(0, 1))
    def take(self, wait_s: float) -> None:
        self.now_s += wait_s
        batch = self.queue.take(self.now_s)
        assert all(caller.deadline_at_s <= self.now_s for caller, _ in batch.expired)
        assert all(caller.deadline_at_s > self.now_s for caller, _ in batch.texts)
        assert lengths(batch.texts) == sorted(lengths(batch.texts))
        orders = {text: order for order, text in self.waiting.items()}
        for text in (*batch.texts, *batch.expired):
            assert self.waiting.pop(orders[text]) == text
        assert batch.texts or not self.waiting

    @rule(chosen=st.sets(st.integers(0, 60)))
    def abandon(self, chosen: set[int]) -> None:
        leaving = self.waiting.keys() & chosen
        assert self.queue.abandon(leaving) == len(leaving)
        for order in leaving:
            del self.waiting[order]

    @rule()
    def clear(self) -> None:
        assert list(self.queue.clear()) == list(self.waiting.values())
        self.waiting.clear()

    @invariant()
    def the_counts_are_right(self) -> None:
        if hasattr(self, "queue"):
            assert (self.queue.items, self.queue.tokens) == (len(self.waiting), self.tokens())
            assert self.queue.longest == max(lengths(self.waiting.values()), default=0)


TestAccounts = pytest.mark.slow(Accounts.TestCase)
