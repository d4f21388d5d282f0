"""How a text is written (`style`), as directions of the trunk's own vectors: found without looking at a choice.

Style stands in early layers, linearly for the most part, so a head or an axis that reads it needs no input of its own. `S` style
features, `D` width of the vectors, the length last.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.training.linear_map import FOLDS, fit_linear_map
from attune.models.training.style import style_features

Array = NDArray[np.float64]

READABLE = 0.3
"""Share of a style feature's variance between texts that must stand in the vectors, out of fold, for it to be used."""

MOST_TEXTS = 1000
"""Texts that style is read off by: more make a direction no better, and cost their square."""


def style_directions(vectors: NDArray[np.float32], train: Comparisons) -> Array:
    """Returns `[<= S, D]` directions along which a text's style features stand in its vector; none where too few texts show them."""
    used = np.unique(np.concatenate([train.chosen, train.rejected]))
    used = np.random.default_rng(0).permutation(used)[:MOST_TEXTS]
    if len(used) < 2 * FOLDS:
        return np.zeros((0, vectors.shape[1]))
    seen = style_features([train.texts.candidates[row][1] for row in used]).astype(np.float64)
    seen = seen[:, seen.std(axis=0) > 1e-6]
    if not seen.shape[1]:
        return np.zeros((0, vectors.shape[1]))
    read = fit_linear_map(vectors[used].astype(np.float64), (seen - seen.mean(axis=0)) / seen.std(axis=0), seed=0)
    return read.weight[read.r2 > READABLE]
