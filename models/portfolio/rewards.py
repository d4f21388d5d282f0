"""Rewards in [0, 1]: an affine map per reward, fitted once on a calibration set of prompts and frozen.

rewards in any units [N, d] ─ fit ─> offset, scale [d] ─> (s - offset) / scale, clipped to [0, 1]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attune.models.portfolio.oracles import EvidenceInvalid

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """The frozen map of `d` rewards to [0, 1].

    Attributes:
        offset: `[d]` what becomes 0.
        scale: `[d]` above 0; `offset + scale` becomes 1.
        places: `[d]` which head of the family each reward is; the heads in their order if empty.
        rest: `[K]` ranges of the heads that are no rewards, 0 for those that are; empty where all are.
    """

    offset: Array
    scale: Array
    places: tuple[int, ...] = ()
    rest: Array = field(default_factory=lambda: np.zeros(0))

    def apply(self, rewards: Array) -> Array:
        """Returns rewards `[..., d]` in [0, 1]; what lies outside the calibration's range counts as its nearest end.

        Raises:
            EvidenceInvalid: another number of rewards, or one that is not finite.
        """
        rewards = np.asarray(rewards, dtype=np.float64)
        if rewards.shape[-1:] != self.offset.shape or not np.all(np.isfinite(rewards)):
            broken = int(np.sum(~np.isfinite(rewards)))
            raise EvidenceInvalid(
                f"rewards are {rewards.shape} with {broken} not finite; {len(self.offset)} finite rewards were calibrated"
            )
        return np.clip((rewards - self.offset) / self.scale, 0.0, 1.0)

    def clipped(self, rewards: Array) -> Array:
        """Returns the share of each reward outside the calibrated range, `[d]`: where it is not small, calibrate anew."""
        scaled = (np.asarray(rewards, dtype=np.float64).reshape(-1, len(self.offset)) - self.offset) / self.scale
        return np.asarray(np.mean((scaled < 0.0) | (scaled > 1.0), axis=0))

    def weight_map(self) -> Array:
        """Returns `[K, d]` that turns weights over heads into those over normalised rewards: `w · s = const + (w * scale) · r`.

        Heads that are no rewards count for nothing in it; `K` is `d` where all are.
        """
        found = np.diag(self.scale)
        if not self.places:
            return found
        whole = np.zeros((len(self.rest), len(self.scale)))
        whole[list(self.places)] = found
        return whole


def fit_normalisation(rewards: Array, *, tail: float = 0.005, places: Sequence[int] | None = None) -> Normalisation:
    """Returns the map that puts all but `tail` of the calibration rewards at each end within [0, 1].

    Args:
        rewards: `[N, K]` of responses to the calibration prompts, drawn as they will be in use.
        tail: share left outside at each end, so that one outlier does not flatten everything else.
        places: which of them become rewards, `[d]`; all if None. Of the others the range is kept.

    Raises:
        EvidenceInvalid: not finite, fewer than two responses, or a reward that is the same for all.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 2 or len(rewards) < 2 or not np.all(np.isfinite(rewards)):
        raise EvidenceInvalid(
            f"calibration rewards are {rewards.shape}, {int(np.sum(~np.isfinite(rewards)))} not finite; finite [N, d] needed"
        )
    low, high = np.quantile(rewards, [tail, 1.0 - tail], axis=0)
    chosen = list(range(len(low)) if places is None else places)
    flat = [index for index in chosen if not high[index] - low[index] > 1e-9]
    if flat:
        raise EvidenceInvalid(
            f"reward {flat[0]} is {low[flat[0]]:g} for all of {len(rewards)} calibration responses: it distinguishes nothing"
        )
    width = high - low
    if chosen == list(range(len(low))):
        return Normalisation(low, width)
    rest = width.copy()
    rest[chosen] = 0.0
    return Normalisation(low[chosen], width[chosen], tuple(chosen), rest)
