"""Rows as the arrays that a scorer's graph reads: what training, export, simulator and server feed it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

INPUTS = ("input_ids", "attention_mask", "pool_mask")
"""The graph's inputs, int64 `[N, T]` each."""


class TokenRow(Protocol):
    """A text as a graph reads it: `text.Encoded`, or what came over a socket."""

    @property
    def input_ids(self) -> tuple[int, ...] | NDArray[np.int32]: ...
    @property
    def pool_start(self) -> int: ...
    @property
    def pool_stop(self) -> int: ...
    def __len__(self) -> int: ...


def pad(rows: Sequence[TokenRow]) -> dict[str, NDArray[np.int64]]:
    """Returns the graph's inputs by name, `[N, T]` with T the longest row; rows are padded at the right, with 0 in all three."""
    lengths = _column(len(row) for row in rows)
    place = np.arange(lengths.max(), dtype=np.int64)
    attended = place < lengths
    ids = np.zeros(attended.shape, dtype=np.int64)
    if isinstance(rows[0].input_ids, np.ndarray):
        ids[attended] = np.concatenate([row.input_ids for row in rows])
    else:
        ids[attended] = np.fromiter(chain.from_iterable(row.input_ids for row in rows), dtype=np.int64, count=int(lengths.sum()))
    pooled = (place >= _column(row.pool_start for row in rows)) & (place < _column(row.pool_stop for row in rows))
    return dict(zip(INPUTS, (ids, attended.astype(np.int64), pooled.astype(np.int64)), strict=True))


def _column(numbers: Iterator[int]) -> NDArray[np.int64]:
    return np.fromiter(numbers, dtype=np.int64)[:, None]
