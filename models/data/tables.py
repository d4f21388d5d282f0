"""Rows of a table, whatever it is kept in.

    .jsonl  .csv  .tsv (plain or gzip)  .json (a list)  ─> rows that know their line
    .parquet  a saved dataset  hf:NAME:SPLIT            ─> rows that know their number

A row is a mapping from column to value and knows where it came from. What the columns mean is `adapters`' business.
pyarrow and datasets are imported where such a table is asked for, and not before.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shlex
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from attune.models.data.hub import NotOnHub, expect_dataset
from attune.models.data.preferences import ComparisonInvalid
from attune.models.data.values import MOST_SHOWN
from attune.models.seam.counts import counted
from attune.models.seam.json_lines import JsonInvalid, LinesInvalid, kind_of, no_text, open_bytes, parse_json, read_json_lines

BATCH = 1024
HUB = "hf:"
FORMATS = ".jsonl, .csv, .tsv (each also .gz), .json, .parquet and saved datasets"


MOST_NAMED = 12
_QUOTED = re.compile(r'"[^"]*"')
"""A name of a column in quotes, which may hold what separates the others."""


def some(names: Collection[str]) -> str:
    """Returns names of columns for a sentence: the first ones, and how many more there are."""
    shown = ", ".join(f"{name[:MOST_SHOWN]}…" if len(name) > MOST_SHOWN else name for name in islice(names, MOST_NAMED))
    return f"{shown} and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else shown


def unread_columns(names: Sequence[str]) -> tuple[str, str]:
    """Returns columns that nothing reads, for a sentence, and what to do about all of them, in words that a shell takes."""
    column, each = ("the column", "Say") if len(names) == 1 else ("the columns", "Say of each")
    first, ignored = shlex.quote(names[0]), " ".join(f"--ignore {shlex.quote(name)}" for name in islice(names, MOST_NAMED))
    return (
        f"{column} {some([name or '(without a name)' for name in names])}",
        f"{each} which of them it is, --column OURS={first}, or that nothing shall read it, {ignored}",
    )


class TableInvalid(ComparisonInvalid):
    """A table cannot be read at all: no such file, no such format, or the library for it is not installed."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row.

    Attributes:
        where: names it to a person, `prefs.jsonl line 7`.
        values: column -> value; None where the row is broken.
        broken: why there are no values.
    """

    where: str
    values: Mapping[str, Any] | None
    broken: str = ""


@dataclass(frozen=True, slots=True)
class BadRow:
    """One bad row: where it is, the column, and what is wrong."""

    where: str
    column: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {f'{self.column}: ' if self.column else ''}{self.what}"


class RowsInvalid(ComparisonInvalid):
    """Rows that cannot be learned from; `problems` holds the first of `count`."""

    def __init__(self, problems: tuple[BadRow, ...], count: int, rows: int) -> None:
        more = f"\n  and {count - len(problems)} more" if count > len(problems) else ""
        others = "\n  `attune data check … --write good.jsonl` writes the others into a file that can be used" if count < rows else ""
        said = f"{count:,} of {counted(rows, 'row')} {'is' if count == 1 else 'are'} bad:"
        super().__init__("\n  ".join([said, *map(str, problems)]) + more + others)
        self.problems = problems
        self.count = count


def read_rows(source: str | Path) -> Iterator[TableRow]:
    """Yields the rows of `source`, one at a time; blank lines are skipped.

    Args:
        source: a file, a folder that `datasets` saved, or `hf:NAME` or `hf:NAME:SPLIT` (from the local cache where there is no network).

    Raises:
        TableInvalid: see the class; raised when the first row is asked for.
    """
    if isinstance(source, str) and source.startswith(HUB):
        yield from _hub_rows(source)
        return
    path = Path(source)
    if path.is_dir():
        yield from _saved_rows(path)
        return
    if not path.is_file():
        what = "is a pipe or a device; write it to a file first" if path.exists() else "is not there: there is no such file or folder"
        raise TableInvalid(f"{path} {what}")
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    match suffixes[-1] if suffixes else "":
        case ".jsonl" | ".ndjson":
            yield from _json_lines(path)
        case ".csv" | ".tsv":
            yield from _separated(path, "\t" if suffixes[-1] == ".tsv" else "")
        case ".json":
            yield from _json_list(path)
        case ".parquet":
            yield from _parquet_rows(path)
        case _:
            raise TableInvalid(f"{path.name} is of no known format; {FORMATS} are read")


def _json_lines(path: Path) -> Iterator[TableRow]:
    any_object = False
    try:
        for line in read_json_lines(path):
            if not any_object and not isinstance(line.value, dict) and (document := _one_document(path)):
                raise TableInvalid(f"{path.name} {document}")
            any_object = True
            where = f"{path.name} line {line.number}"
            yield TableRow(where, None, line.broken) if line.broken else _row(where, line.value)
    except LinesInvalid as error:
        raise TableInvalid(str(error)) from error


def _one_document(path: Path) -> str:
    """Returns what a file is that is written as JSON and not as lines of it, and what to do; empty where it may be lines."""
    with open_bytes(path) as stream:
        first = next((line.strip() for line in stream if line.strip()), b"").removeprefix(b"\xef\xbb\xbf")
    if first.startswith(b"["):
        return "begins with a list, where each line is to hold an object; a file that is one list of objects has a name that ends in .json"
    return "has an object over several lines, where each line is to hold a whole one, as `jq -c .` writes them" if first == b"{" else ""


def _separated(path: Path, separator: str) -> Iterator[TableRow]:
    """Yields the rows of a file of separated values; all values are texts, and empty cells are None."""
    csv.field_size_limit(sys.maxsize)  # an answer may be longer than the 128 KiB that are allowed otherwise
    line = 1
    try:
        with open_bytes(path) as packed:
            if other := no_text(packed.read(8)):
                raise TableInvalid(f"{path.name} {other}")
        with open_bytes(path) as packed, io.TextIOWrapper(packed, encoding="utf-8-sig", newline="") as stream:
            first = _QUOTED.sub("", next((text for text in iter(stream.readline, "") if text.strip()), ""))
            stream.seek(0)
            # A comma is not the separator of half of Europe's spreadsheets.
            found = max((",", ";", "\t"), key=first.count)  # the first of these where none is there more often
            reader = csv.reader(stream, delimiter=separator or found, strict=True)
            header = [name.strip() for name in next((cells for cells in reader if cells), [])]
            if twice := [name for name, times in Counter(header).items() if times > 1]:
                raise TableInvalid(f"{path.name} line {reader.line_num} names a column twice: {some(twice)}")
            line = reader.line_num + 1
            for cells in reader:
                where, line = f"{path.name} line {line}", reader.line_num + 1
                if len(cells) == len(header):
                    yield TableRow(where, {name: cell or None for name, cell in zip(header, cells, strict=True)})
                elif cells:
                    yield TableRow(where, None, f"has {counted(len(cells), 'cell')}; the first line names {counted(len(header), 'column')}")
    except csv.Error as error:
        why = "a quote is opened and never closed" if "unexpected end" in str(error) else str(error)
        raise TableInvalid(f"{path.name} line {line} and what follows it cannot be read as separated values: {why}") from error
    except UnicodeDecodeError as error:
        raise TableInvalid(f"{_not_utf8(path, error)}; save it as UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TableInvalid(f"{path.name} is cut off or not gzip: {error}") from error


def _not_utf8(path: Path, error: UnicodeDecodeError) -> str:
    """Returns which line is not UTF-8: the decoder reads ahead, so that its own position says nothing of the file."""
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as found:
                return f"{path.name} line {number} is not UTF-8: byte 0x{line[found.start]:02x} at position {found.start + 1}"
    return f"{path.name} is not UTF-8: {error.reason}"


def _row(where: str, value: object) -> TableRow:
    return TableRow(where, value) if isinstance(value, dict) else TableRow(where, None, f"is {kind_of(value)}; an object is needed")


def _json_list(path: Path) -> Iterator[TableRow]:
    try:
        with open_bytes(path) as stream:
            content = stream.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TableInvalid(f"{path.name} is cut off or not gzip: {error}") from error
    if other := no_text(content):
        raise TableInvalid(f"{path.name} {other}")
    try:
        values = parse_json(content.removeprefix(b"\xef\xbb\xbf"))
    except JsonInvalid as error:
        if _begins_with_an_object(content):
            yield from _json_lines(path)
            return
        raise TableInvalid(f"{path.name} {error}") from error
    if not isinstance(values, list):
        raise TableInvalid(f"{path.name} holds {kind_of(values)}; a list of objects is needed")
    for number, value in enumerate(values, start=1):
        yield _row(f"{path.name} entry {number}", value)


def _begins_with_an_object(content: bytes) -> bool:
    """Returns whether the first line is a whole object, as in JSON lines under a name for JSON."""
    first = content.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0]
    try:
        return isinstance(parse_json(first), dict)
    except JsonInvalid:
        return False


def _parquet_rows(path: Path) -> Iterator[TableRow]:
    try:
        from pyarrow import ArrowException  # noqa: PLC0415 - an extra
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError as error:
        raise TableInvalid(f"{path.name} needs pyarrow, which the extra `datasets` installs") from error
    try:
        with ParquetFile(path) as table:
            names = table.schema_arrow.names
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                raise TableInvalid(f"{path.name} names a column twice: {some(twice)}")
            rows = chain.from_iterable(batch.to_pylist() for batch in table.iter_batches(batch_size=BATCH))
            for number, value in enumerate(rows, start=1):
                yield _row(f"{path.name} row {number}", value)
    except (ArrowException, OSError) as error:
        raise TableInvalid(f"{path.name} cannot be read as Parquet: {error}") from error


def _saved_rows(folder: Path) -> Iterator[TableRow]:
    datasets = _datasets(folder.name)
    try:
        dataset = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise TableInvalid(f"{folder} is a folder, and none that the library `datasets` saved; name a file in it") from error
    if isinstance(dataset, dict):
        raise TableInvalid(f"{folder.name} has the splits {', '.join(sorted(dataset))}; name one of its folders")
    yield from dataset_rows(dataset, folder.name)


def _hub_rows(source: str) -> Iterator[TableRow]:
    name, _, split = source.removeprefix(HUB).partition(":")
    datasets = _datasets(source)
    try:
        expect_dataset(name, Path(datasets.config.HF_DATASETS_CACHE))
        dataset = datasets.load_dataset(name, split=split or "train")
    except (NotOnHub, OSError, ValueError) as error:
        raise TableInvalid(f"{source} cannot be loaded: {error}") from error
    yield from dataset_rows(dataset, source)


def dataset_rows(dataset: Any, name: str) -> Iterator[TableRow]:
    """Yields the rows of a `datasets.Dataset` (or anything that yields mappings), in Python's own values and with all columns."""
    if hasattr(dataset, "with_format"):
        dataset = dataset.with_format(None)  # a format is saved beside the rows: arrays, tensors, or some of the columns alone
    for number, value in enumerate(dataset, start=1):
        yield _row(f"{name} row {number}", value)


def _datasets(name: str) -> Any:
    try:
        import datasets  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise TableInvalid(f"{name} needs the library datasets, which the extra `datasets` installs") from error
    return datasets
