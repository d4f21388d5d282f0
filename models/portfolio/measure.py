"""What the members of a portfolio are worth under every head, on average and for a given prompt.

    answers of all members to P prompts ─> rewards [P, M, G, K] ─> means ± intervals [M, K]
                                                              └─> ridge on the prompt's vector ─> value heads [M, K, D]

Axis letters: `P` prompts, `M` members, `G` answers of one member to one prompt, `K` heads, `D` the trunk's width. This
module sees rewards and vectors; it does not know texts or language models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.member_values import ValueHeads

Array = NDArray[np.float64]

PENALTIES = tuple(float(10.0**power) for power in range(-1, 7))
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Values:
    """A family's values of the members.

    Attributes:
        mean: `[M, K]` mean reward of each member under each head.
        interval: `[M, K]` half width of its 95 % interval; prompts are the unit, since answers to one prompt are alike.
        head: value heads on a prompt's vector.
        penalty: the ridge penalty that cross-validation chose.
        r2: share of the variance between prompts (within members and heads) that the value head explains out of fold.
    """

    mean: Array
    interval: Array
    head: ValueHeads
    penalty: float
    r2: float


def fit_values(rewards: Array, prompts: NDArray[np.float32], *, seed: int = 0) -> Values:
    """Returns the members' values under one family's heads.

    Args:
        rewards: `[P, M, G, K]` of every member's answers.
        prompts: `[P, D]` trunk vectors of the prompts.
        seed: assigns prompts to folds.

    Raises:
        ValueError: there are fewer prompts than folds, or the shapes do not agree.
    """
    if rewards.ndim != 4 or len(rewards) != len(prompts) or len(prompts) < FOLDS:
        raise ValueError(f"rewards {rewards.shape} must be [P, M, G, K] over the {len(prompts)} prompts, at least {FOLDS}")
    per_prompt = rewards.mean(axis=2)
    mean = per_prompt.mean(axis=0)
    interval = 1.96 * per_prompt.std(axis=0, ddof=1) / np.sqrt(len(prompts))
    targets = per_prompt.reshape(len(prompts), -1)
    features = prompts.astype(np.float64)
    folds = np.random.default_rng(seed).permutation(len(prompts)) % FOLDS
    errors = [_out_of_fold_error(features, targets, folds, penalty) for penalty in PENALTIES]
    best = int(np.argmin(errors))
    weight, bias = _ridge(features, targets, PENALTIES[best])
    head = ValueHeads(weight.reshape(*mean.shape, -1), bias.reshape(mean.shape))
    spread = float(np.mean((targets - targets.mean(axis=0)) ** 2))
    return Values(mean, interval, head, PENALTIES[best], 1.0 - errors[best] / max(spread, 1e-12))


def _ridge(features: Array, targets: Array, penalty: float) -> tuple[Array, Array]:
    """Returns weight `[O, D]` and bias `[O]` on raw features: ridge on standardised ones, closed form, intercept free."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 1e-6, spread, 1.0)
    standardised = (features - mean) / spread
    # The dual form: there are fewer prompts than dimensions.
    gram = standardised @ standardised.T + penalty * np.eye(len(features))
    weight = (standardised.T @ np.linalg.solve(gram, targets - targets.mean(axis=0))).T / spread
    return weight, targets.mean(axis=0) - weight @ mean


def _out_of_fold_error(features: Array, targets: Array, folds: NDArray[np.int64], penalty: float) -> float:
    total = 0.0
    for fold in range(FOLDS):
        held = folds == fold
        weight, bias = _ridge(features[~held], targets[~held], penalty)
        total += float(np.sum((features[held] @ weight.T + bias - targets[held]) ** 2))
    return total / targets.size
