"""Timings of one request: what adds up, what is reported, and in which order."""

from __future__ import annotations

import pytest

from attune.service.observe.timing import Entered, Timings, server_timing


def test_a_stage_that_is_entered_twice_adds_up():
    ticks = iter([0.0, 0.25, 1.0, 1.5])
    timings = Timings(clock=lambda: next(ticks))
    with timings.measure("redis"):
        pass
    with timings.measure("redis"):
        pass
    assert timings.seconds == {"redis": 0.75}


def test_a_stage_that_raises_is_still_timed():
    ticks = iter([0.0, 2.0])
    timings = Timings(clock=lambda: next(ticks))
    with pytest.raises(KeyError), timings.measure("member"):
        raise KeyError
    assert timings.seconds == {"member": 2.0}


def test_the_header_has_milliseconds_in_the_fixed_order_of_the_stages():
    timings = Timings()
    timings.add(("member", 1.5))
    timings.add(("tokenize", 0.000214))
    assert timings.header() == "tokenize;dur=0.21, member;dur=1500.00"


def test_no_stage_makes_an_empty_header():
    assert server_timing({}) == ""


def test_stays_in_stages_are_noted_one_by_one_where_somebody_asks_for_them():
    entered: list[Entered] = []
    timings = Timings(clock=lambda: 10.0, entered=entered)
    timings.add(("queue", 2.0), ("inference", 3.0))
    timings.add(("inference", 1.0))
    assert entered == [Entered("queue", 5.0, 7.0), Entered("inference", 7.0, 10.0), Entered("inference", 9.0, 10.0)]
    assert timings.seconds == {"queue": 2.0, "inference": 4.0}
