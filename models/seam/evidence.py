"""A user is a sum: what one comparison adds, and how a sum is read back (SCIENCE §0, reconstruction).

A comparison becomes a vector `[E]`. Vectors lie on a dyadic grid, so that sums of doubles are exact: any order gives the same
bits, and subtracting a vector restores the bits that were there before. Forgetting is forward decay (Cormode et al. 2009):
vectors are scaled up by their time and sums scaled down when read. With a half-life the factors are no powers of two, so
order and taking back leave a relative error of some 1e-16.
This module does not know where sums are kept nor what their components mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID = 2.0**-24
"""Spacing of the grid: finer than any effect of a comparison, and 53 - 24 bits are left for the size of a sum."""

MAX_EVIDENCE = 64.0
"""Greatest size of one component of one comparison: 2**29 / 64, eight million comparisons of this size, before a sum rounds."""

MOST_NUMBERS = 2048
"""Components of a user's sum, all families together: what the store takes."""

HALF_ROUNDING = 2.0**-11
"""Share of a component that half precision may be off by; see `half`."""

HALF_LIVES_PER_EPOCH = 256
"""Landmarks are this many half-lives apart: factors stay below 2**256, and aligning two epochs is a power of two."""


def quantise(evidence: Array) -> Array:
    """Returns `evidence` `[E]` clipped to `MAX_EVIDENCE` and rounded to `GRID`.

    Raises:
        ValueError: a component is not finite; nothing of it may ever reach a sum.
    """
    if not np.isfinite(evidence).all():
        raise ValueError(f"evidence has {int(np.sum(~np.isfinite(evidence)))} of {evidence.size} components that are not finite")
    rounded: Array = np.rint(np.minimum(np.maximum(evidence, -MAX_EVIDENCE), MAX_EVIDENCE) / GRID) * GRID
    return rounded + 0.0  # turns -0.0 into 0.0, which sums would otherwise remember


def half(evidence: Array) -> Array:
    """Returns `evidence` `[E]`, of numbers on the grid, in half precision: 11 significant bits, which are points of the grid as well.

    What is learned must be kept beside the sum to the bit, so that it can be taken back; two bytes a number are enough for it. The
    error of one comparison is at most `HALF_ROUNDING` of each component.
    """
    return evidence.astype(np.float16).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Decay:
    """Forward decay with landmarks common to all users; `half_life_s=None` remembers for ever.

    With `H` the half-life and the landmark of epoch `j` at `256 j H`, a comparison observed at `t` is stored as
    `2**((t - landmark)/H) * evidence`, and a sum of epoch `j` read at `now` is multiplied by `2**(-(now - landmark)/H)`.
    """

    half_life_s: float | None = None

    def __post_init__(self) -> None:
        if self.half_life_s is not None and not 0 < self.half_life_s < math.inf:
            raise ValueError(f"half_life_s is {self.half_life_s}; it must be finite and above 0, or None to remember for ever")

    def keep_under(self, basis: str) -> str:
        """Returns the name under which sums are kept: a stored sum means nothing under another half-life than its own."""
        return basis if self.half_life_s is None else f"{basis}-h{self.half_life_s:.3f}s"

    def stamp(self, evidence: Array, observed_s: float) -> tuple[Array, int]:
        """Returns the vector to add `[E]` and its epoch, for a comparison observed at `observed_s` (Unix seconds).

        `observed_s` is at most the caller's clock: a comparison of the future would outweigh the rest until then.
        """
        if self.half_life_s is None:
            return evidence, 0
        half_lives = observed_s / self.half_life_s
        epoch = int(half_lives // HALF_LIVES_PER_EPOCH)
        return evidence * float(2.0 ** (half_lives - epoch * HALF_LIVES_PER_EPOCH)), epoch

    def read(self, total: Array, epoch: int, now_s: float) -> Array:
        """Returns the evidence `[E]` that a stored sum of `epoch` is worth at `now_s`; at most what is stored.

        A reader whose clock is before the landmark (two servers' clocks at its turn) reads the sum at the landmark.
        """
        if self.half_life_s is None:
            return total
        half_lives = now_s / self.half_life_s - epoch * HALF_LIVES_PER_EPOCH
        return total * float(2.0 ** -max(0.0, half_lives))


def align(total: Array, epoch: int, to_epoch: int) -> Array:
    """Returns `total` `[E]` re-based from the landmark of `epoch` to that of `to_epoch`, exactly (a power of two).

    Four epochs or more to a later landmark leave next to nothing, as they should: 2**-1024 and less.
    """
    # Doubles span fewer than 2**12 powers of two, and ldexp takes its exponent as an int32.
    epochs = max(-16, min(16, epoch - to_epoch))
    return np.ldexp(total, HALF_LIVES_PER_EPOCH * epochs)
