"""Bayesian logistic regression whose evidence adds up exactly: a user is a Gaussian over taste axes, and so is a comparison.

    logit = b + z . u,   u ~ N(0, I),   b what everybody thinks of the pair, z its difference along the taste axes

The logistic is replaced by Jaakkola and Jordan's quadratic lower bound (2000, "Bayesian parameter estimation via
variational methods"), `log sigma(a) >= log sigma(xi) + (a - xi)/2 - lambda(xi) (a^2 - xi^2)`. The usual fit of `xi` reads
the posterior; here `xi^2 = b^2 + |z|^2`, the expected square of the logit under the prior (reconstruction), so that the
natural parameters of one comparison depend on that comparison alone and a user is their sum. The mean of such a bound is shorter than
that of the posterior, the more so the more is told; what a choice votes with is therefore multiplied by a number that training finds.
Axis letters: `N` candidates, `D` axes, `E = D (D + 3) / 2` evidence, `K = 2 D + 1` heads, `S` samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.evidence import HALF_ROUNDING, MAX_EVIDENCE
from attune.models.seam.family import Row, Scored, mixed_scores, reward_difference
from attune.models.seam.family_format import Format, Stored, Written
from attune.models.seam.gaussian import attenuated_probability
from attune.models.seam.reward_heads import RewardHeads

Array = NDArray[np.float64]

NAME = "additive"

LONGEST = 2.0 * MAX_EVIDENCE
"""Length of `z` in logits up to which no entry of `Lambda` is above `MAX_EVIDENCE`: `c |z|^2 <= |z| / 2`."""


@dataclass(frozen=True, slots=True)
class Additive(RewardHeads):
    """A linear taste as a point of the simplex: everybody's head, and two heads for each axis, one at either end of it.

    With `c` the reach, the heads are `r_0` and `r_0 +- c z_j / a`, so that weights `max(+-u_j, 0) / c` on the ends and the
    rest on `r_0` score exactly `r_0 + u . z / a`. Positions with `|u|_1` beyond the reach are shortened to it.

    Attributes:
        heads: everybody's, then the upper ends of all axes, then the lower ends.
        reach: `c`, standard deviations of the population.
        vote: what a choice votes with, as a multiple of what the bound says.
    """

    reach: float
    vote: float = 1.0

    def __post_init__(self) -> None:
        if len(self.heads) < 3 or len(self.heads) % 2 == 0 or len(set(self.heads)) != len(self.heads):
            raise ValueError(f"heads must be one and two for each axis, with names of their own; they are {list(self.heads)}")
        for name, value in (("logit_scale", self.logit_scale), ("reach", self.reach), ("vote", self.vote)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be finite and above 0")

    @property
    def axes(self) -> int:
        """`D`."""
        return len(self.heads) // 2

    def leading_heads(self, axes: int) -> tuple[int, ...]:
        """Returns the indices of everybody's head and of both ends of the first axes, which explain most of how people differ."""
        return (0, *range(1, 1 + axes), *range(1 + self.axes, 1 + self.axes + axes))

    @property
    def evidence_size(self) -> int:
        return evidence_size(self.axes)

    def weights(self, evidence: Array, prompt: Row | None) -> Array:  # noqa: ARG002 - a user's taste does not see the prompt
        return self._simplex(additive_posterior(evidence, self.axes)[0])

    def score(self, evidence: Array, rewards: Array, prompt: Row | None) -> Scored:  # noqa: ARG002 - as for weights
        mean, covariance = additive_posterior(evidence, self.axes)
        weights = self._simplex(mean)
        variance = variance_along(self.along_axes(rewards) / self.logit_scale, covariance)
        return Scored(mixed_scores(rewards, weights), np.sqrt(variance), weights, rewards)

    def chances(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> Array:
        return attenuated_probability(*self.logit(evidence, chosen, rejected, prompt))

    def logit(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> tuple[Array, Array]:  # noqa: ARG002 - as for weights
        difference = self._difference(chosen, rejected)
        mean, covariance = additive_posterior(evidence, self.axes)
        margin = self.logit_scale * mixed_scores(difference, self._simplex(mean))
        return margin, variance_along(self.along_axes(difference), covariance)

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool) -> Array:  # noqa: ARG002 - as for weights
        difference = self._difference(chosen, rejected)
        return bound_evidence(self.logit_scale * float(difference[0]), self.along_axes(difference), tie=tie, vote=self.vote)

    def sample_weights(self, evidence: Array, prompt: Row | None, rng: np.random.Generator, samples: int) -> Array:  # noqa: ARG002
        mean, covariance = additive_posterior(evidence, self.axes)
        draws = mean + rng.standard_normal((samples, self.axes)) @ np.linalg.cholesky(covariance).T
        return self._simplex(draws)

    def posterior(self, evidence: Array) -> tuple[Array, Array] | None:
        mean, covariance = additive_posterior(evidence, self.axes)
        return mean, np.sqrt(np.diagonal(covariance))

    def _difference(self, chosen: Row, rejected: Row) -> Array:
        name = f"{self.name}_rewards"
        difference = reward_difference(name, chosen, rejected)
        if difference.shape[-1:] != (len(self.heads),):
            raise ValueError(f"rows of {name!r} are {difference.shape}; ({len(self.heads)},) was expected")
        return difference

    def along_axes(self, rewards: Array) -> Array:
        """Returns `z` `[..., D]` of rewards, or of differences of rewards, `[..., K]`."""
        axes: Array = (0.5 * self.logit_scale / self.reach) * (rewards[..., 1 : 1 + self.axes] - rewards[..., 1 + self.axes :])
        return axes

    def _simplex(self, positions: Array) -> Array:
        """Returns the weights `[..., K]` of positions `[..., D]`."""
        length = np.add.reduce(np.abs(positions), axis=-1, keepdims=True)
        shares = positions / np.maximum(self.reach, length)
        rest = np.maximum(0.0, 1.0 - length / self.reach)
        return np.concatenate([rest, np.maximum(shares, 0.0), np.maximum(-shares, 0.0)], axis=-1)


def curvature(xi: Array) -> Array:
    """Returns `2 lambda(xi) = tanh(xi / 2) / (2 xi)` of any shape: 1/4 at 0, falling as `1 / (2 xi)`; `xi` is not negative."""
    small = np.maximum(xi, 1e-6)
    found: Array = np.tanh(0.5 * small) / (2.0 * small)
    return found


def bound_evidence(common: float, axes: Array, *, tie: bool = False, vote: float = 1.0) -> Array:
    """Returns what one comparison adds to a user, `[E]`: `D` of precision times mean, then the precision's upper triangle.

    With `c = 2 lambda(xi)` and `v` the vote: `eta = (v/2 - c b) z` and `Lambda = c z z^T`. A tie is the mean of both orders: the halves
    cancel, `eta = -c b z`, so a user who cannot tell is drawn towards no preference and not towards everybody's. A `z` beyond
    `LONGEST` is shortened to it: precision clipped entry by entry, as evidence is, would be no precision.

    Args:
        common: `b`, logit of the pair for an average user.
        axes: `z` `[D]`, difference of chosen and rejected along the axes, logits per standard deviation of users.
        tie: the user could not tell.
        vote: `v`, 1 where the bound is taken as it is.
    """
    square = float(axes @ axes)
    if square > LONGEST * LONGEST:
        axes, square = axes * (LONGEST / math.sqrt(square)), LONGEST * LONGEST
    slope = float(curvature(np.sqrt(common * common + square)))
    pull = (0.0 if tie else 0.5 * vote) - slope * common
    rows, columns = triangle(len(axes))
    return np.concatenate([pull * axes, (slope * axes)[rows] * axes[columns]])


def additive_posterior(evidence: Array, size: int) -> tuple[Array, Array]:
    """Returns mean `[..., D]` and covariance `[..., D, D]` of a user's position: the prior N(0, I) and the sum of evidence `[..., E]`.

    Evidence is rounded entry by entry, and a matrix of rank one that was is none: thousands of equal comparisons would add up to less than
    nothing along axes of which they say nothing. What is negative there is read as nothing, which is nearer to what was told (a
    projection on the cone that the sum came from), so that nobody is less known than a stranger. Taking a comparison back that was never
    added could leave more than that below nothing; such a sum is refused.

    Raises:
        ValueError: the precision of the sum is not positive definite, by more than rounding explains.
    """
    return _posterior(evidence.tobytes(), evidence.shape, size)


@lru_cache(maxsize=64)  # one request asks for the same user several times, and every request for somebody unknown
def _posterior(packed: bytes, shape: tuple[int, ...], size: int) -> tuple[Array, Array]:
    evidence = np.frombuffer(packed).reshape(shape)
    precision = evidence.take(_square(size), axis=-1)
    told, vectors = np.linalg.eigh(precision)  # in rising order
    least = -1.0 - HALF_ROUNDING * np.trace(precision, axis1=-2, axis2=-1)
    if not (told[..., 0] > least).all():  # NaN too
        raise ValueError(f"evidence of {size} axes adds up to no Gaussian: along its own axes it has precisions of {told}")
    covariance = (vectors / (1.0 + np.maximum(told, 0.0))[..., None, :]) @ np.swapaxes(vectors, -2, -1)
    mean = np.vecdot(covariance, evidence[..., None, :size])
    for shared in (mean, covariance):
        shared.flags.writeable = False
    return mean, covariance


def variance_along(axes: Array, covariance: Array) -> Array:
    """Returns `z^T S z` `[...]` of axes `[..., D]`, how far a user's logits spread along them by the covariance `[..., D, D]`."""
    # Products of vectors sum each row alone; a matrix product may round a row by who its neighbours are.
    variance: Array = np.maximum(np.vecdot(np.vecdot(axes[..., None, :], covariance), axes), 0.0)
    return variance


def evidence_size(axes: int) -> int:
    """Returns `E` for `D` axes."""
    return axes * (axes + 3) // 2


@lru_cache(maxsize=16)  # a user is read on every request
def triangle(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns row and column of every entry of an upper triangle, made once for each size."""
    rows, columns = np.triu_indices(size)
    return rows, columns


@lru_cache(maxsize=16)
def _square(size: int) -> NDArray[np.int64]:
    """Returns where in evidence `[E]` each entry of the symmetric `Lambda` stands, `[D, D]`; also made once."""
    rows, columns = triangle(size)
    places = np.zeros((size, size), dtype=np.int64)
    places[rows, columns] = places[columns, rows] = size + np.arange(len(rows))
    return places


def _write(family: Additive) -> Written:
    # Absent where the bound is taken as it is, as in files of before.
    vote = {} if family.vote == 1.0 else {"vote": float(family.vote)}
    return {"logit_scale": float(family.logit_scale), "reach": float(family.reach)} | vote, {}


def _read(stored: Stored) -> Additive:
    return Additive(stored.name, stored.heads, stored.logit_scale, float(stored.entry["reach"]), float(stored.entry.get("vote", 1.0)))


FORMAT = Format(NAME, Additive, _write, _read)
"""How `families_file` keeps it."""
