"""Comparisons that a deployment logged, as records: exports of users, or plain tables, whatever a file holds.

    read_export ─> what each user said and did not take back ─> records        lines without a type ─> the reader of tables ─> records

Comparisons whose texts were not kept cannot be learned from again; they are counted. Kinds of lines that nothing here needs are
passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from attune.models.data.adapters import Table, read_table, table_of
from attune.models.data.preferences import ANONYMOUS, Comparison, ComparisonInvalid
from attune.models.data.table_shapes import Reading
from attune.models.data.tables import RowsInvalid, TableInvalid, TableRow
from attune.models.data.values import time_of
from attune.models.seam.artefacts import it_is
from attune.models.seam.exports import ComparisonLine, ExportInvalid, read_export
from attune.models.seam.json_lines import LinesInvalid

LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Logged:
    """Records in their order, and what was passed over.

    Attributes:
        records: to learn from.
        events: the event id of each record, as its deployment knows it; empty for a row of a table, and where no line says whose it is.
        without_texts: comparisons whose texts were not kept.
        unknown: lines of kinds that this version does not know, by kind.
        without_user: ratings of nobody; rows of a table, and lines of an export above any that names a user, that `of_somebody` left out.
        alone: ratings with nothing of their user to be compared with.
        of_attributes: its users are attributes of a table of scores, and no persons.
    """

    records: tuple[Comparison, ...]
    events: tuple[str, ...]
    without_texts: int
    unknown: Mapping[str, int]
    without_user: int = 0
    alone: int = 0
    of_attributes: bool = False

    def of_somebody(self) -> Logged:
        """Returns all but rows without a user: the names by which those are told apart stand for other people in each table."""
        of_nobody = [not event and one.user.startswith(ANONYMOUS) for one, event in zip(self.records, self.events, strict=True)]
        kept = [pair for pair, left_out in zip(zip(self.records, self.events, strict=True), of_nobody, strict=True) if not left_out]
        return replace(
            self,
            records=tuple(record for record, _ in kept),
            events=tuple(event for _, event in kept),
            without_user=self.without_user + sum(of_nobody),
        )

    @property
    def with_context(self) -> int:
        """How many say what the user wanted."""
        return sum(one.context is not None for one in self.records)


def read_logged(source: str | Path, reading: Reading | None = None) -> Logged:
    """Returns the comparisons of exports or of a table.

    Args:
        source: a file of lines in which some have a `type` holds exports, and lines without one are rows of a table; anything else is
            a table, see `read_rows`.
        reading: of the table's rows.

    Raises:
        ComparisonInvalid: something cannot be read; the message names lines and fields.
    """
    reading = reading or Reading()
    path = Path(source)
    if not path.is_file() or not {suffix.lower() for suffix in path.suffixes[-2:]} & set(LINES):
        table = table_of(source, reading)
        return Logged(_records(table), ("",) * len(table.records), 0, {}, **_of_ratings(table), of_attributes=table.shape == "scores")
    try:
        export = read_export(path)
    except (ExportInvalid, LinesInvalid) as error:
        raise ComparisonInvalid(str(error)) from error
    if not export.logs and not export.plain and not export.unknown:
        raise TableInvalid(f"{path.name} has no rows: there is nothing in it")
    without = 0
    kept: list[tuple[Comparison, str]] = []
    for log in export.logs.values():
        for number, line in enumerate(log.comparisons.values(), start=1):
            record = _record(path.name, log.user or f"{ANONYMOUS}line {number}", line)
            without += record is None
            kept += [] if record is None else [(record, line.event_id if log.user else "")]
    of_attributes = False
    rated: dict[str, int] = {}
    if export.plain:
        rows = (TableRow(f"{path.name} line {number}", value) for number, value in export.plain)
        try:
            table = read_table(rows, reading)
            kept += [(record, "") for record in _records(table)]
            of_attributes = table.shape == "scores"
            rated = _of_ratings(table)
        except TableInvalid as error:
            named = "" if path.name in str(error) else f"{path.name}: "
            raise TableInvalid(f"{named}{error}{it_is(path)}") from error
    records, events = tuple(record for record, _ in kept), tuple(event for _, event in kept)
    return Logged(records, events, without, export.unknown, **rated, of_attributes=of_attributes)


def _of_ratings(table: Table) -> dict[str, int]:
    """Returns how many ratings no record was made of."""
    return {"without_user": table.anonymous, "alone": table.alone} if table.shape == "ratings" else {}


def _records(table: Table) -> tuple[Comparison, ...]:
    if table.bad:
        raise RowsInvalid(table.problems, table.bad, table.rows)
    if not table.records:
        raise TableInvalid(f"there is no comparison: {table.why_none}")
    return table.records


def _record(file: str, user: str, line: ComparisonLine) -> Comparison | None:
    """Returns what can be learned from a line; None if its texts were not kept."""
    texts = [line.content.get(name) for name in ("prompt", "chosen_text", "rejected_text")]
    if not all(texts):
        return None
    context, tie = line.content.get("context"), line.content.get("tie", False)
    kinds = [*(isinstance(text, str) for text in texts), isinstance(context, str | None), isinstance(tie, bool)]
    if not all(kinds):
        wrong = ("prompt", "chosen_text", "rejected_text", "context", "tie")[kinds.index(False)]
        raise ComparisonInvalid(
            f"{file} line {line.number}: event {line.event_id!r} of user {user!r}: {wrong} is {line.content.get(wrong)!r}"
        )
    prompt, chosen, rejected = map(str, texts)
    try:
        time_s = time_of(line.observed_at, "observed_at")
    except ValueError:
        raise ComparisonInvalid(
            f"{file} line {line.number}: event {line.event_id!r} of user {user!r}: observed_at is {line.observed_at!r}"
        ) from None
    weight = line.content.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1:
        raise ComparisonInvalid(
            f"{file} line {line.number}: event {line.event_id!r} of user {user!r}: weight is {weight!r}; it must be above 0 and at most 1"
        )
    return Comparison(user, prompt, chosen, rejected, tie=tie, context=context or None, weight=float(weight), time_s=time_s)
