"""An exported scorer graph on a CPU, as training, export and reports ask it; the server has a session of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from attune.models.data.progress import Steps
from attune.models.seam.padding import pad
from attune.models.seam.processor import int8_session_entries
from attune.models.seam.text import Encoded

Outputs = dict[str, NDArray[np.float32]]

BATCH_TOKENS = 2048


def answers_of(path: Path, rows: Sequence[Encoded], *, batch: int = 1) -> Outputs:
    """Returns every output of the graph at `path` for `rows`, `[N, ...]` each, in batches of `batch` rows in the order given.

    Args:
        path: the graph; weights outside of it are found beside it.
        rows: one or more.
        batch: rows that are computed together.
    """
    return _run(_opened(path), rows, _in_order(rows, batch))


def answers_alone_and_shared(path: Path, rows: Sequence[Encoded], *, batch: int) -> tuple[Outputs, Outputs]:
    """Returns what `answers_of` does with one row at a time, and with `batch` rows, of a graph that is loaded once."""
    session = _opened(path)
    return _run(session, rows, _in_order(rows, 1)), _run(session, rows, _in_order(rows, batch))


def answers_by_length(path: Path, rows: Sequence[Encoded], *, threads: int) -> Outputs:
    """Returns what `answers_of` does, in batches of rows of like length and at most `BATCH_TOKENS` padded tokens: for many rows."""
    return _run(_opened(path, threads), rows, _by_length(rows), Steps("scored {} texts"))


def _in_order(rows: Sequence[Encoded], batch: int) -> Iterator[Sequence[int]]:
    return (range(start, min(start + batch, len(rows))) for start in range(0, len(rows), batch))


def _by_length(rows: Sequence[Encoded]) -> Iterator[Sequence[int]]:
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    start = 0
    while start < len(order):
        count = max(1, BATCH_TOKENS // max(1, len(rows[order[start]])))
        yield order[start : start + count]
        start += count


def _opened(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what fails is raised, and is not printed besides
    for name, value in int8_session_entries().items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(
    session: onnxruntime.InferenceSession, rows: Sequence[Encoded], groups: Iterator[Sequence[int]], progress: Steps | None = None
) -> Outputs:
    names = [output.name for output in session.get_outputs()]
    found: Outputs = {}
    done = 0
    for group in groups:
        for name, values in zip(names, session.run(names, pad([rows[index] for index in group])), strict=True):
            if name not in found:
                found[name] = np.empty((len(rows), *values.shape[1:]), dtype=values.dtype)
            found[name][list(group)] = values
        done += len(group)
        if progress is not None:
            progress(done, len(rows))
    return found
