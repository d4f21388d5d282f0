"""What a mean may be where all numbers that were seen are equal: no spread was seen, which does not say that there is none."""

from __future__ import annotations

import numpy as np

from attune.models.seam.arrays import Array

ERROR = 0.025
"""Of each end of a 95 % interval."""


def is_unvaried(values: Array) -> bool:
    """Returns whether all numbers are equal but for how they were added up."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.max(np.abs(values)))))


def unvaried_ends(value: float, count: int, bounds: tuple[float, float]) -> tuple[float, float]:
    """Returns the ends of a 95 % interval of a mean, where each of `count` numbers was `value`.

    Others, anywhere in `bounds`, may be a share of 1 - 0.025^(1 / count) and stay unseen as often as that (Clopper and Pearson 1934).
    """
    unseen = 1.0 - ERROR ** (1.0 / count)
    return value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value)
