"""Directions of a sparse autoencoder under one small head: `P = sigma(a sum_g w_g dr_g)` (Liu et al. 2025, arXiv 2511.07896).

The head is linear in projections of the trunk's state on the directions, and a score is the sum over directions exactly.
The strongest directions are heads of their own; the others are one head together, so that an explanation stays short.
The family is global: its weights are everybody's, and it learns nothing online. `K` heads, `N` candidates, `S` samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.seam import hedge
from attune.models.seam.arrays import expect_finite, expect_shape
from attune.models.seam.family import Row, Scored, expect_heads, mixed_scores
from attune.models.seam.family_format import Format, Stored, Written
from attune.models.seam.reward_heads import GlobalHeads

Array = NDArray[np.float64]

NAME = "sparserm"


@dataclass(frozen=True, slots=True)
class SparseRm(GlobalHeads):
    """A reward that can be read: which directions of the trunk speak for a text, and which against it.

    Attributes:
        heads: the strongest directions, named after the tokens that fire them; then what is summed up of the others.
        logit_scale: turns scores into logits.
        shares: `[K]` how much of the score's spread each head carries, on the simplex; everybody's weights.
        examples: per head, texts (cut short) in which its latent fires most; empty for heads that are sums.
    """

    shares: Array
    examples: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        expect_heads(self.heads, self.logit_scale)
        expect_shape("shares", self.shares, (len(self.heads),))
        expect_finite(shares=self.shares)
        if self.shares.min() < 0 or abs(self.shares.sum() - 1.0) > 1e-6:
            raise ValueError(f"array shares sums to {self.shares.sum():g} and is {self.shares.min():g} at least; it must be on the simplex")
        if len(self.examples) != len(self.heads):
            raise ValueError(f"there are examples of {len(self.examples)} heads; the family has {len(self.heads)}")

    def weights(self, evidence: Array, prompt: Row | None) -> Array:  # noqa: ARG002 - everybody's weights are alike
        return self.shares

    def score(self, evidence: Array, rewards: Array, prompt: Row | None) -> Scored:  # noqa: ARG002 - as above
        return Scored(mixed_scores(rewards, self.shares), np.zeros(len(rewards)), self.shares, rewards)

    def chances(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> Array:  # noqa: ARG002 - as above
        return hedge.sigmoid(mixed_scores(self.margins(chosen, rejected), self.shares))

    def sample_weights(self, evidence: Array, prompt: Row | None, rng: np.random.Generator, samples: int) -> Array:  # noqa: ARG002
        return np.tile(self.shares, (samples, 1))


def examples_of(family: object, head: int) -> tuple[str, ...]:
    """Returns the texts that show what a head stands for; none for a family that keeps no examples."""
    return family.examples[head] if isinstance(family, SparseRm) else ()


def _write(family: SparseRm) -> Written:
    return {"logit_scale": float(family.logit_scale), "examples": [list(texts) for texts in family.examples]}, {"shares": family.shares}


def _read(stored: Stored) -> SparseRm:
    examples = tuple(tuple(map(str, texts)) for texts in stored.entry["examples"])
    return SparseRm(stored.name, stored.heads, stored.logit_scale, stored.arrays["shares"], examples)


FORMAT = Format(NAME, SparseRm, _write, _read)
"""How `families_file` keeps it."""
