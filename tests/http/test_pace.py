"""Room by the time that answers take: a machine that serves so many a second, and more callers than it can serve."""

from __future__ import annotations

import heapq
import itertools

import pytest

from attune.service.errors import Overloaded
from attune.service.http.pace import Pace

DEADLINE_S = 30.0


class Machine:
    """Serves requests one after another, each in `service_s`; callers ask again when answered, or when they were told to.

    `inside` requests have room behind the door.
    """

    def __init__(self, service_s: float, pace: Pace, inside: int = 1_000_000) -> None:
        self.now_s = 0.0
        self.free_at_s = 0.0
        self.service_s = service_s
        self.pace = pace
        pace.clock = lambda: self.now_s
        self.inside = inside
        self.in_time = self.late = self.refused = self.overran = 0
        self.slowest_s = 0.0

    def run(self, callers: int, seconds: float, key: str = "k") -> None:
        """Lets so many callers ask for so long."""
        number = itertools.count()
        events: list[tuple[float, int, float | None]] = [(0.001 * index, next(number), None) for index in range(callers)]
        heapq.heapify(events)
        while events:
            at_s, _, began_s = heapq.heappop(events)
            if at_s > seconds:
                return
            self.now_s = at_s
            if began_s is not None:
                took_s = at_s - began_s
                self.pace.give_back(key)
                self.pace.done(took_s)
                self.slowest_s = max(self.slowest_s, took_s)
                self.in_time += took_s <= DEADLINE_S
                self.late += took_s > DEADLINE_S
            try:
                self._come_in(key)
            except Overloaded as told:
                self.refused += 1
                heapq.heappush(events, (at_s + max(1, round(told.retry_after_s)), next(number), None))
            else:
                self.free_at_s = max(self.free_at_s, at_s) + self.service_s
                heapq.heappush(events, (self.free_at_s, next(number), at_s))

    def _come_in(self, key: str) -> None:
        self.pace.take(key)
        if self.pace.count > self.inside:
            told = self.pace.overran("a queue is full")
            self.pace.give_back(key)
            self.overran += 1
            raise told


def pace(most: int = 256, patience_s: float = 2.0, deadline_s: float = DEADLINE_S) -> Pace:
    draws = itertools.cycle([0.1, 0.5, 0.9])
    return Pace(most, deadline_s, patience_s, draw=lambda: next(draws))


@pytest.mark.parametrize("a_second", [2, 10, 80, 600])
@pytest.mark.parametrize("times", [10, 50])
def test_overload_leaves_nine_tenths_of_the_capacity_and_nobody_who_came_in_is_late(a_second: int, times: int):
    machine = Machine(1 / a_second, pace())
    machine.run(callers=16 * times, seconds=60)
    assert machine.in_time >= 0.9 * 60 * a_second
    assert machine.late == 0
    assert machine.slowest_s <= 0.6 * DEADLINE_S
    assert machine.refused > 0


def test_a_queue_that_is_full_inside_is_guarded_at_the_door():
    machine = Machine(1 / 20, pace(deadline_s=600.0, patience_s=60.0), inside=80)
    machine.run(callers=800, seconds=60)
    assert machine.refused > 1_000
    assert machine.overran <= 0.05 * machine.refused
    assert machine.in_time >= 0.9 * 60 * 20


def test_a_large_request_that_finds_no_room_inside_shuts_nobody_out():
    room = pace()
    room.take("k")
    room.overran("a queue is full")
    room.give_back("k")
    for _ in range(room.least):
        room.take("k")
    assert room.count == room.least


def test_a_slow_machine_admits_fewer_than_a_fast_one():
    slow, fast = Machine(1 / 10, pace()), Machine(1 / 600, pace())
    slow.run(callers=500, seconds=30)
    fast.run(callers=500, seconds=30)
    assert slow.pace.limit < 40 < fast.pace.limit


def test_callers_come_back_one_after_another_and_nobody_is_sent_away_for_long():
    room = Pace(8, DEADLINE_S, 2.0, clock=lambda: 0.0, draw=lambda: 0.5)
    for _ in range(8):
        room.take("k")
    told_s = [room.refusal("full").retry_after_s for _ in range(1_000)]
    assert told_s[:3] == pytest.approx([1 + 1 / 48, 1 + 2 / 48, 1 + 3 / 48])
    assert told_s[383] == pytest.approx(9.0)
    assert told_s[-1] == pytest.approx(7.5)


@pytest.mark.parametrize("a_second", [10, 80, 600])
def test_a_machine_that_stood_still_serves_again_at_once(a_second: int):
    machine = Machine(1 / a_second, pace())
    machine.free_at_s = 20.0  # nothing is answered before
    machine.run(callers=800, seconds=50)
    assert machine.in_time + machine.late >= 0.9 * 30 * a_second


def test_under_no_pressure_nobody_is_refused():
    machine = Machine(1 / 80, pace())
    machine.run(callers=32, seconds=30)
    assert machine.refused == 0


def test_slow_answers_of_few_requests_are_no_queue():
    machine = Machine(3.0, pace())  # eight callers, three seconds each: all are answered within 24 s
    machine.run(callers=4, seconds=300)
    assert machine.refused == 0


def test_one_key_leaves_room_for_another_that_asks():
    room = Pace(16, DEADLINE_S, 2.0, clock=lambda: 0.0)
    room.take("quiet")
    room.give_back("quiet")
    for _ in range(14):
        room.take("loud")
    with pytest.raises(Overloaded, match="14 of them of key loud; the rest is for other keys"):
        room.take("loud")
    room.take("quiet")
    room.take("quiet")


def test_one_key_alone_has_all_the_room():
    room = Pace(16, DEADLINE_S, 2.0, clock=lambda: 0.0)
    for _ in range(16):
        room.take("only")
    with pytest.raises(Overloaded, match="16 of 16 requests are in flight"):
        room.take("only")


def test_asking_whether_there_is_room_takes_none():
    room = Pace(16, DEADLINE_S, 2.0, clock=lambda: 0.0)
    for _ in range(100):
        room.expect_room("k")
    assert room.count == 0
    for _ in range(16):
        room.take("k")
    with pytest.raises(Overloaded, match="16 of 16 requests are in flight"):
        room.expect_room("k")
    assert room.count == 16
