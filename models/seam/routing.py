"""Choosing members with propensities that are exactly the law of the draw (SCIENCE §6, reconstruction).

`S` posterior samples of the user's weights give each member a share `p_hat` (how often it is best); the member is drawn
from `p = (1 - epsilon) p_hat + epsilon / M`, and `p` is what is logged. Pairs are drawn without replacement, and their
joint law is logged. `M` members, `K` heads, `S` samples. This module does not know users, prompts or members' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

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
        case _:
            assert_never(policy)


def next_law(law: Array, mean: Array, drawn: tuple[int, ...]) -> Array:
    """Returns the law of the next draw `[M]`, given the members drawn so far: what is left of `law`, renormalised.

    Where what is left has no probability (policy `best`, or one member best in every sample without exploration), the
    next is the one left with the greatest expected value, with probability 1.

    Args:
        law: `[M]` law of the first draw.
        mean: `[M]` expected value of each member.
        drawn: members drawn so far, fewer than `M`.
    """
    if not drawn:
        return law
    left = law.copy()
    left[list(drawn)] = 0.0
    total = float(np.sum(left))
    if total > _NOTHING_LEFT:
        return left / total
    certain = np.zeros_like(law)
    certain[next(member for member in np.argsort(-mean, kind="stable") if member not in drawn)] = 1.0
    return certain


def joint_probability(law: Array, mean: Array, members: tuple[int, ...]) -> float:
    """Returns the probability that `choose` draws `members` in this order; over all orders of one length it sums to 1."""
    probability = 1.0
    for position, member in enumerate(members):
        probability *= float(next_law(law, mean, members[:position])[member])
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
        ValueError: `count` is not within 1..M, `epsilon` not within [0, 1], or `sampled` empty or not finite.
    """
    broken = int(np.sum(~np.isfinite(sampled)))
    if sampled.ndim != 2 or sampled.size == 0 or broken:
        raise ValueError(f"sampled is {sampled.shape} with {broken} values that are not finite; a finite [S, M] is needed")
    members = sampled.shape[1]
    if not 1 <= count <= members:
        raise ValueError(f"count is {count}; there are {members} members")
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon is {epsilon}; it must be within 0 and 1")
    mean, std = np.mean(sampled, axis=0), np.std(sampled, axis=0)
    law = first_law(policy, sampled, epsilon)
    order: tuple[int, ...] = ()
    for _ in range(count):
        order = (*order, int(rng.choice(members, p=next_law(law, mean, order))))
    return Choice(order, law, float(law[order[0]]), joint_probability(law, mean, order), mean, std)


_NOTHING_LEFT = 1e-12
"""Probability below which what is left is rounding, not law."""
