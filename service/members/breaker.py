"""Leaves a failing upstream alone for a while: closed, open, half-open.

    closed ── failures in a row ──> open ── open_s later ──> half-open ── one trial ──> closed, or open again

A trial that ends without a verdict (its caller left) gives its place back. One breaker belongs to one event loop, so it
needs no lock. The clock is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]
Verdict = Literal["succeeded", "failed", "undecided"]


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
        self._trial = False

    @property
    def state(self) -> State:
        """What it is now; open turns to half-open at the first request after `open_s`."""
        return self._state

    def enter(self) -> float:
        """Returns 0 if the upstream may be tried, else the seconds until it may be.

        After 0, one `leave` must follow.
        """
        if self._state == "closed":
            return 0.0
        remaining = self._opened_at_s + self._open_s - self._clock()
        if self._state == "open" and remaining <= 0.0:
            self._turn("half-open")
        if self._state == "half-open" and not self._trial:
            self._trial = True
            return 0.0
        return max(remaining, 1.0) if self._state == "half-open" else remaining

    def leave(self, verdict: Verdict) -> None:
        """Takes note of how an attempt ended.

        Args:
            verdict: `succeeded` if the upstream served; `failed` if the next request would meet the same; `undecided` if
                the attempt says nothing about the upstream.
        """
        self._trial = False
        if verdict == "succeeded":
            self._failures = 0
            self._turn("closed")
        elif verdict == "failed":
            self._failures += 1
            if self._state == "half-open" or self._failures >= self._failures_to_open:
                self._opened_at_s = self._clock()
                self._turn("open")

    def _turn(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._observe(state)
