"""Audits the heads of a mixture on comparisons that trained nothing: which heads harm, and would be better masked (SCIENCE §2).

A head is harmful if held-out comparisons are predicted better without it, by more than chance over users explains. Axis
letters: `C` comparisons, `K` heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

LEAST_USERS = 8
"""Fewer say too little of other users to close a head for everybody."""


@dataclass(frozen=True, slots=True)
class HeadAudit:
    """What an audit found.

    Attributes:
        accuracy: `[K]` of each head alone.
        share: `[K]` mean gate.
        gain_if_masked: `[K]` held-out log-loss less that without the head, nats a comparison; above 0 is harmful.
        interval: `[K, 2]` 95 % of the gain, over users; without end where there are fewer than `LEAST_USERS`.
        mask: `[K]` False for heads that are to be closed.
    """

    accuracy: Array
    share: Array
    gain_if_masked: Array
    interval: Array
    mask: NDArray[np.bool_]


def audit_heads(log_gate: Array, margins: Array, user: NDArray[np.int64], *, mask: NDArray[np.bool_] | None = None) -> HeadAudit:
    """Returns the audit of heads under a router, on held-out comparisons.

    The most harmful head is closed first and the others are looked at again without it, since of two heads that share a
    fault only one may have to go. At least one head stays open.

    Args:
        log_gate: `[C, K]` log gate of the comparisons' prompts.
        margins: `[C, K]` logits of chosen minus rejected.
        user: `[C]` whose comparison each is; gains are averaged within a user first.
        mask: `[K]` heads that are closed already.

    Raises:
        ValueError: shapes do not agree, a number is not finite, or there are fewer than two comparisons.
    """
    if log_gate.shape != margins.shape or log_gate.ndim != 2 or user.shape != log_gate.shape[:1] or len(user) < 2:
        raise ValueError(
            f"gate {log_gate.shape}, margins {margins.shape} and users {user.shape} must be [C, K], [C, K] and [C], C at least 2"
        )
    broken = int(np.sum(~np.isfinite(margins)))
    if broken:
        raise ValueError(f"{broken} of {margins.size} margins are not finite")
    opened = np.ones(log_gate.shape[1], dtype=bool) if mask is None else mask.copy()
    gain, interval = _gains(log_gate, margins, user, opened)
    first = gain, interval
    while opened.sum() > 1:
        harmful = np.flatnonzero(opened & (interval[:, 0] > 0))
        if not len(harmful):
            break
        opened[harmful[np.argmax(gain[harmful])]] = False
        gain, interval = _gains(log_gate, margins, user, opened)
    accuracy = np.mean((margins > 0) + 0.5 * (margins == 0), axis=0)
    return HeadAudit(accuracy, np.exp(log_gate).mean(axis=0), *first, opened)


def _gains(log_gate: Array, margins: Array, user: NDArray[np.int64], opened: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Returns `gain_if_masked` and its interval for every open head; zeros for closed ones and for the last."""
    whole = _nll(log_gate, margins, opened)
    _, owner = np.unique(user, return_inverse=True)
    counts = np.bincount(owner)
    gain, interval = np.zeros(len(opened)), np.zeros((len(opened), 2))
    for head in np.flatnonzero(opened):
        without = opened.copy()
        without[head] = False
        if not without.any():
            continue
        per_user = np.bincount(owner, weights=whole - _nll(log_gate, margins, without)) / counts
        # A few users who happen to want one thing would have every other head closed: on their word nothing is masked.
        enough = len(per_user) >= LEAST_USERS
        error = stats.t.ppf(0.975, len(per_user) - 1) * per_user.std(ddof=1) / np.sqrt(len(per_user)) if enough else np.inf
        gain[head] = per_user.mean()
        interval[head] = gain[head] - error, gain[head] + error
    return gain, interval


def _nll(log_gate: Array, margins: Array, opened: NDArray[np.bool_]) -> Array:
    """Returns `-log sum_k f_k sigma(m_k)` `[C]` over the open heads, `f` renormalised over them."""
    gate = log_gate[:, opened]
    gate = gate - np.logaddexp.reduce(gate, axis=1, keepdims=True)
    loss: Array = -np.logaddexp.reduce(gate - np.logaddexp(0.0, -margins[:, opened]), axis=1)
    return loss
