"""How long each stage of one request took: for the `server-timing` header, the response, the metrics and the spans of a trace alike.

Stages may overlap (Redis is read while the texts wait for the scorer), so they need not add up to the duration of the request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal["tokenize", "queue", "inference", "redis", "member"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True, slots=True)
class Entered:
    """One stay in a stage, from and until when on the clock of the timings."""

    stage: Stage
    began_s: float
    ended_s: float


class Timings:
    """Seconds by stage of one request.

    Args:
        clock: monotonic seconds.
        entered: where each stay in a stage is noted as well, for a request whose spans are exported.
    """

    __slots__ = ("_clock", "_entered", "_seconds")

    def __init__(self, clock: Callable[[], float] = time.perf_counter, entered: list[Entered] | None = None) -> None:
        self._clock = clock
        self._entered = entered
        self._seconds: dict[Stage, float] = {}

    def add(self, *stays: tuple[Stage, float]) -> None:
        """Adds the seconds of stays that came one after another, the last of which ended now; a stage may be entered more than once."""
        for stage, seconds in stays:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
        if self._entered is not None:
            began_s = self._clock() - sum(seconds for _, seconds in stays)
            for stage, seconds in stays:
                self._entered.append(Entered(stage, began_s, began_s := began_s + seconds))

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Adds the time spent inside the block to a stage, also when the block raises."""
        began_s = self._clock()
        try:
            yield
        finally:
            self.add((stage, self._clock() - began_s))

    @property
    def seconds(self) -> Mapping[Stage, float]:
        """Seconds of every stage that was entered."""
        return self._seconds

    def header(self) -> str:
        """Returns the value of `server-timing`: stages in their fixed order, milliseconds."""
        return server_timing(self._seconds)


def server_timing(seconds: Mapping[Stage, float]) -> str:
    """Returns the value of a `server-timing` header, such as `tokenize;dur=0.21, queue;dur=1.50`; empty for no stage."""
    return ", ".join(f"{stage};dur={seconds[stage] * 1000:.2f}" for stage in STAGES if stage in seconds)
