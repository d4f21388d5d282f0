"""Room: how many requests of a kind may be under way, found out by how long they take, and shared between keys.

    take(key) ─> a permit at once, or Overloaded with when to come back
    done(seconds) ─> moves the limit: up while answers are quick and the limit was reached, down while they are slow

The limit follows the time that answers take (additive increase, multiplicative decrease: Chiu and Jain, 1989), since a count alone knows
nothing of the machine's speed: what cannot be finished before its deadline is refused before it costs anything. A key over its fair share
leaves the last eighth of the limit to the others that ask. Plain functions on the loop's thread; nothing here waits or knows HTTP.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from attune.service.errors import Overloaded

SMOOTHING = 1 / 16
SLOWER_THAN_ALONE = 4.0
"""Answers may take so many times what the fastest one takes before that is a queue and no service time."""

SHRINK = 0.85
FIRST = 32
"""The limit before anything was measured: enough to fill batches, and few enough for the slowest machine's deadlines."""

FORGETS_S = 300.0
"""In this time the fastest answer on record counts as twice as slow, so that a machine that became slower is believed."""

ACTIVE_S = 10.0
"""A key that asked within this time counts as one that permits are shared with."""

LONGEST_RETRY_S = 10.0
"""Nobody is sent away for longer: a refusal costs little, and callers who all sleep leave the room empty once a stall is over."""

SLOTS_PER_ANSWER = 1.5
"""Callers are told to come back so many times as fast as others are answered: some do not come back, and room must not stay empty."""


@dataclass(slots=True)
class Pace:
    """The room of one kind of request.

    Attributes:
        most: permits, whatever the speed.
        deadline_s: of a request of this kind.
        patience_s: what an answer may take without counting as slow, at least.
        least: permits that are given however slow answers are, unless they take half of the deadline.
        clock: monotonic seconds.
        draw: a number in [0, 1), for the spread of `Retry-After` where the queue on paper is longer than anybody is told to wait.
    """

    most: int
    deadline_s: float
    patience_s: float
    least: int = 16
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    count: int = 0
    limit: float = field(init=False)
    _held: dict[str, int] = field(default_factory=dict)
    _asked_s: dict[str, float] = field(default_factory=dict)
    _mean_s: float = 0.0
    _fastest_s: float = float("inf")
    _fastest_at_s: float = 0.0
    _shrunk_s: float = float("-inf")
    _next_s: float = float("-inf")
    _late: float = 0.0
    _rate: float = 0.0
    _answered: int = 0
    _since_s: float = float("-inf")

    def __post_init__(self) -> None:
        self.limit = float(min(self.most, max(self.least, FIRST)))

    def take(self, key: str) -> None:
        """Takes a permit for a key.

        Raises:
            Overloaded: there is none now, or the rest is for others; nothing was taken.
        """
        self.expect_room(key)
        self.count += 1
        self._held[key] = self._held.get(key, 0) + 1

    def expect_room(self, key: str) -> None:
        """Takes nothing; for whoever has work to do before the permit, which would be for nothing.

        Raises:
            Overloaded: as `take` would now.
        """
        now_s = self.clock()
        self._asked_s[key] = now_s
        room, held = int(self.limit), self._held.get(key, 0)
        others = sum(1 for other, asked_s in self._asked_s.items() if other != key and now_s - asked_s < ACTIVE_S)
        if others and held >= room / (others + 1):
            room -= max(1, room // 8) if room >= 4 else 0
        if self.count >= room:
            whole = f"{self.count:,} of {int(self.limit):,} requests are in flight"
            more = f", {held:,} of them of key {key}; the rest is for other keys" if room < int(self.limit) else ""
            raise self.refusal(whole + more)

    def refusal(self, detail: str) -> Overloaded:
        """Returns the error of a request for which there is no room, with the time at which there should be some for it.

        Each refusal takes the next place of a queue that exists on paper only, so callers come back one after another and not together.
        """
        now_s = self.clock()
        self._next_s = max(self._next_s, now_s) + 1 / (SLOTS_PER_ANSWER * self.answers_per_s)
        wait_s = self._next_s - now_s
        if wait_s > LONGEST_RETRY_S:
            wait_s = LONGEST_RETRY_S * (0.3 + 0.7 * self.draw())
        return Overloaded(detail, retry_after_s=1.0 + wait_s)

    @property
    def answers_per_s(self) -> float:
        """How fast requests are answered of late."""
        return self._rate or float(FIRST)

    def _count_answer(self, now_s: float) -> None:
        self._answered += 1
        passed_s = now_s - self._since_s
        if passed_s > 5.0:  # a pause, and no sign of how fast
            self._answered, self._since_s = 0, now_s
        elif passed_s >= 1.0:
            rate = self._answered / passed_s
            self._rate = rate if not self._rate else (self._rate + rate) / 2
            self._answered, self._since_s = 0, now_s

    def give_back(self, key: str) -> None:
        """Gives a permit back."""
        self.count -= 1
        held = self._held.get(key, 0) - 1
        if held > 0:
            self._held[key] = held
        else:
            self._held.pop(key, None)
            if len(self._asked_s) > 1024:
                now_s = self.clock()
                self._asked_s = {name: asked_s for name, asked_s in self._asked_s.items() if now_s - asked_s < ACTIVE_S}

    def overran(self, detail: str) -> Overloaded:
        """Returns the error of a request that was let in and found a bounded queue inside full; its permit is not given back yet.

        What is under way without it is what fits, so the limit goes below that: at the door a refusal costs little, and in there it cost
        a decision. Not below `least`: one large request that finds no room says little about small ones.
        """
        self.limit = max(float(min(self.least, self.most)), min(self.limit, (self.count - 1) * SHRINK))
        return self.refusal(detail)

    def done(self, seconds: float) -> None:
        """Learns from an answer that took so long; to be called for answers and deadlines, not for what was refused."""
        now_s = self.clock()
        if seconds <= self._fastest_s * 2 ** ((now_s - self._fastest_at_s) / FORGETS_S):
            self._fastest_s, self._fastest_at_s = seconds, now_s
        slow_s = self.slow_s
        # One answer that was stuck says nothing of the others, so it counts as slow and not as more; being late is counted apart.
        counted_s = min(seconds, 2 * slow_s)
        self._mean_s += (counted_s - self._mean_s) * (SMOOTHING if self._mean_s else 1.0)
        self._late += ((seconds > self.deadline_s / 2) - self._late) * SMOOTHING
        self._count_answer(now_s)
        if self._mean_s > slow_s:
            # Once for each time that an answer takes: what comes in between began under the limit before.
            if now_s - self._shrunk_s > self._mean_s:
                least = min(self.least, self.most) if self._late < 0.5 else 1
                self.limit = max(float(least), min(self.limit, self.count + 1.0) * SHRINK)
                self._shrunk_s = now_s
        elif self.count >= self.limit - 1:
            self.limit = min(float(self.most), self.limit + (1.0 if self._mean_s < slow_s / 2 else 1.0 / self.limit))

    @property
    def slow_s(self) -> float:
        """An answer that takes longer than this has waited in a queue; half of the deadline at most."""
        alone_s = self._fastest_s if self._fastest_s < float("inf") else 0.0
        return min(self.deadline_s / 2, max(self.patience_s, SLOWER_THAN_ALONE * alone_s))
