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
from attune.models.training.linear_map import FOLDS, fit_linear_map

Array = NDArray[np.float64]

USERS = 200
"""Weights over heads that say what the prompt is worth."""


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
    found = fit_linear_map(features, targets, seed=seed)
    gain = heldout_gain(per_prompt, found.predicted.reshape(per_prompt.shape), found.usual.reshape(per_prompt.shape), seed=seed)
    head = ValueHeads(found.weight.reshape(*mean.shape, -1), found.bias.reshape(mean.shape), *gain)
    spread = float(np.mean((targets - targets.mean(axis=0)) ** 2))
    return Values(mean, interval, head, found.penalty, 1.0 - float(found.errors.mean()) / max(spread, 1e-12))


def heldout_gain(rewards: Array, predicted: Array, usual: Array, *, seed: int = 0) -> tuple[float, float, float]:
    """Returns what looking at the prompt gains people in reward, its standard error over prompts, and what choosing is worth at all.

    Each of `USERS` weighs the heads by a draw from Dirichlet(0.3), as tastes differ, and is served the member that is predicted to be best
    for the prompt, or the one that is usually best; both are known from other prompts alone. The last number, beside which to see
    the first, is what the usually best member gives over the average one.

    Args:
        rewards: `[P, M, K]` of the members' answers.
        predicted: `[P, M, K]` out of fold.
        usual: `[P, M, K]` means of the other folds.
        seed: of the weights.
    """
    weights = np.random.default_rng(seed).dirichlet(np.full(rewards.shape[2], 0.3), size=USERS)
    worth = rewards @ weights.T
    served = [np.argmax(view @ weights.T, axis=1) for view in (predicted, usual)]
    by_prompt, usually = (np.take_along_axis(worth, best[:, None], axis=1)[:, 0] for best in served)
    gains = (by_prompt - usually).mean(axis=1)
    return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains))), float((usually - worth.mean(axis=1)).mean())
