"""Time for tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """Time that passes when told to, in Unix seconds."""

    now_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s
