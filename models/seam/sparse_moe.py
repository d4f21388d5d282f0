"""Sparse mixture of experts: few of many Bradley-Terry experts score a text, chosen by the prompt and by who asks.

    w ~ f_k(x) exp(-eta C_k) over the shared expert and K routed ones;  the `active` largest of the routed ones and the
    shared one are kept and renormalised

After Wang et al. 2026 (arXiv 2606.04284), whose formulas are not public: a reconstruction (SCIENCE §1). The user's Hedge
posterior is combined with the gate *before* the cut, or an expert that the prompt does not suggest could never be the
user's. Head 0 is the shared quality expert; `H = K + 1` heads, `N` candidates, `S` samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.seam import hedge
from attune.models.seam.arrays import expect_finite, expect_shape
from attune.models.seam.family import Row, expect_heads
from attune.models.seam.family_format import Format, Stored, Written
from attune.models.seam.reward_heads import LEAST_LOG_GATE, GatedMixture

Array = NDArray[np.float64]

NAME = "sparse_moe"


def keep_largest(weights: Array, active: int) -> Array:
    """Returns `weights` `[..., H]` with all but the first and the `active` largest others at 0, renormalised.

    Of equal weights the earlier head is kept, so that the cut does not depend on the platform's sort.
    """
    kept = weights.copy()
    shut = 1 + np.argsort(-weights[..., 1:], axis=-1, kind="stable")[..., active:]
    np.put_along_axis(kept, shut, 0.0, axis=-1)
    cut: Array = kept / kept.sum(axis=-1, keepdims=True)
    return cut


def awake(log_gate: Array) -> Array:
    """Returns how far each expert is charged for a comparison on a prompt, `[H]` in 0..1: in full from an even share upwards.

    A routed expert of share `p_k` is awake to `min(1, K p_k)`, the shared one always. With a gate that tells nothing all are.
    """
    share = np.exp(np.maximum(log_gate, LEAST_LOG_GATE))
    routed = share[1:] / max(float(share[1:].sum()), np.finfo(np.float64).tiny)
    charged: Array = np.append(1.0, np.minimum(1.0, routed.size * routed))
    return charged


@dataclass(frozen=True, slots=True)
class SparseMoe(GatedMixture):
    """Experts in sparse use: the shared one always, and the `active` likeliest of the others for this user and prompt.

    Attributes:
        heads: the shared expert's name, then those of the routed ones.
        log_prior: `[H]` log of the mean gate, used where there is no prompt.
        active: routed experts with a weight above 0; 1 to `K`.
        sleeping: experts that a prompt does not call for are charged what the awake ones lost on average, so that what a user
            says of poems does not speak against the experts for recipes (specialists: Freund et al. 1997, reconstruction).
            Otherwise every expert is charged its own loss. A sum of what single comparisons say either way.
    """

    active: int
    sleeping: bool = False

    def __post_init__(self) -> None:
        expect_heads(self.heads, self.logit_scale)
        expect_shape("log_prior", self.log_prior, (len(self.heads),))
        expect_finite(log_prior=self.log_prior)
        if not 1 <= self.active < len(self.heads):
            raise ValueError(f"active is {self.active}; it must be 1 to {len(self.heads) - 1}, the number of routed experts")

    def weights(self, evidence: Array, prompt: Row | None) -> Array:
        return keep_largest(self.posterior_weights(evidence, prompt), self.active)

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool) -> Array:
        # Of all experts, not of the open ones: the sum must not depend on what the user was when the comparison came.
        margins = self.margins(chosen, rejected)
        if not self.sleeping:
            return hedge.hedge_evidence(margins, cap=self.settings.cap, tie=tie)
        charged = awake(np.asarray(prompt[f"{self.name}_gate"], dtype=np.float64))
        losses = hedge.losses(margins, cap=self.settings.cap, tie=tie)
        evidence: Array = charged * (losses - (charged * losses).sum() / charged.sum())
        return evidence


def _write(family: SparseMoe) -> Written:
    numbers = {"logit_scale": float(family.logit_scale), "active": family.active, "sleeping": family.sleeping}
    return {**numbers, **family.settings.to_entry()}, {"log_prior": family.log_prior}


def _read(stored: Stored) -> SparseMoe:
    settings = hedge.HedgeSettings.from_entry(stored.entry)
    active, sleeping = int(stored.entry["active"]), bool(stored.entry["sleeping"])
    return SparseMoe(stored.name, stored.heads, stored.logit_scale, settings, stored.arrays["log_prior"], active, sleeping)


FORMAT = Format(NAME, SparseMoe, _write, _read)
"""How `families_file` keeps it."""
