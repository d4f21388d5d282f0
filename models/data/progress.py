"""How far long work is: done, total and time left on standard error, every few seconds, and nothing for work that is soon done.

On a terminal one line is written over; into a file or a pipe plain lines go, and fewer of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

FIRST_S = 3.0
"""Work that takes less says nothing."""
TERMINAL_S, LINES_S = 0.5, 10.0
"""Seconds between two reports, on a terminal and elsewhere."""


@dataclass(slots=True)
class Steps:
    """Told how many steps are done, says so now and then.

    Attributes:
        what: in words, with a place for the counts: `"embedded {} texts"`.
        at_most: whether the work may end before its last step, so that the time left is an upper bound.
        stream, clock: standard error and a monotonic clock; others in tests.
    """

    what: str
    at_most: bool = False
    stream: TextIO | None = None
    clock: Callable[[], float] = time.monotonic
    _started: float = field(init=False)
    _next: float = field(init=False)
    _shown: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._next = self._started + FIRST_S

    def __call__(self, done: int, total: int = 0) -> None:
        """Says how far the work is, if it is time to; the last step is said where something was said before.

        Args:
            done: steps, ascending.
            total: of them; 0 where nobody knows.
        """
        now = self.clock()
        ended = 0 < total <= done
        if now < self._next and not (ended and self._shown):
            return
        stream = self.stream or sys.stderr
        on_terminal = stream.isatty()
        line = self._line(done, total, now - self._started)
        if on_terminal:
            stream.write(f"\r\x1b[K{line}" + ("\n" if ended else ""))
        else:
            stream.write(line + "\n")
        stream.flush()
        self._shown = True
        self._next = now + (TERMINAL_S if on_terminal else LINES_S)

    def _line(self, done: int, total: int, taken_s: float) -> str:
        if not total:
            return f"{self.what.format(f'{done:,}')}, {duration(taken_s)} so far"
        counts = self.what.format(f"{done:,} of {total:,}")
        if done >= total:
            return f"{counts} in {duration(taken_s)}"
        if not done:
            return f"{counts}, {duration(taken_s)} so far"
        return f"{counts}, {'at most ' if self.at_most else ''}{duration(taken_s / done * (total - done))} left"


def left(taken_s: float, done: int, total: int) -> str:
    """Returns `, 0:45 left` for a line about work that took so long for so many of its steps; nothing where none or all are done."""
    return f", {duration(taken_s / done * (total - done))} left" if 0 < done < total else ""


def duration(seconds: float) -> str:
    """Returns `0:07`, `12:30` or `1:02:03`."""
    whole = round(seconds)
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
