"""Ridge regression of many targets on wide vectors, its penalty chosen out of fold: how much of something stands in a vector, and where.

Axis letters: `N` texts, `D` width, `O` targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PENALTIES = tuple(float(10.0**power) for power in range(-1, 7))
FOLDS = 5


@dataclass(frozen=True, slots=True)
class LinearMap:
    """`weight` `[O, D]` and `bias` `[O]` on raw vectors, and what was found out of fold.

    Attributes:
        penalty: on the squared weights of standardised vectors.
        errors: `[O]` mean squared error out of fold.
        r2: `[O]` share of each target's variance that is explained out of fold.
        predicted: `[N, O]` what is said of every row by the map of the folds without it.
        usual: `[N, O]` the means of the targets in those folds, which is what is said without a look at the row.
    """

    weight: Array
    bias: Array
    penalty: float
    errors: Array
    r2: Array
    predicted: Array
    usual: Array


def fit_linear_map(vectors: Array, targets: Array, *, seed: int) -> LinearMap:
    """Returns the map of the penalty with the least error out of fold.

    Args:
        vectors: `[N, D]`, at least `FOLDS` rows.
        targets: `[N, O]`.
        seed: assigns rows to folds.

    Raises:
        ValueError: there are fewer rows than folds.
    """
    if len(vectors) < FOLDS:
        raise ValueError(f"{len(vectors)} rows are fewer than the {FOLDS} folds")
    folds = np.random.default_rng(seed).permutation(len(vectors)) % FOLDS
    said = [_out_of_fold(vectors, targets, folds, penalty) for penalty in PENALTIES]
    errors = np.array([np.mean((predicted - targets) ** 2, axis=0) for predicted in said])
    best = int(np.argmin(errors.mean(axis=1)))
    weight, bias = _ridge(vectors, targets, PENALTIES[best])
    variance = np.mean((targets - targets.mean(axis=0)) ** 2, axis=0)
    usual = np.array([targets[folds != fold].mean(axis=0) for fold in range(FOLDS)])[folds]
    return LinearMap(weight, bias, PENALTIES[best], errors[best], 1.0 - errors[best] / np.maximum(variance, 1e-12), said[best], usual)


def _ridge(vectors: Array, targets: Array, penalty: float) -> tuple[Array, Array]:
    """Returns weight `[O, D]` and bias `[O]` on raw vectors: ridge on standardised ones, closed form, intercept free."""
    mean, spread = vectors.mean(axis=0), vectors.std(axis=0)
    spread = np.where(spread > 1e-6, spread, 1.0)
    standardised = (vectors - mean) / spread
    # The dual form: there are fewer rows than dimensions, as a rule.
    gram = standardised @ standardised.T + penalty * np.eye(len(vectors))
    weight = (standardised.T @ np.linalg.solve(gram, targets - targets.mean(axis=0))).T / spread
    return weight, targets.mean(axis=0) - weight @ mean


def _out_of_fold(vectors: Array, targets: Array, folds: NDArray[np.int64], penalty: float) -> Array:
    predicted = np.empty_like(targets)
    for fold in range(FOLDS):
        held = folds == fold
        weight, bias = _ridge(vectors[~held], targets[~held], penalty)
        predicted[held] = vectors[held] @ weight.T + bias
    return predicted
