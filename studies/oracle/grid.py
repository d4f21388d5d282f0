"""The mixed multiplicative and additive grid of weights, with its proved bound (Kim, Moondra et al. 2026; SCIENCE §4, reconstruction).

Scale a user's weights so that the greatest is 1. Round the others down to `theta (1 + epsilon)^j`, and those below `theta` to 0, with
`theta = delta / (d - 1)`. The grid's policy for the rounded weights `g` then has, in the user's scale,
`w · v >= g · v = OPT(g) >= (OPT(w) - delta) / (1 + epsilon)`, since `w <= (1 + epsilon) g + theta` where `w` is not 1.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def grid_levels(dimensions: int, epsilon: float, delta: float) -> Array:
    """Returns the values that a weight other than the greatest may have: 0 and `theta (1 + epsilon)^j` up to 1, `[J + 2]`.

    Raises:
        ValueError: fewer than two rewards, or `epsilon` or `delta` not above 0.
    """
    if dimensions < 2 or not epsilon > 0 or not 0 < delta < 1:
        raise ValueError(
            f"a grid over {dimensions} rewards with epsilon {epsilon} and delta {delta}; at least 2, above 0, in (0, 1) needed"
        )
    theta = delta / (dimensions - 1)
    # The tolerance is for a theta of which 1 is an exact power.
    steps = math.floor(math.log(1.0 / theta) / math.log1p(epsilon) + 1e-9)
    return np.concatenate([[0.0], theta * (1.0 + epsilon) ** np.arange(steps + 1)])


def grid_bound(dimensions: int, epsilon: float, delta: float) -> int:
    """Returns the most weights that the grid has: `d (J + 2)^(d - 1)`."""
    return int(dimensions * len(grid_levels(dimensions, epsilon, delta)) ** (dimensions - 1))


def grid_weights(dimensions: int, epsilon: float, delta: float, *, most: int = 2_000_000) -> Array:
    """Returns the grid on the simplex, each point once, `[N, d]` with `N <= grid_bound`.

    Raises:
        ValueError: see `grid_levels`, or the grid would have more than `most` points.
    """
    count = grid_bound(dimensions, epsilon, delta)
    if count > most:
        raise ValueError(f"the grid over {dimensions} rewards has up to {count} weights, more than {most}; search lazily")
    levels = np.unique(np.minimum(grid_levels(dimensions, epsilon, delta), 1.0))
    points = []
    for greatest in range(dimensions):
        others = np.array(list(itertools.product(levels, repeat=dimensions - 1)))
        points.append(np.insert(others, greatest, 1.0, axis=1))
    every = np.unique(np.round(np.concatenate(points), 14), axis=0)
    return np.asarray(every / every.sum(axis=1, keepdims=True))
