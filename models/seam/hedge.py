"""Probability mixing over heads: `P = sum_k w_k sigma(a ds_k)`, learned online by Hedge (MiCRo, sparse MoE).

`K` heads, `ds` `[K]` winner minus loser in standardised units, `a` the family's logit scale. A user's state is the sum
of centred losses `C` `[K]`; weights are `w_k ~ f_k(x) exp(-eta C_k)` with `f` the gate on the prompt (SCIENCE §0, §2).
With `eta = 1` and a gate that is a prior this is exact Bayes over "which head is this user".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.evidence import MAX_EVIDENCE
from attune.models.seam.family import mixed_scores

Array = NDArray[np.float64]


def sigmoid(logits: Array) -> Array:
    """Returns `1 / (1 + exp(-logits))`, without overflow, of any shape."""
    return np.exp(-np.logaddexp(0.0, -logits))


def softmax(logits: Array) -> Array:
    """Returns the softmax over the last axis; `-inf` gives weight 0, and at least one entry must be above it."""
    shifted = np.exp(logits - np.maximum.reduce(logits, axis=-1, keepdims=True))
    weights: Array = shifted / np.add.reduce(shifted, axis=-1, keepdims=True)
    return weights


def losses(margins: Array, *, cap: float, tie: bool = False) -> Array:
    """Returns the log-loss of each head on one comparison, `L_k = min(-log sigma(m_k), cap)`.

    Args:
        margins: `[K]` logits, `a * ds_k`.
        cap: `L_max`, nats; bounds what one comparison can do to a user.
        tie: the user could not tell; the loss is then the mean over both orders.
    """
    loss = np.logaddexp(0.0, -margins)
    if tie:
        loss = 0.5 * (loss + np.logaddexp(0.0, margins))
    return np.minimum(loss, cap)


def hedge_evidence(margins: Array, *, cap: float, tie: bool = False) -> Array:
    """Returns what one comparison adds to `C`: `L_k - mean_j L_j`, `[K]`, summing to 0 (SCIENCE §0, reconstruction).

    The common part is taken out because it cannot change weights and would only use up the bits of the sum.
    """
    loss = losses(margins, cap=cap, tie=tie)
    centred: Array = loss - loss.sum() / loss.size
    return centred


def hedge_weights(log_prior: Array, cumulative: Array, *, eta: float, sureness: float = math.inf) -> Array:
    """Returns `w_k ~ exp(log_prior_k - eta' C_k)` on the simplex, `[..., K]`, with `eta' = eta / (1 + eta std(C) / sureness)`.

    A user between heads is none of them, and a rate that never falls ends on one head. With the rate falling as what is known
    grows (reconstruction), weights settle on a mixture in which no head is further from the others than `sureness` allows.

    Args:
        log_prior: `[..., K]` log gate probabilities for this prompt; `-inf` masks a head (audit), but not all of them.
        cumulative: `[..., K]` the user's sum of centred losses, nats.
        eta: learning rate of Hedge for the first comparisons; 1 is exact Bayes.
        sureness: spread of the log weights that no evidence can exceed, nats.
    """
    if math.isinf(sureness):
        return softmax(log_prior - eta * cumulative)
    heads = cumulative.shape[-1]  # by hand, since `std` of a few numbers takes longer than all the rest
    apart = cumulative - np.add.reduce(cumulative, axis=-1, keepdims=True) / heads
    spread = np.sqrt(np.vecdot(apart, apart) / heads)[..., None]
    return softmax(log_prior - eta / (1.0 + (eta / sureness) * spread) * cumulative)


def mixed_probability(weights: Array, margins: Array) -> Array:
    """Returns `P(winner preferred) = sum_k w_k sigma(m_k)` of margins `[..., K]`, `[...]`, Shen et al. 2025 (arXiv 2505.24846).

    Args:
        weights: `[K]` for all, or `[..., K]`.
        margins: `[..., K]` logits.
    """
    return mixed_scores(sigmoid(margins), weights)


@dataclass(frozen=True, slots=True)
class HedgeSettings:
    """Constants of one family's Hedge: learning rate, cap of a single loss in nats, and how sure it may become; all above 0.

    Attributes:
        sureness: see `hedge_weights`; infinite for exact Bayes.
    """

    eta: float = 1.0
    cap: float = 4.0
    sureness: float = math.inf

    def __post_init__(self) -> None:
        if not (0 < self.eta < math.inf and 0 < self.cap <= MAX_EVIDENCE):
            raise ValueError(f"eta is {self.eta} and cap {self.cap}; both must be above 0, eta finite and cap at most {MAX_EVIDENCE:g}")
        if not self.sureness > 0:
            raise ValueError(f"sureness is {self.sureness}; it must be above 0, or nothing would be learned of anybody")

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> HedgeSettings:
        """Returns what `to_entry` wrote."""
        sureness = entry["sureness"]
        return cls(float(entry["eta"]), float(entry["cap"]), math.inf if sureness is None else float(sureness))

    def to_entry(self) -> dict[str, float | None]:
        """Returns the constants as JSON data, which knows no infinity."""
        return {"eta": float(self.eta), "cap": float(self.cap), "sureness": None if math.isinf(self.sureness) else float(self.sureness)}
