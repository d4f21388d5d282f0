"""The families of reward heads: one global head, a gated mixture, a Gaussian user; and all of a bundle side by side.

Each is a `Family`, and keeps no state. Axis letters: `N` candidates, `K` heads, `E` evidence, `S` samples. Where a family's
arrays come from is `families_file`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attune.models.seam import gaussian, hedge
from attune.models.seam.arrays import expect_finite, expect_shape
from attune.models.seam.evidence import half, quantise
from attune.models.seam.family import Family, Row, Scored, expect_heads, mixed_scores, reward_difference
from attune.models.seam.reward_heads import GatedMixture, GlobalHeads, RewardHeads

__all__ = ["BradleyTerry", "Families", "Family", "Micro", "Row", "Scored", "Vrf"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BradleyTerry(GlobalHeads):
    """One global head for everybody: the baseline, `P = sigma(a ds)` (Bradley and Terry 1952)."""

    def __post_init__(self) -> None:
        expect_heads(self.heads, self.logit_scale)
        if len(self.heads) != 1:
            raise ValueError(f"bradley_terry has one head; {len(self.heads)} were given")

    def weights(self, evidence: Array, prompt: Row | None) -> Array:  # noqa: ARG002 - everybody's weights are alike
        return np.ones(1)

    def score(self, evidence: Array, rewards: Array, prompt: Row | None) -> Scored:
        return Scored(rewards[:, 0], np.zeros(len(rewards)), self.weights(evidence, prompt), rewards)

    def predict(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> float:  # noqa: ARG002 - as above
        return float(hedge.sigmoid(self.margins(chosen, rejected))[0])

    def sample_weights(self, evidence: Array, prompt: Row | None, rng: np.random.Generator, samples: int) -> Array:  # noqa: ARG002
        return np.ones((samples, 1))


@dataclass(frozen=True, slots=True)
class Micro(GatedMixture):
    """The gated mixture itself, without the heads that an audit closed (Shen et al. 2025; SCIENCE §2).

    Attributes:
        mask: `[K]` False for heads that an audit found harmful; their weight is 0.
        closed: `[K]` the mask in logs, 0 or `-inf`.
    """

    mask: NDArray[np.bool_]
    closed: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        expect_heads(self.heads, self.logit_scale)
        expect_shape("log_prior", self.log_prior, (len(self.heads),))
        expect_shape("mask", self.mask, (len(self.heads),))
        if not self.mask.any():
            raise ValueError(f"array mask closes all {len(self.heads)} heads; at least one must stay open")
        expect_finite(log_prior=self.log_prior[self.mask])
        object.__setattr__(self, "closed", np.where(self.mask, 0.0, -np.inf))

    def posterior_weights(self, evidence: Array, prompt: Row | None) -> Array:
        return hedge.hedge_weights(self.log_gate(prompt) + self.closed, evidence, eta=self.settings.eta)


@dataclass(frozen=True, slots=True)
class Vrf(RewardHeads):
    """A user as a Gaussian matched to shared bases (Lee et al. 2026; SCIENCE §5)."""

    bases: gaussian.Bases
    encoder: gaussian.PairEncoder

    def __post_init__(self) -> None:
        expect_heads(self.heads, self.logit_scale)
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
        return gaussian.matching_weights(*gaussian.posterior(evidence), self.bases)

    def score(self, evidence: Array, rewards: Array, prompt: Row | None) -> Scored:  # noqa: ARG002 - as for weights
        mean, std = gaussian.posterior(evidence)
        weights = gaussian.matching_weights(mean, std, self.bases)
        variance = gaussian.margin_variance(weights, rewards, std, self.bases)
        return Scored(mixed_scores(rewards, weights), np.sqrt(variance), weights, rewards)

    def predict(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> float:  # noqa: ARG002 - as for weights
        margins = self.margins(chosen, rejected)
        mean, std = gaussian.posterior(evidence)
        weights = gaussian.matching_weights(mean, std, self.bases)
        variance = gaussian.margin_variance(weights, margins, std, self.bases)
        return gaussian.attenuated_probability(float(margins @ weights), float(variance))

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool) -> Array:
        difference = reward_difference(f"{self.name}_features", chosen, rejected)
        precision, vote = self.encoder(difference, np.asarray(prompt[f"{self.name}_prompt_features"], dtype=np.float64))
        return gaussian.vote_evidence(precision, vote, tie=tie)

    def sample_weights(self, evidence: Array, prompt: Row | None, rng: np.random.Generator, samples: int) -> Array:  # noqa: ARG002
        return gaussian.sample_weights(evidence, self.bases, rng, samples)

    def posterior(self, evidence: Array) -> tuple[Array, Array] | None:
        return gaussian.posterior(evidence)


class Families:
    """All families of a bundle, side by side in one evidence vector, in a fixed order."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = {family.name: family for family in families}
        if len(self._families) != len(families):
            raise ValueError(f"family names repeat: {[family.name for family in families]}")
        self._slices: dict[str, slice] = {}
        start = 0
        for family in families:
            self._slices[family.name] = slice(start, start + family.evidence_size)
            start += family.evidence_size
        self.evidence_size = start

    def __getitem__(self, name: str) -> Family:
        return self._families[name]

    def __contains__(self, name: object) -> bool:
        return name in self._families

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._families)

    def prior(self) -> Array:
        """Returns the evidence of a user about whom nothing is known, zeros `[E]`."""
        return np.zeros(self.evidence_size)

    def part(self, name: str, evidence: Array) -> Array:
        """Returns the slice of a whole evidence vector `[E]` that belongs to one family.

        Raises:
            ValueError: the vector is not of these families' size.
        """
        if evidence.shape != (self.evidence_size,):
            raise ValueError(f"evidence is {evidence.shape}; these families read ({self.evidence_size},)")
        return evidence[self._slices[name]]

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool = False) -> Array:
        """Returns what one comparison adds to the user's sum, `[E]` on the grid and in half precision, from it alone.

        Raises:
            KeyError: a row lacks an output that a family reads.
            ValueError: a row's outputs are of another size than the families', or not finite.
        """
        parts = {name: family.learn(chosen, rejected, prompt, tie=tie) for name, family in self._families.items()}
        evidence = np.concatenate([_NO_EVIDENCE, *parts.values()])
        if evidence.size != self.evidence_size:
            sizes = {name: part.size for name, part in parts.items()}
            raise ValueError(f"rows give evidence of {sizes} doubles; these families read {self.evidence_size} in all")
        return half(quantise(evidence))

    def predict(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> dict[str, float]:
        """Returns each family's probability that `chosen` is preferred, before the comparison is learned."""
        return {name: family.predict(self.part(name, evidence), chosen, rejected, prompt) for name, family in self._families.items()}

    def outputs_to_keep(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the outputs of a candidate and of a prompt that learning needs later: what a decision stores."""
        candidate = [name for family in self._families.values() for name in family.candidate_outputs]
        prompt = [name for family in self._families.values() for name in family.prompt_outputs]
        return tuple(dict.fromkeys(candidate)), tuple(dict.fromkeys(prompt))


_NO_EVIDENCE = np.zeros(0)
"""Joins nothing into a vector of doubles where no family learns."""
