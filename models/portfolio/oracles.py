"""What turns weights over rewards into a policy: the oracles of PALM (Kim, Moondra et al. 2026, arXiv 2604.04144; SCIENCE §4).

    weights [d] on the simplex ─> Oracle.solve ─> Solution: value vector [d] ± interval, bound on the optimum, handle

An exact oracle says how good the best policy is (`optimum`); an approximate one (logit mixing, adapter averaging, a trained adapter
of which nothing is known) leaves it None: its policy is a lower bound like any other, and it never tightens the upper bound.
Axis letters: `P` prompts, `N` responses to each, `d` rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Array = NDArray[np.float64]

ROUNDING = 1e-9


class EvidenceInvalid(ValueError):
    """Rewards are not what a portfolio can be built on; the message has the numbers."""


class OracleFailed(RuntimeError):
    """An oracle did not return a policy for some weights; what was solved before is kept, and the search can be resumed."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A policy that an oracle found for some weights.

    Attributes:
        weights: `[d]` on the simplex, what it was asked for.
        value: `[d]` mean normalised reward of the policy under each reward, in [0, 1].
        half_width: `[d]` of the interval around `value` at the confidence that the oracle states; 0 where nothing is estimated.
        optimum: bound that no policy's objective exceeds at `weights`; None from an oracle that cannot bound it. A trained
            policy that is known to be within `s` of the best has `w · value + s`.
        handle: name under which the policy is found again: a folder, an adapter, a member.
        divergence: KL to the base policy, nats per response; 0 where it costs nothing.
    """

    weights: Array
    value: Array
    half_width: Array
    optimum: float | None
    handle: str
    divergence: float = 0.0


class Oracle(Protocol):
    """Returns near-optimal policies for weights over `d` rewards in [0, 1].

    The objective is `w · v(policy) - beta KL(policy, base)`. It is homogeneous in `(w, beta)` together and not in `w` alone:
    `beta` belongs to weights that sum to 1, and `on_simplex` scales both. With `beta` 0 it is the plain value.
    """

    @property
    def dimensions(self) -> int: ...
    @property
    def beta(self) -> float: ...
    def solve(self, weights: Array) -> Solution:
        """Returns a policy for `weights` `[d]` on the simplex.

        Raises:
            OracleFailed: there is none this time; asking again may help.
        """
        ...


def on_simplex(weights: Array, beta: float = 0.0) -> tuple[Array, float]:
    """Returns the same preferences with weights that sum to 1: both `weights` `[d]` and `beta` divided by the sum.

    Scaling the weights alone would change the policy: KL would become cheaper or dearer against the rewards.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0.
    """
    weights = np.asarray(weights, dtype=np.float64)
    total = float(np.sum(weights))
    if weights.ndim != 1 or not np.all(np.isfinite(weights)) or np.any(weights < 0) or total <= 0:
        raise ValueError(f"weights are {weights}; they must be finite, non-negative and not all 0")
    return weights / total, beta / total


def expect_weights(weights: Array, dimensions: int) -> Array:
    """Returns `weights` as `[d]` float64.

    Raises:
        ValueError: they are not on the simplex over `d` rewards; `on_simplex` puts them there.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (dimensions,) or np.any(weights < -ROUNDING) or not abs(float(np.sum(weights)) - 1.0) <= ROUNDING:
        raise ValueError(f"weights {weights} are not on the simplex over {dimensions} rewards; on_simplex scales them, and beta with them")
    return np.maximum(weights, 0.0)


def expect_rewards(rewards: Array) -> Array:
    """Returns rewards `[..., d]` as float64.

    Raises:
        EvidenceInvalid: one is outside [0, 1] or not finite, there is only one reward, or there are no responses.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.size == 0 or rewards.ndim < 2:
        raise EvidenceInvalid(f"rewards are {rewards.shape}; an axis of responses and one of rewards are needed, none empty")
    if rewards.shape[-1] < 2:
        raise EvidenceInvalid("there is 1 reward, and so 1 best policy for everybody; a portfolio needs 2 rewards or more")
    outside = ~((rewards >= -ROUNDING) & (rewards <= 1.0 + ROUNDING))
    if np.any(outside):
        axes = tuple(range(rewards.ndim - 1))
        counts = np.sum(outside, axis=axes).tolist()
        finite = rewards[np.isfinite(rewards)]
        low, high = finite.min(initial=np.inf), finite.max(initial=-np.inf)
        raise EvidenceInvalid(
            f"{int(np.sum(outside))} of {rewards.size} rewards are outside [0, 1] (by reward: {counts}; range {low:g} to {high:g}); "
            "normalise them first (models.portfolio.rewards)"
        )
    return np.clip(rewards, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class BestOfN:
    """The exact oracle over a sampled response set: for each prompt the response with the greatest `w · r`.

    The policies are all ways to choose one of `N` sampled responses for each prompt, mixtures included, so every guarantee can be
    checked against the truth. With `beta` above 0 the base policy is uniform over the `N` responses and the best policy is
    Gibbs' `exp(w · r / beta)`, normalised for each prompt; its objective is `beta mean_x log mean_y exp(w · r / beta)`.

    Attributes:
        rewards: `[P, N, d]` in [0, 1].
        beta: price of KL.
    """

    rewards: Array
    beta: float = 0.0

    def __post_init__(self) -> None:
        if np.ndim(self.rewards) != 3 or not 0.0 <= self.beta < np.inf:
            raise EvidenceInvalid(f"rewards are {np.shape(self.rewards)} and beta is {self.beta}; [P, N, d] and at least 0 are needed")
        object.__setattr__(self, "rewards", expect_rewards(self.rewards))

    @property
    def dimensions(self) -> int:
        return int(self.rewards.shape[-1])

    def solve(self, weights: Array) -> Solution:
        weights = expect_weights(weights, self.dimensions)
        chances = self.chances(weights)
        value = np.mean(np.sum(chances[..., None] * self.rewards, axis=1), axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            divergence = np.nansum(chances * np.log(chances * chances.shape[1]), axis=1).mean() if self.beta else 0.0
        handle = "best-of-n " + " ".join(f"{weight:.6g}" for weight in weights)
        return Solution(weights, value, np.zeros_like(value), self.optimum(weights), handle, float(divergence))

    def optimum(self, weights: Array) -> float:
        """Returns the best objective that any policy reaches at `weights` `[d]`."""
        scores = self.rewards @ weights
        if not self.beta:
            return float(np.mean(np.max(scores, axis=1)))
        return float(np.mean(self.beta * (logsumexp(scores / self.beta, axis=1) - np.log(scores.shape[1]))))

    def chances(self, weights: Array) -> Array:
        """Returns the best policy's probability of each response, `[P, N]`; the first of responses that tie, without KL."""
        scores = self.rewards @ weights
        if not self.beta:
            best: Array = (np.arange(scores.shape[1]) == np.argmax(scores, axis=1)[:, None]).astype(np.float64)
            return best
        return np.asarray(np.exp(scores / self.beta - logsumexp(scores / self.beta, axis=1, keepdims=True)))

    def per_prompt(self, weights: Array) -> Array:
        """Returns the best policy's value on each prompt, `[P, d]`."""
        return np.asarray(np.sum(self.chances(weights)[..., None] * self.rewards, axis=1))
