"""One line of the table: what clients saw of a fault, and whether everything that was promised held."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


class Skipped(Exception):
    """A fault that cannot be made here; the message says why."""


@dataclass(frozen=True)
class FaultRow:
    """What came of one scenario.

    Attributes:
        statuses: of the answers.
        found: counts that have to be 0.
        slowest_s: of all answers.
        ok: whether everything held.
        also: what else was asked, and whether it was so.
    """

    name: str
    statuses: dict[str, int]
    found: dict[str, int]
    slowest_s: float
    ok: bool
    also: dict[str, bool] = field(default_factory=dict)
    took_s: float = 0.0

    def and_also(self, what: str, so: bool) -> FaultRow:  # noqa: FBT001  reads as a sentence
        """Returns the row with one more thing that had to be so."""
        return replace(self, ok=self.ok and so, also=self.also | {what: so})

    def __str__(self) -> str:
        statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(self.statuses.items()))
        counts = " ".join(f"{what} {count}" for what, count in self.found.items())
        also = "".join(f"; {what}: {'yes' if so else 'NO'}" for what, so in self.also.items())
        return f"{'ok' if self.ok else 'FAILED':7}{self.name:26}{self.took_s:6.1f} s{self.slowest_s:7.2f} s  {statuses} | {counts}{also}"
