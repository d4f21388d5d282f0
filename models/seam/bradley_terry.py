"""The family `bradley_terry`: one global head for everybody, the baseline. See `Family` for its methods; axis letters as there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.seam import hedge
from attune.models.seam.family import Row, Scored, expect_heads
from attune.models.seam.family_format import Format, Stored, Written
from attune.models.seam.reward_heads import GlobalHeads

Array = NDArray[np.float64]

NAME = "bradley_terry"


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

    def chances(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> Array:  # noqa: ARG002 - as above
        chances: Array = hedge.sigmoid(self.margins(chosen, rejected))[..., 0]
        return chances

    def sample_weights(self, evidence: Array, prompt: Row | None, rng: np.random.Generator, samples: int) -> Array:  # noqa: ARG002
        return np.ones((samples, 1))


def _write(family: BradleyTerry) -> Written:
    return {"logit_scale": float(family.logit_scale)}, {}


def _read(stored: Stored) -> BradleyTerry:
    return BradleyTerry(stored.name, stored.heads, stored.logit_scale)


FORMAT = Format(NAME, BradleyTerry, _write, _read)
"""How `families_file` keeps it."""
