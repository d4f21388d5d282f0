"""Public sets whose labels are objectives and attributes instead of people: hidden-context HH and SummEval-OP.

Each objective or attribute is a user. Neither set is distributed with this project; a folder that holds it is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from attune.models.data.adapters import Table, read_table
from attune.models.data.preferences import Comparison, Comparisons
from attune.models.data.table_shapes import Reading
from attune.models.data.tables import TableRow, read_rows
from attune.models.data.transcripts import ValueInvalid, parse_pair
from studies.families.public_sets import DataSetInvalid

Objective = Literal["helpful", "harmless"]

ATTRIBUTES = {
    "fl": "fluency",
    "co": "coherence",
    "re": "relevance",
    "fa": "faithfulness",
    "ac": "aspect coverage",
    "sc": "sentiment consistency",
    "sp": "specificity",
}
"""Columns of `summeval-op-detailed.jsonl`."""


def read_hidden_context(folder: Path, objectives: Sequence[Objective] = ("helpful", "harmless")) -> Comparisons:
    """Returns HH pairs as an annotator with one objective saw them (Siththaranjan et al. 2024, on Bai et al. 2022).

    Rows without two different answers are left out: the set has a handful, and no choice between them means anything.

    Args:
        folder: with `helpful_test.jsonl.gz` and `harmless_test.jsonl.gz`.
        objectives: which files; each is a user, `hh-helpful` and `hh-harmless`.

    Raises:
        DataSetInvalid: a row lacks a column, or its label names no answer.
        FileNotFoundError: a file is absent.
    """
    return Comparisons.from_records(record for objective in objectives for record in _hidden_context(folder, objective))


def _hidden_context(folder: Path, objective: Objective) -> Iterator[Comparison]:
    for row in read_rows(_file(folder / f"{objective}_test.jsonl.gz")):
        prompt, responses, label = (_column(row, name) for name in ("prompt", "responses", "label"))
        if label not in (0, 1) or not isinstance(responses, list) or len(responses) != 2:
            raise DataSetInvalid(f"{row.where}: label is {label!r} of {len(responses)} responses; 0 or 1 of two was expected")
        try:
            parsed = parse_pair(prompt, responses[label], responses[1 - label])
        except ValueInvalid:
            continue
        if parsed.chosen != parsed.rejected:
            yield Comparison(f"hh-{objective}", *parsed)


def read_summeval_op(folder: Path, *, raters: bool = False, least_gap: float = 0.0) -> Comparisons:
    """Returns, per attribute, which of two summaries of a product's reviews was rated higher (Siledar et al. 2024).

    Args:
        folder: with `summeval-op-detailed.jsonl`.
        raters: each of the three raters is a user of their own, `<attribute> rater 1`; otherwise their mean decides.
        least_gap: summaries whose ratings differ by no more are not compared.

    Raises:
        DataSetInvalid: a row lacks an attribute, or has another number of ratings than of summaries.
        FileNotFoundError: the file is absent.
    """
    table = summeval_table(folder, raters=raters, least_gap=least_gap)
    return Comparisons.from_records(table.records)


def summeval_table(folder: Path, *, raters: bool, least_gap: float) -> Table:
    """Returns what `read_summeval_op` reads, with counts."""
    rows = list(_summaries(_file(folder / "summeval-op-detailed.jsonl"), raters=raters))
    table = read_table(rows, Reading(shape="scores", least_gap=least_gap))
    if table.bad:
        raise DataSetInvalid(f"{table.bad} of {table.rows} summaries cannot be read; the first: {table.problems[0]}")
    return table


def _summaries(file: Path, *, raters: bool) -> Iterator[TableRow]:
    for row in read_rows(file):
        reviews, summaries = (_column(row, name) for name in ("reviews", "summaries"))
        ratings = {attribute: _column(row, column) for column, attribute in ATTRIBUTES.items()}
        wrong = {attribute: len(found) for attribute, found in ratings.items() if len(found) != len(summaries)}
        if wrong:
            raise DataSetInvalid(f"{row.where}: {len(summaries)} summaries have {wrong} ratings")
        prompt = "Summarise these reviews.\n\n" + "\n\n".join(reviews)
        for index, summary in enumerate(summaries):
            values: dict[str, Any] = {"prompt": prompt, "response": summary}
            for attribute, found in ratings.items():
                if raters:
                    values |= {f"{attribute} rater {number}": float(score) for number, score in enumerate(found[index], start=1)}
                else:
                    values[attribute] = sum(found[index]) / len(found[index])
            yield TableRow(f"{row.where} summary {index + 1}", values)


def _file(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is not in {path.parent.name}")
    return path


def _column(row: TableRow, name: str) -> Any:
    if row.values is None or name not in row.values:
        raise DataSetInvalid(f"{row.where}: {row.broken or f'there is no {name}'}")
    return row.values[name]
