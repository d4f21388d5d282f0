"""Choosing members with propensities that are exactly the law of the draw (SCIENCE §6, reconstruction).

`S` posterior samples of the user's weights give each member a share `p_hat` (how often it is best); the member is drawn
from `p = (1 - epsilon) p_hat + epsilon / M`, and `p` is what is logged. Pairs are drawn without replacement, and their
joint law is logged. `M` members, `K` heads, `S` samples. This module does not know users, prompts or members' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Policy = Literal["sample", "best", "uniform"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Members in the order drawn, and the probability of what was drawn.

    Attributes:
        members: indices, one or more, without repeats.
        propensities: `[M]` law of the first draw.
        propensity: probability of the first member.
        joint: probability of all the members in this order.
        mean: `[M]` expected value of each member for this user.
        std: `[M]` its spread over the posterior.
    """

    members: tuple[int, ...]
    propensities: Array
    propensity: float
    joint: float
    mean: Array
    std: Array


def sampled_values(weights: Array, values: Array) -> Array:
    """Returns each member's value under each sample, `V[s, m] = sum_k w[s, k] v[m, k]`, `[S, M]`.

    Args:
        weights: `[S, K]` samples of the user's weights.
        values: `[M, K]` predicted reward of each member under each head.
    """
    product: Array = weights @ values.T
    return product


def best_shares(sampled: Array) -> Array:
    """Returns the share of samples in which each member is best, `[M]`; members that tie share the sample evenly."""
    best = sampled == np.max(sampled, axis=1, keepdims=True)
    shares: Array = np.mean(best / np.sum(best, axis=1, keepdims=True), axis=0)
    return shares


def first_law(policy: Policy, sampled: Array, epsilon: float) -> Array:
    """Returns the law of the first draw, `[M]`.

    Args:
        policy: `sample` mixes best shares with exploration, `best` takes the greatest expected value, `uniform` ignores the user.
        sampled: `[S, M]` values under posterior samples.
        epsilon: exploration in [0, 1], used by `sample` alone.
    """
    members = sampled.shape[1]
    match policy:
        case "sample":
            mixed: Array = (1.0 - epsilon) * best_shares(sampled) + epsilon / members
            return mixed
        case "uniform":
            return np.full(members, 1.0 / members)
        case "best":
            law = np.zeros(members)
            law[int(np.argmax(np.mean(sampled, axis=0)))] = 1.0
            return law


def joint_probability(law: Array, members: tuple[int, ...]) -> float:
    """Returns the probability of drawing `members` in this order without replacement from `law` `[M]`.

    Where what is left has no probability (policy `best`), the next is the draw of `choose`, with probability 1.
    """
    probability, left = 1.0, 1.0
    for member in members:
        if left <= _NOTHING_LEFT:
            break
        probability *= float(law[member]) / left
        left -= float(law[member])
    return probability


def choose(policy: Policy, sampled: Array, *, count: int, epsilon: float, rng: np.random.Generator) -> Choice:
    """Returns `count` different members drawn one after the other from the law of `first_law`, renormalised.

    Args:
        policy: see `first_law`.
        sampled: `[S, M]` values under posterior samples.
        count: how many, 1..M.
        epsilon: exploration, [0, 1].
        rng: source of the draw; the same state gives the same members.

    Raises:
        ValueError: `count` is not within 1..M.
    """
    members = sampled.shape[1]
    if not 1 <= count <= members:
        raise ValueError(f"count is {count}; there are {members} members")
    mean, std = np.mean(sampled, axis=0), np.std(sampled, axis=0)
    law = first_law(policy, sampled, epsilon)
    drawn: list[int] = []
    left = law.copy()
    for _ in range(count):
        total = float(np.sum(left))
        if total <= _NOTHING_LEFT:
            # `best` has spent its certainty: go on in the order of expected value, which is as certain.
            rest = [member for member in np.argsort(-mean, kind="stable") if member not in drawn]
            drawn.append(int(rest[0]))
        else:
            drawn.append(int(rng.choice(members, p=left / total)))
        left[drawn[-1]] = 0.0
    order = tuple(drawn)
    return Choice(order, law, float(law[order[0]]), joint_probability(law, order), mean, std)


_NOTHING_LEFT = 1e-12
"""Probability below which what is left is rounding, not law."""
