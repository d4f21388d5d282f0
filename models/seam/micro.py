"""The family `micro`: a mixture of heads that a gate weighs by the prompt and Hedge by the user. See `Family` for its methods."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.arrays import expect_finite, expect_shape
from attune.models.seam.family import Row, expect_heads
from attune.models.seam.family_format import Format, Stored, Written
from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.reward_heads import GatedMixture

Array = NDArray[np.float64]

NAME = "micro"


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
        return self.hedged(self.log_gate(prompt) + self.closed, evidence)


def _write(family: Micro) -> Written:
    return {"logit_scale": float(family.logit_scale), **family.settings.to_entry()}, {
        "log_prior": family.log_prior,
        "mask": family.mask.astype(np.float64),
    }


def _read(stored: Stored) -> Micro:
    settings = HedgeSettings.from_entry(stored.entry)
    return Micro(stored.name, stored.heads, stored.logit_scale, settings, stored.arrays["log_prior"], stored.arrays["mask"] > 0)


FORMAT = Format(NAME, Micro, _write, _read)
"""How `families_file` keeps it."""
