"""`attune data check`: what a table holds, before anything is trained on it."""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attune.models.data.adapters import Table, table_of
from attune.models.data.preferences import ANONYMOUS, Comparison, Comparisons
from attune.models.data.table_shapes import Reading, Shape, said_alone
from attune.models.data.tables import TableInvalid, some
from attune.models.seam.counts import counted

USERS_SHOWN = 5
_LINES = re.compile(r"\.(jsonl|ndjson)(\.gz)?$", re.IGNORECASE)
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
        comparisons, ties, users, prompts, candidates: counts of what would be learned from; users are those with a name.
        possible: comparisons that ratings or scores could make; 0 for pairs and votes.
        anonymous: rows without a user.
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
    possible: int
    anonymous: int
    per_user: tuple[int, float, int]
    largest: tuple[tuple[str, int], ...]
    sha256: str

    def lines(self) -> list[str]:
        """Returns the survey for a person."""
        least, median, most = self.per_user
        kept = f", {self.comparisons:,} of {self.possible:,} possible" if self.possible else ""
        return [
            f"shape        {self.shape}",
            f"rows         {self.rows:,}, {self.bad:,} bad",
            f"comparisons  {self.comparisons:,}, {self.ties:,} of them ties{kept}",
            f"users        {self.users:,} with {least:,} / {median:,.10g} / {most:,} comparisons (least / median / most)",
            *([f"             {', '.join(f'{name} {count:,}' for name, count in self.largest)}"] if self.largest else []),
            *([f"no user      {counted(self.anonymous, 'row')}"] if self.anonymous else []),
            f"prompts      {self.prompts:,}",
            f"answers      {self.candidates:,}",
            f"sha256       {self.sha256}",
            *(f"warning: {text}" for text in self.warnings),
            *(f"bad: {text}" for text in self.problems),
            *([f"bad: and {self.bad - len(self.problems):,} more"] if self.bad > len(self.problems) else []),
        ]


def survey(source: str | Path, reading: Reading, *, write: Path | None = None) -> Survey:
    """Returns what `source` holds; bad rows are counted and left out.

    Args:
        source: see `read_rows`.
        reading: of the table.
        write: a file to write the good comparisons to, as lines of pairs that every command reads without options.

    Raises:
        TableInvalid, RowsInvalid: nothing can be read, or the name of the copy is the table's or of no JSON lines; nothing is written.
    """
    if write is not None and not _LINES.search(write.name):
        raise TableInvalid(f"{write} would hold JSON lines; a name that ends in .jsonl or .jsonl.gz is needed, by which others read them")
    if write is not None and write.exists() and Path(source).exists() and write.samefile(source):
        raise TableInvalid(f"{write} is the table itself, of which bad rows would be lost; give the copy another name")
    table = table_of(source, reading)
    if write is not None:
        write_pairs(table.records, write)
    problems = tuple(map(str, table.problems))
    if not table.records:
        warnings = (f"there is no comparison: {table.why_none}",)
        nothing = (0, 0, 0, 0, 0, 0, table.anonymous)
        return Survey(table.shape, table.rows, table.bad, problems, warnings, *nothing, (0, 0.0, 0), (), "")
    comparisons = Comparisons.from_records(table.records)
    people = comparisons.take(~comparisons.anonymous)
    counts = np.bincount(people.user, minlength=len(comparisons.users))
    named = {name: count for name, count in zip(comparisons.users, counts.tolist(), strict=True) if count}
    each = np.array(list(named.values()) or [0])
    return Survey(
        table.shape,
        table.rows,
        table.bad,
        problems,
        tuple(_warnings(comparisons, table)),
        len(comparisons),
        int(comparisons.tie.sum()),
        len(named),
        len({prompt for prompt, _ in comparisons.texts.prompts}),
        len(comparisons.texts.candidates),
        table.possible,
        table.anonymous,
        (int(each.min()), float(np.median(each)), int(each.max())),
        tuple(Counter(named).most_common(USERS_SHOWN)),
        comparisons.sha256(),
    )


