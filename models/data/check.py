"""`attune data check`: what a table holds, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attune.models.data.adapters import Progress, Reading, Shape, read_table, show_rows
from attune.models.data.preferences import Comparisons
from attune.models.data.tables import read_rows

USERS_SHOWN = 5
FEW = 20
"""Comparisons from which a user's taste begins to show; what few-shot curves end at."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found.

    Attributes:
        shape: see `adapters`.
        rows, bad: rows in all, and bad ones among them.
        problems: the first bad rows, one line each.
        warnings: what is legal and probably not meant, or limits what can be learned.
        comparisons, ties, users, prompts, candidates: counts of what would be learned from.
        per_user: comparisons of a user: least, median, most.
        largest: names and counts of the users with most.
        sha256: of the comparisons; empty if there are none.
    """

    shape: Shape
    rows: int
    bad: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    comparisons: int
    ties: int
    users: int
    prompts: int
    candidates: int
    per_user: tuple[int, float, int]
    largest: tuple[tuple[str, int], ...]
    sha256: str

    def lines(self) -> list[str]:
        """Returns the survey for a person."""
        least, median, most = self.per_user
        return [
            f"shape        {self.shape}",
            f"rows         {self.rows:,}, {self.bad:,} bad",
            f"comparisons  {self.comparisons:,}, {self.ties:,} of them ties",
            f"users        {self.users:,} with {least:,} / {median:g} / {most:,} comparisons (least / median / most)",
            f"             {', '.join(f'{name} {count:,}' for name, count in self.largest)}",
            f"prompts      {self.prompts:,}",
            f"answers      {self.candidates:,}",
            f"sha256       {self.sha256}",
            *(f"warning: {text}" for text in self.warnings),
            *(f"bad: {text}" for text in self.problems),
            *([f"bad: and {self.bad - len(self.problems):,} more"] if self.bad > len(self.problems) else []),
        ]


def survey(source: str | Path, reading: Reading, *, progress: Progress = show_rows) -> Survey:
    """Returns what `source` holds; bad rows are counted and left out.

    Raises:
        TableInvalid, RowsInvalid: nothing of it can be read.
    """
    table = read_table(read_rows(source), reading, progress=progress)
    problems = tuple(map(str, table.problems))
    if not table.records:
        warnings = (f"no comparison is left; {table.equal:,} pairs are of equal scores or texts",)
        return Survey(table.shape, table.rows, table.bad, problems, warnings, 0, 0, 0, 0, 0, (0, 0.0, 0), (), "")
    comparisons = Comparisons.from_records(table.records)
    counts = np.bincount(comparisons.user, minlength=len(comparisons.users))
    largest = Counter(dict(zip(comparisons.users, counts.tolist(), strict=True))).most_common(USERS_SHOWN)
    return Survey(
        table.shape,
        table.rows,
        table.bad,
        problems,
        tuple(_warnings(comparisons, table.equal)),
        len(comparisons),
        int(comparisons.tie.sum()),
        len(comparisons.users),
        len({prompt for prompt, _ in comparisons.texts.prompts}),
        len(comparisons.texts.candidates),
        (int(counts.min()), float(np.median(counts)), int(counts.max())),
        tuple(largest),
        comparisons.sha256(),
    )


def _warnings(comparisons: Comparisons, equal: int) -> list[str]:
    found = []
    if len(comparisons.users) == 1:
        found.append("one user only: a global head can be learned, and nothing personal; no split by user is possible")
    counts = np.bincount(comparisons.user)
    few = int(np.sum(counts < FEW))
    if len(comparisons.users) > 1 and few:
        found.append(f"{few:,} of {len(counts):,} users have fewer than {FEW} comparisons, and are in no few-shot curve to {FEW}")
    orders = Counter(zip(comparisons.user.tolist(), comparisons.chosen.tolist(), comparisons.rejected.tolist(), strict=True))
    repeated = sum(count - 1 for count in orders.values())
    if repeated:
        found.append(f"{repeated:,} comparisons repeat another of the same user")
    both = sum(1 for user, chosen, rejected in orders if (user, rejected, chosen) in orders) // 2
    if both:
        found.append(f"{both:,} pairs were decided both ways by the same user")
    if equal:
        found.append(f"{equal:,} pairs of equal scores, or of equal texts, make no comparison")
    longer = np.array([len(text) for _, text in comparisons.texts.candidates])
    decided = ~comparisons.tie
    if decided.any():
        share = float(np.mean(longer[comparisons.chosen[decided]] > longer[comparisons.rejected[decided]]))
        if not 0.25 <= share <= 0.75:
            found.append(f"the longer answer is chosen in {share:.0%}: hold every result against length alone")
    return found
