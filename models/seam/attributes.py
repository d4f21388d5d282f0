"""Named rewards under one linear taste: a user is a Gaussian over how much each reward counts for them.

    logit = u . dr,   u = m + L z,   z ~ N(0, I),   dr the rewards of chosen minus rejected, `m` and `L L^T` the population's

Evidence is that of `additive`: the quadratic bound of Jaakkola and Jordan (2000), `Lambda += c z z^T`, so that a comparison
says something along the rewards in which its texts differ and nothing along others. A weight is what its head is called: how
much this user wants of it, below 0 where they would rather have less. Axis letters: `N` candidates, `K` rewards,
`E = K (K + 3) / 2` evidence, `S` samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.additive import additive_posterior, bound_evidence, evidence_size, variance_along
from attune.models.seam.arrays import expect_finite, expect_shape
from attune.models.seam.family import Row, Scored, expect_heads, mixed_scores, reward_difference
from attune.models.seam.family_format import Format, Stored, Written
from attune.models.seam.gaussian import attenuated_probability
from attune.models.seam.reward_heads import RewardHeads

Array = NDArray[np.float64]

NAME = "attributes"


@dataclass(frozen=True, slots=True)
class Attributes(RewardHeads):
    """Weights over named rewards, `u / a`: those of the average user sum to 1 in size.

    Attributes:
        logit_scale: `a`, the size of the population's mean, `|m|_1`; logits per unit of score.
        mean: `m` `[K]` the average user, logits per unit of reward.
        root: `L` `[K, K]`, a root of the covariance of users.
    """

    mean: Array
    root: Array

    def __post_init__(self) -> None:
        expect_heads(self.heads, self.logit_scale)
        expect_shape("mean", self.mean, (len(self.heads),))
        expect_shape("root", self.root, (len(self.heads), len(self.heads)))
        expect_finite(mean=self.mean, root=self.root)

    @property
    def evidence_size(self) -> int:
        return evidence_size(len(self.heads))

    def weights(self, evidence: Array, prompt: Row | None) -> Array:  # noqa: ARG002 - a user's taste does not see the prompt
        return self._weights(additive_posterior(evidence, len(self.heads))[0])

    def score(self, evidence: Array, rewards: Array, prompt: Row | None) -> Scored:  # noqa: ARG002 - as for weights
        mean, covariance = additive_posterior(evidence, len(self.heads))
        weights = self._weights(mean)
        variance = variance_along(self._along_axes(rewards) / self.logit_scale, covariance)
        return Scored(mixed_scores(rewards, weights), np.sqrt(variance), weights, rewards)

    def chances(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> Array:
        return attenuated_probability(*self.logit(evidence, chosen, rejected, prompt))

    def logit(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> tuple[Array, Array]:  # noqa: ARG002 - as for weights
        difference = self._difference(chosen, rejected)
        mean, covariance = additive_posterior(evidence, len(self.heads))
        axes = self._along_axes(difference)
        return mixed_scores(difference, self.mean) + mixed_scores(axes, mean), variance_along(axes, covariance)

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool) -> Array:  # noqa: ARG002 - as for weights
        difference = self._difference(chosen, rejected)
        return bound_evidence(float(difference @ self.mean), difference @ self.root, tie=tie)

    def sample_weights(self, evidence: Array, prompt: Row | None, rng: np.random.Generator, samples: int) -> Array:  # noqa: ARG002
        mean, covariance = additive_posterior(evidence, len(self.heads))
        spread = self.root @ np.linalg.cholesky(covariance) / self.logit_scale
        drawn: Array = self._weights(mean)[:, None] + spread @ rng.standard_normal((samples, len(mean))).T
        return drawn.T

    def posterior(self, evidence: Array) -> tuple[Array, Array] | None:
        mean, covariance = additive_posterior(evidence, len(self.heads))
        return mean, np.sqrt(np.diagonal(covariance))

    def _difference(self, chosen: Row, rejected: Row) -> Array:
        name = f"{self.name}_rewards"
        difference = reward_difference(name, chosen, rejected)
        expect_shape(name, difference, (*difference.shape[:-1], len(self.heads)))
        return difference

    def _along_axes(self, rewards: Array) -> Array:
        """Returns `z` `[..., K]` of rewards, or of differences of rewards, `[..., K]`."""
        # As in `variance_along`: each row is summed alone.
        axes: Array = np.vecdot(rewards[..., None, :], self.root.T)
        return axes

    def _weights(self, positions: Array) -> Array:
        """Returns the weights `[..., K]` of positions `z` `[..., K]`."""
        weights: Array = (self.mean + positions @ self.root.T) / self.logit_scale
        return weights


def _write(family: Attributes) -> Written:
    return {"logit_scale": float(family.logit_scale)}, {"mean": family.mean, "root": family.root}


def _read(stored: Stored) -> Attributes:
    return Attributes(stored.name, stored.heads, stored.logit_scale, stored.arrays["mean"], stored.arrays["root"])


FORMAT = Format(NAME, Attributes, _write, _read)
"""How `families_file` keeps it."""