def write_pairs(records: Iterable[Comparison], path: Path) -> None:
    """Writes comparisons as JSON lines of the shape `pairs`, in one step; what a record does not say has no column."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(part, "wt", encoding="utf-8") if path.suffix.lower() == ".gz" else part.open("w", encoding="utf-8") as stream:
        for one in records:
            row = {} if one.user.startswith(ANONYMOUS) else {"user": one.user}
            row |= {"prompt": one.prompt, "chosen": one.chosen, "rejected": one.rejected}
            said = {
                "tie": one.tie or None,
                "context": one.context,
                "weight": None if one.weight == 1.0 else one.weight,
                "time_s": one.time_s,
            }
            stream.write(json.dumps(row | {name: value for name, value in said.items() if value is not None}, ensure_ascii=False) + "\n")
    part.replace(path)


def _warnings(comparisons: Comparisons, table: Table) -> list[str]:
    people = comparisons.take(~comparisons.anonymous)
    found = _of_people(people, table.anonymous)
    if table.possible > len(table.records):
        found.append(
            f"{len(table.records):,} of {table.possible:,} possible pairs are kept, a fair sample of each user's; see --most-pairs"
        )
    orders = Counter(zip(people.user.tolist(), people.chosen.tolist(), people.rejected.tolist(), strict=True))
    repeated = sum(count - 1 for count in orders.values())
    if repeated:
        found.append(f"{counted(repeated, 'comparison repeats', 'comparisons repeat')} another of the same user")
    both = sum(1 for user, chosen, rejected in orders if (user, rejected, chosen) in orders) // 2
    if both:
        found.append(f"{counted(both, 'pair was', 'pairs were')} decided both ways by the same user")
    if table.equal:
        found.append(
            f"{counted(table.equal, 'pair')} of equal scores, or of equal texts, {'makes' if table.equal == 1 else 'make'} no comparison"
        )
    found += _of_scores(table)
    if table.alone:
        found.append(f"{said_alone(table.shape, table.alone)}, and {'makes' if table.alone == 1 else 'make'} no comparison")
    longer = np.array([len(text) for _, text in comparisons.texts.candidates])
    decided = ~comparisons.tie
    if decided.any():
        share = float(np.mean(longer[comparisons.chosen[decided]] > longer[comparisons.rejected[decided]]))
        if not 0.25 <= share <= 0.75:
            found.append(f"the longer answer is chosen in {share:.0%}: hold every result against length alone")
    return found


def _alike(names: Iterable[str]) -> list[str]:
    """Returns a warning where names differ in what readers do not see as another name."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(unicodedata.normalize("NFKC", " ".join(name.split())).casefold(), []).append(name)
    if not (several := [group for group in groups.values() if len(group) > 1]):
        return []
    first, second = several[0][:2]
    count = f"{sum(map(len, several)):,} names of users"
    return [f"{count} differ from another in case, blanks or encoding alone, as {first!r} from {second!r}: each is somebody else here"]


def _of_scores(table: Table) -> list[str]:
    found = []
    if table.again:
        what, whose = table.shape, "user" if table.shape == "ratings" else "attribute"
        found.append(
            f"{counted(table.again, f'{what[:-1]} is', f'{what} are')} of an answer that has one of the same {whose} before"
            + ("; where several people scored, --column user=THEIRS says who" if table.shape == "scores" else "")
        )
    if table.ids:
        names = some(table.ids)
        found.append(f"read as an attribute, and another whole number in every row: {names}; what numbers rows is to be ignored by name")
    return found


def _of_people(people: Comparisons, anonymous: int) -> list[str]:
    counts = np.unique(people.user, return_counts=True)[1]
    if not len(counts):
        return ["no row says whose it is: what everybody likes can be learned, and nothing personal"]
    found = []
    if anonymous:
        found.append(
            f"{counted(anonymous, 'row has no user: it tells', 'rows have no user: they tell')} "
            "what everybody likes, and nothing of a person"
        )
    if len(counts) == 1:
        found.append("one user only: a global head can be learned, and nothing personal; no split by user is possible")
    found += _alike([people.users[index] for index in np.unique(people.user)])
    few = int(np.sum(counts < FEW))
    if len(counts) > 1 and few:
        found.append(
            f"{few:,} of {len(counts):,} users {'has' if few == 1 else 'have'} fewer than {FEW} comparisons, and "
            f"{'is' if few == 1 else 'are'} in no few-shot curve to {FEW}"
        )
    return found
