"""Several heads as one: how large each should be, and how much of each, by people whom none of them was fitted on.

    margins out of fold ─> each head times its own size ─> shares of least log-loss, held to those expected ─> one size for the sum

A single best head is chosen by noise where few people judge; shares that look at nobody cannot tell a good head from a useless one.
Between the two, shares are held to expected ones by their relative entropy, which costs as much as one judge's loss: where few
judge the heads are averaged, where many do the best are nearly alone (Wolpert 1992, "Stacked generalization"; the penalty is that of
a Gibbs posterior, Catoni 2007). Ties do not judge: a prediction is the probability of one side where somebody decides, and a tie, which
wants it to be a half, would make every head smaller than those who decide bear out. `H` heads, `C` comparisons.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.seam.hedge import sigmoid

Array = NDArray[np.float64]

STEPS = 500
"""Of the shares, at most; some thirty are the rule."""

LARGEST = 1000.0
"""What a head's margins are multiplied by, at most."""


def fitted_size(margins: Array, comparisons: Comparisons) -> float:
    """Returns the factor, 0 or more, under which `margins` `[C]` in logits lose least on average over people, by Newton's steps.

    A head that is held back strongly points the right way and says too little; one that is not held back says too much.
    """
    weight, target = _of_people(comparisons), np.where(comparisons.tie, 0.5, 1.0)
    size = 1.0
    for _ in range(50):
        chance = sigmoid(size * margins)
        slope = float((weight * margins) @ (chance - target))
        bend = float((weight * margins**2) @ (chance * (1.0 - chance)))
        # A step of half the size at most: where the curve is flat Newton's goes anywhere.
        reach = 0.5 * max(size, 0.2)
        step = min(max(slope / max(bend, 1e-12), -reach), reach)
        before, size = size, min(max(size - step, 0.0), LARGEST)
        if abs(size - before) < 1e-7 * max(1.0, size):
            break
    return size


def stacked_shares(margins: Array, comparisons: Comparisons, expected: Array, judges: float) -> Array:
    """Returns shares `[H]`, not negative and of sum 1, of least log-loss plus relative entropy to `expected` over `judges`.

    Args:
        margins: `[H, C]` in logits, of comparisons that no head was fitted on.
        comparisons: which they are; every person counts alike.
        expected: `[H]` shares before anything is seen, above 0 and of sum 1.
        judges: how many speak for themselves: so much is the loss trusted.
    """
    weight, target = _of_people(comparisons), np.where(comparisons.tie, 0.5, 1.0)
    shares: Array = expected.copy()

    def pull(at: Array) -> Array:
        told: Array = np.log(np.maximum(at, 1e-300) / expected)
        return told

    def loss(at: Array) -> float:
        mixed = at @ margins
        costs = np.logaddexp(0.0, -mixed) * target + np.logaddexp(0.0, mixed) * (1.0 - target)
        return float(weight @ costs + at @ pull(at) / judges)

    now, reach = loss(shares), 1.0
    for _ in range(STEPS):
        slope = margins @ (weight * (sigmoid(shares @ margins) - target)) + pull(shares) / judges
        while True:  # mirror descent: shares are multiplied, so they stay shares; a step that does not help is halved
            moved = shares * np.exp(-reach * (slope - slope.min()))
            moved = moved / moved.sum()
            then = loss(moved)
            if then <= now or reach < 1e-6:
                break
            reach *= 0.5
        gained, shares, now, reach = now - then, moved, then, 1.5 * reach
        if gained < 1e-9:
            break
    return shares


def _of_people(comparisons: Comparisons) -> Array:
    """Returns weights `[C]` of sum 1: every person who decided counts alike, and ties not at all, unless there is nothing else."""
    judging = ~comparisons.tie if not comparisons.tie.all() else comparisons.tie
    _, who, made = np.unique(comparisons.user[judging], return_inverse=True, return_counts=True)
    weights = np.zeros(len(comparisons))
    weights[judging] = 1.0 / (made[who] * len(made))
    return weights
