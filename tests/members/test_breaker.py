"""A failing upstream is left alone, tried once after a while, and trusted again."""

from __future__ import annotations

import pytest

from attune.service.members.breaker import MAX_COOLDOWN_S, Breaker, Cooldown
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
        attempt = breaker.enter()
        assert attempt.wait_s == 0.0
        breaker.leave(attempt, "failed")


def test_it_opens_after_failures_in_a_row_and_says_how_long(breaker, clock, states):
    fail(breaker, 3)
    clock.now_s += 4.0
    assert breaker.enter().wait_s == 6.0
    assert states == ["open"]


def test_a_success_in_between_begins_the_count_anew(breaker, states):
    fail(breaker, 2)
    breaker.leave(breaker.enter(), "succeeded")
    fail(breaker, 2)
    assert breaker.state == "closed"
    assert states == []


def test_after_a_while_one_trial_is_let_through_and_closes_it(breaker, clock, states):
    fail(breaker, 3)
    clock.now_s += 10.0
    trial = breaker.enter()
    assert trial.wait_s == 0.0
    assert breaker.enter().wait_s > 0.0
    breaker.leave(trial, "succeeded")
    assert breaker.enter().wait_s == 0.0
    assert states == ["open", "half-open", "closed"]


def test_a_trial_that_fails_opens_it_for_as_long_again(breaker, clock, states):
    fail(breaker, 3)
    clock.now_s += 10.0
    breaker.leave(breaker.enter(), "failed")
    assert breaker.enter().wait_s == 10.0
    assert states == ["open", "half-open", "open"]


def test_a_trial_without_a_verdict_gives_its_place_to_the_next(breaker, clock):
    fail(breaker, 3)
    clock.now_s += 10.0
    breaker.leave(breaker.enter(), "undecided")
    assert breaker.enter().wait_s == 0.0
    assert breaker.state == "half-open"


@pytest.mark.parametrize("end", ["succeeded", "failed", "undecided"])
def test_an_attempt_that_began_before_it_opened_ends_no_trial_and_closes_nothing(breaker, clock, states, end):
    late = breaker.enter()
    fail(breaker, 3)
    breaker.leave(breaker.enter(), "succeeded")
    assert breaker.state == "open"
    clock.now_s += 10.0
    trial = breaker.enter()
    breaker.leave(late, end)
    assert breaker.enter().wait_s > 0.0
    breaker.leave(trial, "succeeded")
    assert states == ["open", "half-open", "closed"]


def test_a_cooldown_lasts_as_long_as_the_longest_wish_and_a_day_at_most(clock):
    cooldown = Cooldown(clock)
    assert cooldown.left_s == 0.0
    cooldown.ask(8.0)
    cooldown.ask(2.0)
    clock.now_s += 3.0
    assert cooldown.left_s == 5.0
    clock.now_s += 5.0
    assert cooldown.left_s == 0.0
    cooldown.ask(1e12)
    assert cooldown.left_s == MAX_COOLDOWN_S
