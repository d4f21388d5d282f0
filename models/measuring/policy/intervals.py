"""95 % intervals of a policy's value, a chance between 0 and 1, from duels of few users whose weights may be great.

What a user said is one draw, since duels of one user are alike. Three dangers have an answer each: few users of great weight (Student's
distribution with the degrees of freedom of the *effective* users, and a jackknife over users for ratios), weights that were too rare to be
seen (an interval of inverse propensities reaches at least to the self-normalised value), and logs in which nothing varies (no interval is
narrower than what half an unseen user could change). `U` users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

Array = NDArray[np.float64]

LEAST_FREEDOM = 2.0
LEAST_USERS = 5.0
"""Effective users below which a value is not estimable: an interval of so few says next to nothing about others."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated value with the ends of its 95 % interval, clustered by user and within [0, 1].

    `users` is how many users of equal weight would say as much; if it is below `LEAST_USERS` the interval is all of [0, 1].
    """

    value: float
    low: float
    high: float
    users: float

    @property
    def estimable(self) -> bool:
        """Whether the log says anything about this policy."""
        return bool(np.isfinite(self.value)) and self.users >= LEAST_USERS


def of_mean(scores: Array, users: NDArray[np.int64]) -> Estimate:
    """Returns the mean of `scores` `[N]` with its interval; for scores that are not skewed, such as the doubly robust ones.

    A user counts as often as they compared, in the mean and so in its error: the mean is a ratio of sums over users, linearised.
    """
    sums, per_user = _by_user(scores, users)
    value = float(scores.mean())
    draws = value + (sums - value * per_user) / per_user.mean()
    return _around(value, draws, float(per_user.sum() ** 2 / np.sum(per_user**2)))


def of_ratio(gained: Array, weight: Array, users: NDArray[np.int64]) -> Estimate:
    """Returns `sum gained / sum weight` with a jackknife interval over users (self-normalised inverse propensities).

    The delta method takes the spread of few users of great weight for granted and covers up to ten points too little; the jackknife sees
    what the ratio is without each of them. Half a user of value 1/2 is added, so that equal answers of all do not look certain.
    """
    gains, _ = _by_user(gained, users)
    weights, _ = _by_user(weight, users)
    total = float(weights.sum())
    effective = total**2 / max(float(np.sum(weights**2)), 1e-300)
    if not total > 0 or len(gains) < 2:
        return Estimate(float("nan") if not total > 0 else float(gains.sum() / total), 0.0, 1.0, 0.0 if not total > 0 else effective)
    ratio = float(gains.sum() / total)
    without = (gains.sum() - gains) / np.maximum(total - weights, 1e-300)
    pseudo = len(gains) * ratio - (len(gains) - 1) * without
    return _around(ratio, pseudo, effective)


def of_skewed(gained: Array, weight: Array, users: NDArray[np.int64]) -> Estimate:
    """Returns the mean of `gained` (plain inverse propensities) with Hall's interval for skewed scores.

    Hall 1992, On the removal of skewness by transformation. A mean of weights that is not 1 shows what rare weights are missing, and
    the interval reaches at least to the value that the weights that are there would give.
    """
    sums, per_user = _by_user(gained, users)
    weights, _ = _by_user(weight, users)
    scores, value, total = sums / per_user.mean(), float(gained.mean()), float(weights.sum())
    effective = float(scores.sum()) ** 2 / max(float(np.sum(scores**2)), 1e-300)
    if len(scores) < 2 or not total > 0:
        return Estimate(value, 0.0, 1.0, effective)
    spread = float(scores.std())
    skewness = float(np.mean(((scores - scores.mean()) / spread) ** 3)) if spread > 0 else 0.0
    error = np.sqrt(spread**2 / (len(scores) - 1) + _unseen(effective) ** 2)
    quantile = float(t.ppf(0.975, max(LEAST_FREEDOM, min(_freedom(scores), effective / 2.0))))
    low = value - error * untransformed(quantile, skewness, len(scores))
    high = value - error * untransformed(-quantile, skewness, len(scores))
    normalised = float(sums.sum()) / total
    return _within(value, min(low, value, normalised), max(high, value, normalised), effective)


def _around(value: float, draws: Array, effective: float) -> Estimate:
    """Returns the interval around a value whose users' (pseudo) values are `draws` `[U]`."""
    if len(draws) < 2:
        return Estimate(value, 0.0, 1.0, effective)
    centre = (value * effective + 0.25) / (effective + 0.5)
    error = np.sqrt(float(draws.var(ddof=1)) / len(draws) + _unseen(effective) ** 2)
    quantile = float(t.ppf(0.975, max(LEAST_FREEDOM, min(_freedom(draws), effective - 1.0))))
    return _within(value, min(value, centre - quantile * error), max(value, centre + quantile * error), effective)


def _within(value: float, low: float, high: float, effective: float) -> Estimate:
    if effective < LEAST_USERS:
        return Estimate(value, 0.0, 1.0, effective)
    return Estimate(value, float(np.clip(low, 0.0, 1.0)), float(np.clip(high, 0.0, 1.0)), effective)


def _unseen(effective: float) -> float:
    """Returns the standard error that half a user, of whom nothing is known, adds."""
    return 0.5 / (effective + 1.0)


def _freedom(draws: Array) -> float:
    """Returns the degrees of freedom of a variance whose users have the kurtosis that is seen, `2 U / (kurtosis - 1)`, at most `U - 1`."""
    centred = draws - draws.mean()
    square = float(np.mean(centred**2))
    if not square > 0:
        return len(draws) - 1.0
    return min(len(draws) - 1.0, 2.0 * len(draws) / max(float(np.mean(centred**4)) / square**2 - 1.0, 1e-9))


def _by_user(values: Array, users: NDArray[np.int64]) -> tuple[Array, Array]:
    """Returns the sum of each user's values and how many there are, `[U]` each."""
    counts = np.bincount(users)
    there = counts > 0
    return np.asarray(np.bincount(users, weights=values)[there], dtype=np.float64), counts[there].astype(np.float64)


def untransformed(quantile: float, skewness: float, count: int) -> float:
    """Returns the t statistic `T` for which `T + g T^2 / (3 sqrt n) + g^2 T^3 / (27 n) + g / (6 sqrt n)` is `quantile`.

    Args:
        quantile: of Student's distribution.
        skewness: `g`, of the scores.
        count: `n`, how many scores there are.
    """
    if abs(skewness) < 1e-6:
        return quantile
    root = np.sqrt(count)
    return float(3.0 * root / skewness * (np.cbrt(1.0 + skewness * (quantile / root - skewness / (6.0 * count))) - 1.0))
