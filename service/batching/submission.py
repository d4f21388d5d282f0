"""The nouns of batching: one caller's texts while they are under way, and what is said about them afterwards."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal

from attune.models.seam.counts import counted
from attune.models.seam.padding import TokenRow
from attune.service.batching.session import Scored
from attune.service.errors import DeadlineExceeded

# Why texts got no row: no room on arrival, their deadline passed, nobody waited for them any more, or the scorer raised on them.
Drop = Literal["refused", "expired", "abandoned", "failed"]


@dataclass(frozen=True, slots=True)
class Submitted(Generic[Scored]):
    """The answer to one submission.

    Attributes:
        rows: what the scorer gave for each text, in the order submitted.
        queue_s: time spent waiting, seconds.
        inference_s: time in which a batch that carried its texts ran, seconds; with `queue_s` the whole time.
    """

    rows: list[Scored]
    queue_s: float
    inference_s: float


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch, for metrics: its texts but for the canary, what was asked for and computed, and how long submissions waited, seconds.

    `busy_s` is the part of `inference_s` and of the time of batches beside it that no batch before has counted, seconds.
    """

    items: int
    real_tokens: int
    padded_tokens: int
    inference_s: float
    busy_s: float
    queue_s: tuple[float, ...]


class Submission(Generic[Scored]):
    """One caller's texts; `answered` is resolved with the time when the last row is there, or with the first error.

    Attributes:
        items: the texts.
        missing: texts that no batch has answered yet.
        spare: whether nobody waits for it, so that it takes its turn where nothing else is asked.
        waiting: its texts in the queue, by the queue's numbers; those that were taken are still among them.
    """

    __slots__ = ("_runs", "answered", "deadline_at_s", "items", "missing", "rows", "spare", "submitted_at_s", "waiting")

    def __init__(
        self,
        answered: asyncio.Future[float],
        items: Sequence[TokenRow],
        submitted_at_s: float,
        deadline_at_s: float,
        *,
        spare: bool = False,
    ) -> None:
        self.spare = spare
        self.answered = answered
        self.submitted_at_s = submitted_at_s
        self.deadline_at_s = deadline_at_s
        self.items = items
        self.missing = len(items)
        self.rows: list[Scored | None] = [None] * len(items)
        self.waiting = range(0)
        self._runs: list[tuple[float, float]] = []

    def ran(self, texts: int, started_at_s: float, finished_at_s: float) -> None:
        """Takes down that a batch answered so many of its texts, and when it ran."""
        self._runs.append((started_at_s, finished_at_s))
        self.missing -= texts
        if not self.missing and not self.answered.done():
            self.answered.set_result(finished_at_s)

    @property
    def inference_s(self) -> float:
        """Time in which a batch so far ran, seconds: what several did side by side counts once."""
        total_s, until_s = 0.0, -math.inf
        for started_at_s, finished_at_s in sorted(self._runs):
            total_s += max(0.0, finished_at_s - max(started_at_s, until_s))
            until_s = max(until_s, finished_at_s)
        return total_s

    def whole(self) -> Submitted[Scored]:
        """Returns the answer, once `answered` is resolved with a time."""
        elapsed_s, inference_s = self.answered.result() - self.submitted_at_s, self.inference_s
        rows = [row for row in self.rows if row is not None]
        return Submitted(rows, max(0.0, elapsed_s - inference_s), inference_s)


def deadline_exceeded(submission: Submission[Scored], deadline_s: float) -> DeadlineExceeded:
    """Returns the error of a submission that was not whole after `deadline_s` seconds."""
    texts = len(submission.items)
    scored = texts - submission.missing
    return DeadlineExceeded(f"{scored} of {counted(texts, 'text was', 'texts were')} scored within {deadline_s:.3g} s")
