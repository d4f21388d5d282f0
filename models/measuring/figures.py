"""Numbers that reports are made of: accuracy, log-loss, calibration error, and bootstrap intervals over users.

Predictions are probabilities that the answer which was chosen is preferred, so every label is 1. `N` predictions, `U` users.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.data.unvaried import is_unvaried, unvaried_ends

Array = NDArray[np.float64]
Bounds = tuple[float, float]

LEAST_CHANCE = 1e-12
ACCURACY: Bounds = (0.0, 1.0)
LOG_LOSS: Bounds = (0.0, float(-np.log(LEAST_CHANCE)))
GAIN: Bounds = (-1.0, 1.0)
CONFIDENCE_BINS = 10
"""Of a difference in accuracy."""

AT_ONCE = 1 << 20
"""Users of all the resamples that are held together: a few times 8 MiB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over users with its 95 % bootstrap interval, and over how many users."""

    mean: float
    low: float
    high: float
    users: int

    def to_json(self) -> dict[str, float]:
        """Returns what a report keeps: mean and ends."""
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def accuracy(probabilities: Array) -> float:
    """Returns the share of `probabilities` `[N]` above one half; exactly one half counts half."""
    return float(np.mean((probabilities > 0.5) + 0.5 * (probabilities == 0.5)))


def negative_log_likelihood(probabilities: Array) -> float:
    """Returns the mean of `-log p` over `[N]`, nats; a probability of 0 counts as 1e-12."""
    return float(-np.mean(np.log(np.maximum(probabilities, LEAST_CHANCE))))


def calibration_error(probabilities: Array) -> float:
    """Returns the expected calibration error of `[N]`: mean gap of confidence and accuracy, weighted by bin size.

    Confidence is `max(p, 1 - p)` and the prediction right where `p > 1/2`: labels are all 1, and only this folding makes
    a model that always says 0.7 on a 70 % task calibrated. Bins divide [0.5, 1] evenly.
    """
    confidence = np.maximum(probabilities, 1.0 - probabilities)
    right = (probabilities > 0.5) + 0.5 * (probabilities == 0.5)
    bin_of = np.minimum(((confidence - 0.5) * 2.0 * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    gaps = [abs(np.sum(confidence[bin_of == index] - right[bin_of == index])) for index in range(CONFIDENCE_BINS)]
    return float(np.sum(gaps) / len(probabilities))


def bootstrap(per_user: Array, *, seed: int = 0, resamples: int = 2000, bounds: Bounds | None = None) -> Interval:
    """Returns the mean of one number per user `[U]` with the 2.5 and 97.5 percentiles over resampled users.

    Resampling equal numbers would give an interval of width zero: where all users have one number, the interval is as wide as
    what is possible allows, see `unvaried_ends`.

    Args:
        per_user: the numbers.
        seed: of the resamples.
        resamples: how many.
        bounds: least and greatest possible number; None where nobody can say, and then equal numbers stay without a width.

    Raises:
        ValueError: there is no user, or a number is not finite.
    """
    values = np.asarray(per_user, dtype=np.float64)
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(f"an interval needs finite numbers; {int(np.sum(~np.isfinite(values)))} of {values.size} are not")
    if bounds is not None and is_unvaried(values):
        return Interval(float(values[0]), *unvaried_ends(float(values[0]), len(values), bounds), len(values))
    drawn = over_resamples(np.random.default_rng(seed), len(values), resamples, lambda picked: values[picked].mean(axis=1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def over_resamples(rng: np.random.Generator, count: int, resamples: int, figure: Callable[[NDArray[np.int64]], Array]) -> Array:
    """Returns a figure of every resample, `[resamples, ...]`; what is drawn does not depend on how much is held at once.

    Args:
        rng: draws.
        count: how many there are to draw from, and are drawn for each resample.
        resamples: how many.
        figure: of some resamples, `[R, count]` indices -> `[R, ...]`.
    """
    rows = max(1, AT_ONCE // count)
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([figure(rng.integers(0, count, size=(size, count))) for size in sizes])
