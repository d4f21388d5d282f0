"""Rows of a table, whatever it is kept in: JSON lines (plain or gzip), Parquet, and Hugging Face `datasets`.

    .jsonl  .jsonl.gz  .json (a list)  ─> rows that know their line        .parquet  a saved dataset  hf:NAME:SPLIT ─> their row

A row is a mapping from column to value and knows where it came from. What the columns mean is `adapters`' business.
pyarrow and datasets are imported where such a table is asked for, and not before.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from attune.models.data.preferences import ComparisonInvalid

BATCH = 1024
HUB = "hf:"


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
        raise TableInvalid(f"{path} is not a file or folder")
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] in ([".jsonl"], [".ndjson"]) or suffixes in ([".jsonl", ".gz"], [".ndjson", ".gz"]):
        yield from _json_lines(path)
    elif suffixes[-1:] == [".json"]:
        yield from _json_list(path)
    elif suffixes[-1:] == [".parquet"]:
        yield from _parquet_rows(path)
    else:
        raise TableInvalid(f"{path.name} is of no known format; .jsonl, .jsonl.gz, .json, .parquet and saved datasets are read")


def _json_lines(path: Path) -> Iterator[TableRow]:
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _parsed(f"{path.name} line {number}", line)
    except (EOFError, gzip.BadGzipFile) as error:
        raise TableInvalid(f"{path.name} is cut off or not gzip: {error}") from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]  # a GzipFile reads alike


def _parsed(where: str, line: bytes) -> TableRow:
    try:
        value = json.loads(line)
    except ValueError as error:
        return TableRow(where, None, f"is not JSON: {error}")
    return _row(where, value)


def _row(where: str, value: object) -> TableRow:
    return TableRow(where, value) if isinstance(value, dict) else TableRow(where, None, f"is a {type(value).__name__}; an object is needed")


def _json_list(path: Path) -> Iterator[TableRow]:
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise TableInvalid(f"{path.name} is not JSON: {error}") from error
    if not isinstance(values, list):
        raise TableInvalid(f"{path.name} holds a {type(values).__name__}; a list of objects is needed")
    for number, value in enumerate(values, start=1):
        yield _row(f"{path.name} entry {number}", value)


def _parquet_rows(path: Path) -> Iterator[TableRow]:
    try:
        from pyarrow import ArrowException  # noqa: PLC0415 - an extra
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError as error:
        raise TableInvalid(f"{path.name} needs pyarrow: pip install 'attune-serve[datasets]'") from error
    try:
        with ParquetFile(path) as table:
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
        raise TableInvalid(f"{folder.name} is not a saved dataset: {error}") from error
    if isinstance(dataset, dict):
        raise TableInvalid(f"{folder.name} has the splits {', '.join(sorted(dataset))}; name one of its folders")
    yield from dataset_rows(dataset, folder.name)


def _hub_rows(source: str) -> Iterator[TableRow]:
    name, _, split = source.removeprefix(HUB).partition(":")
    datasets = _datasets(source)
    try:
        dataset = datasets.load_dataset(name, split=split or "train")
    except (OSError, ValueError) as error:
        raise TableInvalid(f"{source} cannot be loaded: {error}") from error
    yield from dataset_rows(dataset, source)


def dataset_rows(dataset: Any, name: str) -> Iterator[TableRow]:
    """Yields the rows of a `datasets.Dataset` (or anything that yields mappings)."""
    for number, value in enumerate(dataset, start=1):
        yield _row(f"{name} row {number}", value)


def _datasets(name: str) -> Any:
    try:
        import datasets  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise TableInvalid(f"{name} needs the datasets library: pip install 'attune-serve[datasets]'") from error
    return datasets
