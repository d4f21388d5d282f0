"""A failing upstream is left alone, tried once after a while, and trusted again."""

from __future__ import annotations

import pytest

from attune.service.members.breaker import Breaker
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock(100.0)


@pytest.fixture
def states():
    return []


@pytest.fixture
def breaker(clock, states):
    return Breaker(clock, failures_to_open=3, open_s=10.0, observe=states.append)


def fail(breaker, times):
    for _ in range(times):
        assert breaker.enter() == 0.0
        breaker.leave("failed")


def test_it_opens_after_failures_in_a_row_and_says_how_long(breaker, clock, states):
    fail(breaker, 3)
    clock.now_s += 4.0
    assert breaker.enter() == 6.0
    assert states == ["open"]


def test_a_success_in_between_begins_the_count_anew(breaker, states):
    fail(breaker, 2)
    breaker.enter()
    breaker.leave("succeeded")
    fail(breaker, 2)
    assert breaker.state == "closed"
    assert states == []


def test_after_a_while_one_trial_is_let_through_and_closes_it(breaker, clock, states):
    fail(breaker, 3)
    clock.now_s += 10.0
    assert breaker.enter() == 0.0
    assert breaker.enter() > 0.0
    breaker.leave("succeeded")
    assert breaker.enter() == 0.0
    assert states == ["open", "half-open", "closed"]


def test_a_trial_that_fails_opens_it_for_as_long_again(breaker, clock, states):
    fail(breaker, 3)
    clock.now_s += 10.0
    breaker.enter()
    breaker.leave("failed")
    assert breaker.enter() == 10.0
    assert states == ["open", "half-open", "open"]


def test_a_trial_without_a_verdict_gives_its_place_to_the_next(breaker, clock):
    fail(breaker, 3)
    clock.now_s += 10.0
    breaker.enter()
    breaker.leave("undecided")
    assert breaker.enter() == 0.0
    assert breaker.state == "half-open"
