"""The family `vrf`: a user is a Gaussian, matched to the Gaussians of shared bases. See `Family` for its methods; axis letters as there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.seam import gaussian
from attune.models.seam.arrays import expect_shape
from attune.models.seam.family import Row, Scored, expect_heads, mixed_scores, reward_difference
from attune.models.seam.family_format import Format, Stored, Written
from attune.models.seam.reward_heads import RewardHeads

Array = NDArray[np.float64]

NAME = "vrf"


@dataclass(frozen=True, slots=True)
class Vrf(RewardHeads):
    """A user as a Gaussian matched to shared bases (Lee et al. 2026; SCIENCE §5).

    Attributes:
        floor: least variance of a user, see `gaussian.posterior`.
    """

    bases: gaussian.Bases
    encoder: gaussian.PairEncoder
    floor: float = 0.0

    def __post_init__(self) -> None:
        expect_heads(self.heads, self.logit_scale)
        if not 0.0 <= self.floor < 1.0:
            raise ValueError(f"floor is {self.floor}; it must be 0 or more and below 1, the variance of the prior")
        latent = self.bases.means.shape[1]
        expect_shape("base_means", self.bases.means, (len(self.heads), latent))
        expect_shape("vote", self.encoder.vote, (latent, *self.encoder.vote.shape[1:]))

    @property
    def evidence_size(self) -> int:
        latent: int = self.bases.means.shape[1]
        return 2 * latent

    @property
    def candidate_outputs(self) -> tuple[str, ...]:
        return (f"{self.name}_rewards", f"{self.name}_features")

    @property
    def prompt_outputs(self) -> tuple[str, ...]:
        return (f"{self.name}_prompt_features",)

    def weights(self, evidence: Array, prompt: Row | None) -> Array:  # noqa: ARG002 - a user's match does not see the prompt
        return gaussian.matching_weights(*gaussian.posterior(evidence, self.floor), self.bases)

    def score(self, evidence: Array, rewards: Array, prompt: Row | None) -> Scored:  # noqa: ARG002 - as for weights
        mean, std = gaussian.posterior(evidence, self.floor)
        weights = gaussian.matching_weights(mean, std, self.bases)
        variance = gaussian.margin_variance(weights, rewards, std, self.bases)
        return Scored(mixed_scores(rewards, weights), np.sqrt(variance), weights, rewards)

    def chances(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> Array:
        return gaussian.attenuated_probability(*self.logit(evidence, chosen, rejected, prompt))

    def logit(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> tuple[Array, Array]:  # noqa: ARG002 - as for weights
        margins = self.margins(chosen, rejected)
        mean, std = gaussian.posterior(evidence, self.floor)
        weights = gaussian.matching_weights(mean, std, self.bases)
        return mixed_scores(margins, weights), gaussian.margin_variance(weights, margins, std, self.bases)

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool) -> Array:
        difference = reward_difference(f"{self.name}_features", chosen, rejected)
        precision, vote = self.encoder(difference, np.asarray(prompt[f"{self.name}_prompt_features"], dtype=np.float64))
        return gaussian.vote_evidence(precision, vote, tie=tie)

    def sample_weights(self, evidence: Array, prompt: Row | None, rng: np.random.Generator, samples: int) -> Array:  # noqa: ARG002
        return gaussian.sample_weights(evidence, self.bases, rng, samples, floor=self.floor)

    def posterior(self, evidence: Array) -> tuple[Array, Array] | None:
        return gaussian.posterior(evidence, self.floor)


def _write(family: Vrf) -> Written:
    arrays = {"base_means": family.bases.means, "base_stds": family.bases.stds, **family.encoder.to_arrays()}
    return {"logit_scale": float(family.logit_scale), "tau": float(family.bases.tau), "floor": float(family.floor)}, arrays


def _read(stored: Stored) -> Vrf:
    bases = gaussian.Bases(stored.arrays["base_means"], stored.arrays["base_stds"], float(stored.entry["tau"]))
    encoder = gaussian.PairEncoder.from_arrays(stored.arrays)
    return Vrf(stored.name, stored.heads, stored.logit_scale, bases, encoder, float(stored.entry["floor"]))


FORMAT = Format(NAME, Vrf, _write, _read)
"""How `families_file` keeps it."""
