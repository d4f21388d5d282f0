"""Tables in the common shapes, as comparisons.

    pairs     chosen, rejected [, prompt, user, tie, context, weight, time_s]    texts, HH transcripts or OpenAI messages
    votes     response_a, response_b, winner (a, b or tie) [, as pairs]
    ratings   user, response, rating [, prompt, time_s]         -> each user prefers what they rated higher
    scores    prompt, response, and a number per attribute      -> each attribute is a user who prefers the higher score

Every bad row is counted and the first few are named with file, line and column. A column that nothing reads is refused until it is
named as one to ignore. A row without a user is one of somebody unknown: never of the same person as another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from attune.models.data.preferences import ANONYMOUS, MOST_WEIGHT, Comparison, ComparisonInvalid, Comparisons
from attune.models.data.progress import Steps
from attune.models.data.rated_pairs import pair_up
from attune.models.data.table_shapes import OPTIONAL, REQUIRED, Reading, Shape, outermost, said_alone, shape_of, unread_of
from attune.models.data.tables import BadRow, RowsInvalid, TableInvalid, TableRow, read_rows, some, unread_columns
from attune.models.data.transcripts import ValueInvalid, parse_pair, parse_rated
from attune.models.data.values import column_of, flag_of, is_number, number_of, time_of, user_of, winner_of
from attune.models.seam.artefacts import COMPARISONS, recognised
from attune.models.seam.counts import all_counted

DECIDING = 32
"""Rows that say together which shape a table has: one that lacks a column is bad wherever it stands, and the first as well."""

_LEAST_IDS = 10
"""Rows with another whole number in each that are no scores by chance."""


@dataclass(frozen=True, slots=True)
class Table:
    """What was read of a table.

    Attributes:
        shape: see the module.
        records: of the good rows, in order.
        rows: rows in all; `bad` of them gave nothing, and `problems` names the first.
        equal: pairs of equal scores or ratings, or of equal texts under a rating, that make no comparison.
        possible: pairs of ratings or scores that could have made one; where it is more than there are records, a sample was drawn.
        alone: ratings, or scores of an attribute, beside which their user has no other answer to the same prompt: they make no comparison.
        again: ratings, or scores of an attribute, of an answer that the same user gave one before.
        anonymous: rows without a user.
        ids: columns of scores that hold another whole number in every row, as what names rows does.
    """

    shape: Shape
    records: tuple[Comparison, ...]
    rows: int
    bad: int
    problems: tuple[BadRow, ...]
    equal: int
    possible: int
    alone: int
    again: int
    anonymous: int
    ids: tuple[str, ...]

    @property
    def why_none(self) -> str:
        """Why no comparison could be made, where there is none."""
        told = [f"{all_counted(self.equal, 'possible pair is', 'possible pairs are')} of equal scores or texts"] if self.equal else []
        told += [said_alone(self.shape, self.alone)] if self.alone else []
        told += [f"{all_counted(self.anonymous, 'row has', 'rows have')} no user"] if self.anonymous else []
        return "; ".join(told) or "no good row is left to compare"


def read_comparisons(source: str | Path, reading: Reading | None = None) -> Comparisons:
    """Returns the comparisons of a table.

    Args:
        source: see `read_rows`.
        reading: see `Reading`; its defaults if None.

    Raises:
        TableInvalid: the table cannot be read, has another shape, lacks a column or has one that nothing reads.
        RowsInvalid: some rows are bad; nothing is returned of the others.
        ComparisonInvalid: there are no comparisons.
    """
    table = table_of(source, reading or Reading())
    if table.bad:
        raise RowsInvalid(table.problems, table.bad, table.rows)
    if not table.records:
        raise ComparisonInvalid(f"{source}: there is no comparison: {table.why_none}")
    return Comparisons.from_records(table.records)


def table_of(source: str | Path, reading: Reading) -> Table:
    """Returns what a source of `read_rows` holds, bad rows counted and left out; what is no table is told with what it is instead.

    Raises:
        TableInvalid, RowsInvalid: as `read_table`.
    """
    try:
        return read_table(read_rows(source), reading)
    except TableInvalid as error:
        name, found = Path(source).name, recognised(source)
        said = str(error) if name in str(error) else f"{name}: {error}"
        raise TableInvalid(f"{said}; it is {found}" if found and not found.startswith(COMPARISONS) else said) from error


def read_table(rows: Iterable[TableRow], reading: Reading) -> Table:
    """Returns what the rows hold, bad ones counted and left out.

    Raises:
        TableInvalid: as `read_comparisons`; the columns of most of the first rows decide.
    """
    progress = Steps("read {} rows")
    coming = iter(rows)
    parser = _decided(first := list(islice(coming, DECIDING)), reading)
    problems: list[BadRow] = []
    bad = number = 0
    for number, row in enumerate(chain(first, coming), start=1):
        try:
            values = _values(row)
            parser = parser or _decided([row], reading)
            assert parser is not None  # of a row that has values
            parser.take(values)
        except ValueInvalid as error:
            bad += 1
            if len(problems) < reading.shown:
                problems.append(BadRow(row.where, reading.columns.get(error.column, error.column), error.what))
        if number % 10_000 == 0:
            progress(number)
    if parser is None:
        if problems:
            raise RowsInvalid(tuple(problems), bad, number)
        raise TableInvalid("the table has no rows: there is nothing in it, or column names alone")
    parser.expect_all_there()
    records = tuple(parser.records())
    counts = (parser.equal, parser.possible, parser.alone, parser.again, parser.anonymous)
    ids = tuple(name for name, numbers in parser.distinct.items() if numbers and len(numbers) >= _LEAST_IDS)
    return Table(parser.shape, records, number, bad, tuple(problems), *counts, ids)


@dataclass(slots=True)
class _Parser:
    """Takes rows of one shape and gives comparisons; groups of scores and ratings are compared at the end."""

    shape: Shape
    reading: Reading
    numeric: tuple[str, ...]
    decided_by: str
    pairs: list[Comparison] = field(default_factory=list)
    groups: dict[tuple[str, str], list[tuple[float, str, float | None]]] = field(default_factory=dict)
    equal: int = 0
    possible: int = 0
    alone: int = 0
    again: int = 0
    anonymous: int = 0
    sources: tuple[tuple[str, str], ...] = ()
    accepted: AbstractSet[str] = frozenset()
    seen: set[str] = field(default_factory=set)
    ignored: tuple[str, ...] = ()
    found_inside: set[str] = field(default_factory=set)
    distinct: dict[str, set[float] | None] = field(default_factory=dict)

    def take(self, values: Mapping[str, Any]) -> None:
        if not self.sources:
            names = (*REQUIRED[self.shape], *OPTIONAL[self.shape])
            self.sources = tuple((name, self.reading.columns.get(name, name)) for name in names)
            self.ignored = tuple(name for name, theirs in self.sources if theirs in self.reading.ignore)
        extra = self._unknown(values)
        get = {name: values[theirs] if theirs in values else column_of(values, theirs) for name, theirs in self.sources}
        self.found_inside.update(theirs for name, theirs in self.sources if get[name] is not None and theirs not in values)
        get |= dict.fromkeys(self.ignored)
        if extra:
            raise ValueInvalid(
                some(extra),
                f"no such column in {self.decided_by}, by which the others are read; ignore it by name if it should not be read",
            )
        match self.shape:
            case "pairs":
                self._compared(get, get["chosen"], get["rejected"], tie=flag_of(get["tie"], "tie"))
            case "votes":
                winner = winner_of(get["winner"], "winner")
                first, second = ("response_b", "response_a") if winner == "b" else ("response_a", "response_b")
                self._compared(get, get[first], get[second], tie=winner == "tie", names=(first, second))
            case "ratings":
                prompt, response = parse_rated(get["prompt"], get["response"])
                entry = (number_of(get["rating"], "rating"), response, time_of(get["time_s"], "time_s"))
                user = user_of(get["user"], "user")
                if user is None:  # one rating of somebody unknown can be compared with nothing
                    self.anonymous += 1
                else:
                    self.groups.setdefault((user, prompt or "(no prompt)"), []).append(entry)
            case "scores":
                self._scored(get, {name: values[name] for name in self.numeric if values.get(name) is not None})

    def _scored(self, get: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
        prompt, response = parse_rated(get["prompt"], get["response"])
        if not prompt:
            raise ValueInvalid("prompt", "is None; a text or a list of messages is needed")
        user = user_of(get["user"], "user")
        numbers = {name: number_of(value, name) for name, value in scores.items()}
        if not numbers:
            raise ValueInvalid(some(self.numeric), "there is no score")
        for name, score in numbers.items():
            if (known := self.distinct.setdefault(name, set())) is not None:
                if score in known or score % 1:
                    self.distinct[name] = None
                known.add(score)
            self.groups.setdefault((name if user is None else f"{user}:{name}", prompt), []).append((score, response, None))

    def _unknown(self, values: Mapping[str, Any]) -> list[str]:
        """Returns columns of a row that nothing reads; where every number is a score, one may stand in a later row for the first time."""
        if values.keys() == self.accepted:  # as in most rows
            return []
        self.seen.update(values)
        unread = unread_of(values, self.shape, self.reading, self.numeric)
        empty = []
        if self.scored:
            self.numeric += tuple(name for name in unread if is_number(values[name]))
            empty = [name for name in unread if values[name] is None]
            unread = [name for name in unread if name not in self.numeric and name not in empty]
        if not unread and not empty:
            self.accepted = values.keys()
        return unread

    def expect_all_read(self, values: Mapping[str, Any]) -> None:
        """Returns if the row that decided has no column that nothing reads: every row would be without what stands in it.

        Raises:
            TableInvalid: it has one.
        """
        if unread := self._unknown(values):
            if absent := [theirs for theirs in self.reading.columns.values() if outermost(theirs, values) not in values]:
                raise TableInvalid(f"{self.decided_by}: there is no column {some(absent)}; there are {some(sorted(values))}")
            known = ", ".join((*REQUIRED[self.shape], *OPTIONAL[self.shape]))
            named, advice = unread_columns(unread)
            raise TableInvalid(f"{self.decided_by}: nothing reads {named}; {self.shape} reads {known}. {advice}")

    @property
    def scored(self) -> bool:
        """Whether the columns of numbers are found, and not named."""
        return self.shape == "scores" and not self.reading.attributes

    def expect_all_there(self) -> None:
        """Returns if rows have every column that was named for this table, and a value at every place inside of one.

        Raises:
            TableInvalid: none has.
        """
        named = {*self.reading.ignore, *self.reading.attributes} - self.seen
        inside = {theirs for theirs in self.reading.columns.values() if theirs not in self.seen | self.found_inside}
        if absent := named | inside:
            raise TableInvalid(f"there is no column {some(sorted(absent))}; there are {some(sorted(self.seen))}")

    def records(self) -> Iterator[Comparison]:
        yield from self.pairs
        for (user, prompt), entries in self.groups.items():
            ratings, texts = [entry[0] for entry in entries], [entry[1] for entry in entries]
            seed = f"{self.reading.seed} {user} {prompt}"
            found = pair_up(ratings, texts, least_gap=self.reading.least_gap, most=self.reading.most_pairs, seed=seed)
            self.equal += found.equal
            self.possible += found.possible
            self.alone += len(entries) == 1
            self.again += len(texts) - len(set(texts))
            for better, worse in found.chosen:
                times = [time for time in (entries[better][2], entries[worse][2]) if time is not None]
                yield Comparison(user, prompt, texts[better], texts[worse], time_s=max(times, default=None))

    def _compared(
        self,
        get: Mapping[str, Any],
        chosen: object,
        rejected: object,
        *,
        tie: bool,
        names: tuple[str, str] = ("chosen", "rejected"),
    ) -> None:
        parsed = parse_pair(get["prompt"], chosen, rejected, names)
        if parsed.chosen == parsed.rejected:
            raise ValueInvalid(names[0], f"is the same text as the other answer ({parsed.chosen[:40]!r})")
        context, weight = get["context"], get["weight"]
        if context is not None and (not isinstance(context, str) or not context.strip()):
            raise ValueInvalid("context", f"is {context!r}; a text or null is needed")
        heavy = 1.0 if weight is None else number_of(weight, "weight")
        if not 0 < heavy <= MOST_WEIGHT:
            raise ValueInvalid("weight", f"is {heavy:g}; it must be above 0 and at most {MOST_WEIGHT:,.0f}")
        user, time_s = user_of(get["user"], "user"), time_of(get["time_s"], "time_s")
        if user is None:
            self.anonymous += 1
            user = f"{ANONYMOUS}{self.anonymous}"
        self.pairs.append(Comparison(user, *parsed, tie=tie, context=context, weight=heavy, time_s=time_s))


def _values(row: TableRow) -> Mapping[str, Any]:
    if row.values is None:
        raise ValueInvalid("", row.broken)
    return row.values


def _decided(rows: Iterable[TableRow], reading: Reading) -> _Parser | None:
    """Returns the parser of the shape that most of these rows have, by the first of them that has it; None where none can be read.

    Raises:
        TableInvalid: no row has a shape, by the first of them; or the one that decides has a column that nothing reads.
    """
    found: list[tuple[_Parser, Mapping[str, Any]]] = []
    refused: list[TableInvalid] = []
    for row in rows:
        try:
            found += [] if row.values is None else [(_parser(row.where, row.values, reading), row.values)]
        except TableInvalid as error:
            refused.append(error)
    if refused and not found:
        raise refused[0]
    if not found:
        return None
    shape = Counter(parser.shape for parser, _ in found).most_common(1)[0][0]
    parser, values = next(one for one in found if one[0].shape == shape)
    parser.expect_all_read(values)
    return parser


def _parser(where: str, values: Mapping[str, Any], reading: Reading) -> _Parser:
    ours = {theirs: name for name, theirs in reading.columns.items()}
    absent = [theirs for theirs in ours if outermost(theirs, values) not in values]
    inside = [name for theirs, name in ours.items() if theirs not in values and theirs not in absent]
    columns = [*(ours.get(name, name) for name in values if name not in reading.ignore), *inside]
    try:
        shape = _shape(where, values, reading, columns)
    except TableInvalid as error:
        if not absent:
            raise
        raise TableInvalid(f"{where}: there is no column {', '.join(absent)}; there are {some(sorted(values))}") from error
    if shape == "scores" and not set(reading.attributes or unread_of(values, shape, reading, ())) & set(values):
        raise TableInvalid(f"{where}: there is no score column {some(reading.attributes) or '(a number per attribute)'}")
    return _Parser(shape, reading, reading.attributes, where)


def _shape(where: str, values: Mapping[str, Any], reading: Reading, columns: list[str]) -> Shape:
    shape = reading.shape or shape_of(columns)
    if missing := [name for name in REQUIRED[shape] if name not in columns]:
        raise TableInvalid(f"{where}: {shape} needs {', '.join(missing)}; there are {some(sorted(values))}")
    return shape
