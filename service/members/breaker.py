"""Leaves a failing upstream alone for a while: closed, open, half-open; and one that asked for it, until the time that it named.

    closed ── failures in a row ──> open ── open_s later ──> half-open ── one trial ──> closed, or open again

An attempt carries the state that it began in: what it finds out later says nothing about another one. A trial that ends
without a verdict (its caller left) gives its place back. Both belong to one event loop, so they need no lock. The clock
is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half-open"]
AttemptEnd = Literal["succeeded", "failed", "undecided"]

MAX_COOLDOWN_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Leave to try, or not.

    Args:
        wait_s: 0 if the upstream may be tried, else the seconds until it may be.
        era: which stay in which state it belongs to.
        trial: whether it is the one trial of a half-open breaker.
    """

    wait_s: float
    era: int
    trial: bool = False


class Breaker:
    """Says whether an upstream may be tried now.

    Args:
        clock: seconds that only grow.
        failures_to_open: failures in a row that open it.
        open_s: seconds until a trial is let through.
        observe: told every new state.
    """

    def __init__(
        self, clock: Callable[[], float], failures_to_open: int, open_s: float, observe: Callable[[State], None] = lambda _state: None
    ) -> None:
        self._clock = clock
        self._failures_to_open = failures_to_open
        self._open_s = open_s
        self._observe = observe
        self._failures = 0
        self._opened_at_s = 0.0
        self._state: State = "closed"
        self._era = 0
        self._trial = False

    @property
    def state(self) -> State:
        """What it is now; open turns to half-open at the first request after `open_s`."""
        return self._state

    def enter(self) -> Attempt:
        """Returns leave to try, if its `wait_s` is 0; one `leave` must then follow."""
        if self._state == "closed":
            return Attempt(0.0, self._era)
        remaining = self._opened_at_s + self._open_s - self._clock()
        if self._state == "open" and remaining <= 0.0:
            self._turn("half-open")
        if self._state == "half-open" and not self._trial:
            self._trial = True
            return Attempt(0.0, self._era, trial=True)
        return Attempt(max(remaining, 1.0) if self._state == "half-open" else remaining, self._era)

    def leave(self, attempt: Attempt, end: AttemptEnd) -> None:
        """Takes note of how an attempt ended; nothing happens if the state is another one by now.

        Args:
            attempt: what `enter` returned.
            end: `succeeded` if the upstream served; `failed` if the next request would meet the same; `undecided` if
                the attempt says nothing about the upstream.
        """
        if attempt.wait_s > 0.0 or attempt.era != self._era:
            return
        if attempt.trial:
            self._trial = False
        if end == "succeeded":
            self._failures = 0
            self._turn("closed")
        elif end == "failed":
            self._failures += 1
            if attempt.trial or self._failures >= self._failures_to_open:
                self._opened_at_s = self._clock()
                self._turn("open")

    def _turn(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._era += 1
            self._trial = False
            self._failures = 0
            self._observe(state)


class Cooldown:
    """Until when an upstream asked not to be asked.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s = float("-inf")

    @property
    def left_s(self) -> float:
        """Seconds that it still asks for; 0 if it may be asked."""
        return max(0.0, self._until_s - self._clock())

    def ask(self, seconds: float) -> None:
        """Takes note of what the upstream asked for, a day at most; a shorter wish does not end a longer one."""
        self._until_s = max(self._until_s, self._clock() + min(seconds, MAX_COOLDOWN_S))
