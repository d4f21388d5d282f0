"""How long one answer may keep its caller waiting, phase by phase, and what a member's usual pace is.

    asked ── opening ──> first event ──> first text ──> between events ──> after the finish ──> end        total, deadline

One timer for an answer. A later limit is a number that it looks at when it rings; it is only set anew for one that comes
before it would ring, as after a first event, for which there is most time. Where others can stand in, a
first sign is late long before its limit, so that members that hang do not use up the time of the one that is well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from attune.service.members.spec import OpenAISpec

AFTER_FINISH_S = 1.0
"""How long counts are waited for, once the server has said that the text is complete."""

USUAL_SHARE = 4.0
"""A first sign that takes this many times the usual is late where others can stand in."""

LATE_SHARE = 1 / 8
"""The share of its limit after which a first sign may be late, however quick the member usually is."""

LATE_S = 0.5
"""Nothing is late before so many seconds: a busy machine, a long prompt."""


class MemberPace:
    """How long a member usually takes: moving averages over its answers, None while there is none."""

    __slots__ = ("first_s", "whole_s")

    def __init__(self) -> None:
        self.first_s: float | None = None
        self.whole_s: float | None = None

    def answered(self, first_s: float | None, whole_s: float) -> None:
        """Takes note of a complete answer; `first_s` is None where it came in one piece."""
        if first_s is not None:
            self.first_s = _moved(self.first_s, first_s)
        self.whole_s = _moved(self.whole_s, whole_s)

    def began_late(self, first_s: float) -> None:
        """Takes note of a first sign that came after its caller had gone to another member."""
        self.first_s = max(self.first_s or 0.0, first_s)

    def was_late(self) -> None:
        """Takes note of a whole answer that did not come in time: the next ones are streamed, and show signs of life."""
        self.whole_s = None if self.whole_s is None else self.whole_s * 4


def _moved(average_s: float | None, seconds: float) -> float:
    return seconds if average_s is None else average_s + (seconds - average_s) / 4


def late_after_s(limit_s: float, usual_s: float | None, stand_ins: int, left_s: float) -> float:
    """Returns the seconds after which a request that waits for a first sign goes to another member.

    Args:
        limit_s: the operator's limit; it holds alone where nobody can stand in.
        usual_s: what this member usually takes; None where it has not answered yet.
        stand_ins: how many members may still be asked.
        left_s: until the request's deadline.
    """
    if stand_ins == 0:
        return limit_s
    late_s = max(LATE_S, limit_s * LATE_SHARE, USUAL_SHARE * (usual_s or 0.0))
    return min(limit_s, late_s, left_s / (stand_ins + 1))


class Patience:
    """The limits of one answer, on the clock of the event loop.

    Args:
        spec: the limits.
        deadline_s: of the request.
        first_s: seconds that the first sign may take.
        whole: whether the answer comes in one piece, so that there is no sign before all of it.
    """

    def __init__(self, spec: OpenAISpec, deadline_s: float, first_s: float, *, whole: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._spec = spec
        self._whole = whole
        self.began_s = self._loop.time()
        self.first_s = first_s
        self.deadline_s = deadline_s
        self._last_sign_s = self.began_s
        self._by_s = self.began_s + first_s
        self._text_by_s = self.began_s + (first_s if whole else max(first_s, spec.first_text_s))
        self._total_by_s = deadline_s if spec.total_s is None else self.began_s + spec.total_s
        self._timer: asyncio.TimerHandle | None = None
        self._ring: Callable[[], None] = lambda: None
        self._heard = False
        self._begun = False
        self._finishing = False
        self.first_event_s: float | None = None
        self.rang = False

    @property
    def until_s(self) -> float:
        """When the limit passes that holds now."""
        return min(self._by_s, self._total_by_s, self.deadline_s, self.deadline_s if self._begun else self._text_by_s)

    def heard(self, *, begun: bool, finishing: bool) -> None:
        """Moves the limit: the server has shown a sign of the answer, and whether its text has begun or is complete."""
        now_s = self._last_sign_s = self._loop.time()
        if not self._heard:
            self._heard, self.first_event_s = True, now_s - self.began_s
        self._begun, self._finishing = begun, finishing and begun
        self._by_s = now_s + (AFTER_FINISH_S if self._finishing else self._spec.between_events_s)
        if self._timer is not None and not self._timer.cancelled() and self.until_s < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(self.until_s, self._look)

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of the answer, or since it was asked for."""
        return self._loop.time() - self._last_sign_s

    def arm(self, ring: Callable[[], None]) -> None:
        """Calls `ring` when the limit passes that holds by then, unless `disarm` comes first."""
        self._ring = ring
        self._timer = self._loop.call_at(self.until_s, self._look)

    def disarm(self) -> None:
        """Stops the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        until_s = self.until_s
        if self._loop.time() < until_s:
            self._timer = self._loop.call_at(until_s, self._look)
        else:
            self.rang = True
            self._ring()

    @property
    def is_complete(self) -> bool:
        """Whether what rang was the wait for counts after a complete text, which is no failure."""
        return self._finishing and self._by_s <= min(self._total_by_s, self.deadline_s)

    @property
    def is_deadline(self) -> bool:
        """Whether the limit that holds now is the request's deadline."""
        return self.until_s >= self.deadline_s

    @property
    def hung(self) -> bool:
        """Whether the limit that holds now passes without a sign of life, which the next request would meet too."""
        return not self._heard or (self._begun and self._by_s <= self._total_by_s)

    def said(self) -> str:
        """Returns which limit it is that holds now, with its seconds."""
        until_s = self.until_s
        if until_s == self._total_by_s and self._spec.total_s is not None:
            return f"the answer was not complete within {self._spec.total_s:g} s (total_s)"
        if not self._heard:
            return self.said_late(self.first_s)
        if until_s == self._text_by_s and not self._begun:
            return f"no first text came within {self._text_by_s - self.began_s:g} s (first_text_s)"
        return f"no next event came within {self._spec.between_events_s:g} s (between_events_s)"

    def said_late(self, seconds: float) -> str:
        """Returns that no sign of the answer came within so many seconds."""
        return f"{'no whole answer' if self._whole else 'no first event'} came within {seconds:g} s"
