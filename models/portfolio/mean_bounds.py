"""Bounds of a mean from a sample: which numbers the true mean of a bounded quantity can be, with a stated error on each side.

Three ways, from the safe to the large-sample one. All treat the sample as independent draws; none depends on its order.
Axis letters: `P` draws, `...` quantities that are bounded one by one.
"""

from __future__ import annotations

import math
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import t

Array = NDArray[np.float64]
Method = Literal["betting", "bernstein", "student"]

BETS = np.geomspace(0.01, 0.98, 20)
"""Shares of the capital that are bet at once, each by a player of their own; from 0.01 a sample of 10^5 is not yet too large."""

STILL = 1e-7
"""Share of itself by which a bound must grow in a step of its search for the search to go on."""

MOST_STEPS = 60
_FAR, _NEAR = 21.0, 20.0
"""How far below the sample's own mean, as logarithms, the first two claims lie."""

_CHUNK = 256
_GROUP = 8
"""Draws whose factors are multiplied before the logarithm is taken, which is what costs; eight factors of 1e12 are no overflow."""


def mean_bounds(samples: Array, lowest: float | Array, highest: float | Array, error: float, method: Method) -> tuple[Array, Array]:
    """Returns lower and upper bounds `[...]` of the mean of each quantity; each holds with probability `1 - error`.

    - `betting`: the capital of a player who bets that the mean is higher than claimed, averaged over fixed bets; a claim under which it
      reaches `1 / error` is refuted (Waudby-Smith and Ramdas 2023, section 4, with a mixture over bets in place of predictable ones).
      Valid for every size of the sample and every distribution; adapts to the variance, and allows for failures
      too rare to have been seen.
    - `bernstein`: `sqrt(2 V ln(2/e) / P) + 7 R ln(2/e) / (3 (P - 1))` (Maurer and Pontil 2009, theorem 4). Valid likewise, and wide.
    - `student`: `t_{1-e, P-1} s / sqrt(P)`. For large samples only: where what matters is rare, it is wrong more often than it says.

    Args:
        samples: `[P, ...]`, at least two draws, within `lowest` and `highest`.
        lowest: of the quantity, `[...]` or one number for all.
        highest: likewise.
        error: of each bound, one-sided.
        method: which.
    """
    low, high = (np.broadcast_to(np.asarray(end, dtype=np.float64), samples.shape[1:]) for end in (lowest, highest))
    mean = samples.mean(axis=0)
    if method == "betting":
        span = np.maximum(high - low, 1e-300)
        unit = np.clip((samples - low) / span, 0.0, 1.0).reshape(len(samples), -1)
        below = _betting(unit, error).reshape(mean.shape)
        above = 1.0 - _betting(1.0 - unit, error).reshape(mean.shape)
        return low + span * below, low + span * above
    width = _width(samples, high - low, error, method)
    return np.maximum(mean - width, low), np.minimum(mean + width, high)


def _width(samples: Array, span: Array, error: float, method: Literal["bernstein", "student"]) -> Array:
    count, variance = len(samples), samples.var(axis=0, ddof=1)
    match method:
        case "bernstein":
            log = math.log(2.0 / error)
            return np.asarray(np.sqrt(2.0 * variance * log / count) + 7.0 * span * log / (3.0 * (count - 1)))
        case "student":
            return np.asarray(t.ppf(1.0 - error, count - 1) * np.sqrt(variance / count))
        case _:
            assert_never(method)


def _betting(unit: Array, error: float) -> Array:
    """Returns the greatest mean `[N]` below which every claim is refuted, for draws `[P, N]` in [0, 1].

    Against the claim that the mean is `m`, a player who bets the share `b` of their capital has `prod_i (1 + b (x_i / m - 1))`: a fair
    game if the claim is true, so that the average over players exceeds `1 / error` with probability `error` at most (Markov).
    The capital falls as `m` grows.
    """
    return np.concatenate([_refuted(unit[:, start : start + _CHUNK], error) for start in range(0, unit.shape[1], _CHUNK)])


def _refuted(unit: Array, error: float) -> Array:
    """Returns the bounds of some quantities, from below: every claim that is returned was itself refuted.

    The logarithm of the capital falls with the logarithm of the claim and is convex in it, as `log((1 - b) + b x / m)` is and sums and
    log-sums of such are. So the line through two refuted claims crosses the axis at one that is refuted too, and steps along such
    lines (the secant method) come ever nearer without passing.
    """
    found = np.zeros(unit.shape[1])
    some = np.flatnonzero(unit.any(axis=0))  # draws that are all 0 refute nothing
    whole = np.concatenate([unit[:, some], np.full((-len(unit) % _GROUP, len(some)), np.nan)])
    groups = whole.reshape(len(whole) // _GROUP, _GROUP, len(some))
    centre, wanted = np.log(unit.mean(axis=0)[some]), math.log(len(BETS) / error)
    before, now = centre - _FAR, centre - _NEAR
    excess_before, excess = (_log_capital(groups, np.exp(claim)) - wanted for claim in (before, now))
    moving = np.flatnonzero(excess >= 0.0)
    found[some[moving]] = np.exp(now[moving])
    for _ in range(MOST_STEPS):
        if not len(moving):
            break
        slope = np.minimum((excess[moving] - excess_before[moving]) / (now[moving] - before[moving]), -1e-300)
        claim = now[moving] - excess[moving] / slope
        left = _log_capital(groups[:, :, moving], np.exp(claim)) - wanted
        refuted = left >= 0.0
        reached, claim, left = moving[refuted], claim[refuted], left[refuted]
        before[reached], excess_before[reached] = now[reached], excess[reached]
        now[reached], excess[reached] = claim, left
        found[some[reached]] = np.exp(claim)
        moving = reached[now[reached] - before[reached] > STILL]
    return found


def _log_capital(groups: Array, claim: Array) -> Array:
    """Returns the logarithm of the players' summed capital `[N]` under claims `[N]`, for draws `[G, 8, N]` in which NaN fills up."""
    # A draw that fills the last group up changes no capital.
    ratio = np.nan_to_num(groups / claim - 1.0, nan=0.0)
    return np.asarray(logsumexp(np.stack([np.log(np.prod(1.0 + bet * ratio, axis=1)).sum(axis=0) for bet in BETS]), axis=0))
