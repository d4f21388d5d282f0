"""The nouns of batching: one caller's texts while they are under way, and what is said about them afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from attune.models.seam.families import Row
from attune.models.seam.text import Encoded
from attune.service.batching.queue import Entry
from attune.service.errors import DeadlineExceeded

# Why texts got no row: no room on arrival, their deadline passed, nobody waited for them any more, or the scorer raised on them.
Drop = Literal["refused", "expired", "abandoned", "failed"]


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to one submission.

    Attributes:
        rows: one row per text, in the order submitted.
        queue_s: time spent waiting, seconds.
        inference_s: time that the batches which carried its texts took, seconds; with `queue_s` the whole time.
    """

    rows: list[Row]
    queue_s: float
    inference_s: float


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch, for metrics: its texts but for the canary, what was asked for and computed, and how long each text waited, seconds."""

    items: int
    real_tokens: int
    padded_tokens: int
    inference_s: float
    queue_s: tuple[float, ...]


@dataclass(slots=True, eq=False)
class Submission:
    """One caller's texts; `answered` is resolved when the last row is there, or with the first error."""

    answered: asyncio.Future[float]
    submitted_at_s: float
    texts: int
    rows: dict[int, Row] = field(default_factory=dict)
    entries: tuple[Entry[Text], ...] = ()
    inference_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Text:
    """What the queue carries for one text: whose it is, which of theirs, and what the scorer gets."""

    submission: Submission
    index: int
    item: Encoded


def deadline_exceeded(submission: Submission, deadline_s: float) -> DeadlineExceeded:
    """Returns the error of a submission that was not whole after `deadline_s` seconds."""
    return DeadlineExceeded(f"{len(submission.rows)} of {submission.texts} texts were scored within {deadline_s:.3g} s")
