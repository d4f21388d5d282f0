"""A queue with numbers to calculate by, and callers who put texts there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attune.service.batching.queue import BatchQueue


@dataclass(eq=False)
class Caller:
    """Who puts texts of these lengths."""

    lengths: Sequence[int]
    name: str = ""
    submitted_at_s: float = 0.0
    deadline_at_s: float = math.inf


Texts = Iterable[tuple[Caller, int]]


def queue(**changes: float) -> BatchQueue[Caller]:
    settings: dict[str, float] = {"max_items": 1000, "max_tokens": 100_000, "budget_tokens": 512, "overhead_tokens": 16, "age_limit_s": 1.0}
    return BatchQueue(**(settings | changes))  # type: ignore[arg-type]  # whole numbers are given where they are asked for


def put(waiting: BatchQueue[Caller], *lengths: int, now_s: float = 0.0, deadline_at_s: float = math.inf, name: str = "") -> range:
    return waiting.put(Caller(lengths, name, now_s, deadline_at_s), lengths)


def lengths(texts: Texts) -> list[int]:
    return [caller.lengths[index] for caller, index in texts]


def names(texts: Texts) -> list[str]:
    return [f"{caller.name}{index}" for caller, index in texts]
