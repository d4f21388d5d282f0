"""Rows as the arrays that a scorer's graph reads: what training, export, simulator and server feed it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.text import Encoded

INPUTS = ("input_ids", "attention_mask", "pool_mask")
"""The graph's inputs, int64 `[N, T]` each."""


def pad(rows: Sequence[Encoded]) -> dict[str, NDArray[np.int64]]:
    """Returns the graph's inputs by name, `[N, T]` with T the longest row; rows are padded at the right, with 0 in all three."""
    ids, attention, pool = np.zeros((len(INPUTS), len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row.input_ids
        attention[index, : len(row)] = 1
        pool[index, row.pool_start : row.pool_stop] = 1
    return dict(zip(INPUTS, (ids, attention, pool), strict=True))
