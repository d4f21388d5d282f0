"""The nouns of batching: one caller's texts while they are under way, and what is said about them afterwards."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Generic, Literal

from attune.models.seam.counts import counted
from attune.models.seam.padding import TokenRow
from attune.service.batching.queue import Entry
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
        missing: texts that have no row yet.
        spare: whether nobody waits for it, so that it takes its turn where nothing else is asked.
    """

    __slots__ = ("_batch", "_runs", "answered", "deadline_at_s", "entries", "missing", "rows", "spare", "submitted_at_s", "texts")

    def __init__(
        self, answered: asyncio.Future[float], texts: int, submitted_at_s: float, deadline_at_s: float, *, spare: bool = False
    ) -> None:
        self.spare = spare
        self.answered = answered
        self.submitted_at_s = submitted_at_s
        self.deadline_at_s = deadline_at_s
        self.texts = self.missing = texts
        self.rows: list[Scored | None] = [None] * texts
        self.entries: tuple[Entry[Text[Scored]], ...] = ()
        self._batch = -1
        self._runs: list[tuple[float, float]] = []

    def ran_in(self, batch: int, started_at_s: float, finished_at_s: float) -> bool:
        """Takes down when a batch that carried texts of this submission ran; returns whether this is new of the batch delivered last."""
        if batch == self._batch:
            return False
        self._batch = batch
        self._runs.append((started_at_s, finished_at_s))
        return True

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


class Text(Generic[Scored]):
    """What the queue carries for one text: whose it is, which of theirs, and what the scorer gets."""

    __slots__ = ("index", "item", "submission")

    def __init__(self, submission: Submission[Scored], index: int, item: TokenRow) -> None:
        self.submission = submission
        self.index = index
        self.item = item


def deadline_exceeded(submission: Submission[Scored], deadline_s: float) -> DeadlineExceeded:
    """Returns the error of a submission that was not whole after `deadline_s` seconds."""
    scored = submission.texts - submission.missing
    return DeadlineExceeded(f"{scored} of {counted(submission.texts, 'text was', 'texts were')} scored within {deadline_s:.3g} s")
