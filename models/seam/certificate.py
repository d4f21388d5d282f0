"""The certificate of a portfolio: for every user, how much of the best possible reward its best member is proved to give.

    a family's weights [K] ─ weight map [K, d] ─> PALM weights [d] ─> L(w) / U(w) = certified ratio

Rewards are normalised to [0, 1] by a frozen affine map per reward, `r = (s - offset) / scale`. What was found offline, with the
stated confidence: lower bounds of the members' values, and the polytope in which the values of every policy lie, as its vertices.
`M` members, `K` heads of the family, `d` rewards, `V` vertices. This module proves nothing; `models/portfolio` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.arrays import expect_finite, expect_shape

Array = NDArray[np.float64]

OUTSIDE = 0.05
"""Share of negative weight, after the weight map, up to which it counts as an estimate's noise and is read as 0: users of `attributes`
have posterior means that lie a little below 0 where they do not care. The certificate then speaks of the nearest user it knows."""

LEAST_STOOD_FOR = 0.5
"""Share of a user's taste along the rewards below which a certificate does not speak of the user; see `Certificate.stands_for`."""

_VECTORS = ("offset", "scale", "worst_weights")
_MATRICES = ("weight_map", "lower", "upper", "vertices")
_SIZED = _VECTORS + _MATRICES
_NUMBERS = ("epsilon", "delta", "confidence", "worst_ratio", "gap")


class Proved(NamedTuple):
    """What is proved of the portfolio for one user.

    Attributes:
        ratio: share of the best possible normalised reward that the best member gives at least, in [0, 1]: the greater of
            `L(w) / U(w)` and the worst ratio over all users, which may have been proved by tighter (paired) bounds.
        lower, upper: `L(w)` and `U(w)`, see `Certificate.bounds`.
    """

    ratio: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was proved: `L(w) >= (1 - epsilon) U(w) - delta` for every `w` on the simplex, with probability `confidence`.

    Attributes:
        family: the family whose heads the rewards are.
        rewards: names of the `d` rewards.
        offset, scale: `[d]` of the normalisation; `scale` is above 0.
        weight_map: `[K, d]`; a user with weights `w` over the family's heads has PALM weights proportional to `w @ weight_map`.
            Where the rewards are the heads themselves it is `diag(scale)`, since `w · s = w · offset + (w * scale) · r`
            and the first term is the same for every member.
        epsilon, delta: multiplicative and additive share that may be lost.
        confidence: probability that all bounds hold at once; 1 where nothing was estimated.
        worst_weights, worst_ratio: `[d]` the weights for which least is proved, and `L / U` there.
        gap: greatest `U(w) - L(w)` on the simplex, in normalised reward.
        method: how the bounds were estimated: `exact` where nothing was, `betting` or `bernstein` (hold for every sample size),
            or `student` (approximately, for large samples).
        oracle_calls: policies that were optimised to prove it.
        lower, upper: `[M, d]` confidence bounds of the members' normalised values.
        vertices: `[V, d]` of the polytope that holds the normalised values of every policy; only those that are best for some `w >= 0`.
        rest: `[K]` ranges of those heads of the family that are none of the rewards, and 0 for the others; empty where every head is one.
    """

    family: str
    rewards: tuple[str, ...]
    offset: Array
    scale: Array
    weight_map: Array
    epsilon: float
    delta: float
    confidence: float
    worst_weights: Array
    worst_ratio: float
    gap: float
    oracle_calls: int
    lower: Array
    upper: Array
    vertices: Array
    method: str = "exact"
    rest: Array = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        size = len(self.rewards)
        for name in _VECTORS:
            expect_shape(name, getattr(self, name), (size,))
        for name, array in (("weight_map", self.weight_map), ("lower", self.lower), ("vertices", self.vertices)):
            expect_shape(name, array, (len(array), size))
        expect_shape("upper", self.upper, self.lower.shape)
        if len(self.rest):
            expect_shape("rest", self.rest, (len(self.weight_map),))
        expect_finite(
            **{name: getattr(self, name) for name in _SIZED}, rest=self.rest, numbers=np.array([getattr(self, name) for name in _NUMBERS])
        )
        if len(self.vertices) == 0 or len(self.lower) == 0 or np.any(self.scale <= 0) or np.any(self.lower > self.upper):
            raise ValueError(
                f"a certificate needs vertices, members, scales above 0 and lower <= upper; {len(self.vertices)} vertices were given"
            )

    def of_members(self, chosen: Sequence[int | None]) -> Certificate | None:
        """Returns what is still proved where these members serve, by index; None stands for one of whom nothing is proved.

        Vertices bound every policy, and each member's bounds are its own: both stay. With further members nothing is lost. Without one
        that the proof was about, no single number holds for all users any more (epsilon 1, worst ratio 0); the ratio of each user
        still comes from the bounds of those that are left. None where none is left.

        Args:
            chosen: indices of the members that serve.
        """
        if all(index is None for index in chosen):
            return None
        size = len(self.rewards)
        # Normalised values lie within 0 and 1: all that is known of a member that was not measured.
        lower = np.array([np.zeros(size) if index is None else self.lower[index] for index in chosen])
        upper = np.array([np.ones(size) if index is None else self.upper[index] for index in chosen])
        if set(range(len(self.lower))) <= set(chosen):
            return replace(self, lower=lower, upper=upper)
        gap = float(np.max(self.vertices))
        return replace(self, lower=lower, upper=upper, epsilon=1.0, worst_ratio=0.0, worst_weights=np.full(size, 1.0 / size), gap=gap)

    def palm_weights(self, weights: Array) -> Array | None:
        """Returns the user's weights over the normalised rewards, `[d]` on the simplex, or None where none stand for this user.

        That is so if the weight map gives a reward negative weight, since the certificate speaks of users who want none of the rewards
        to be small; and if less than `LEAST_STOOD_FOR` of the user's taste lies along the rewards.

        Args:
            weights: `[K]` over the family's heads.

        Raises:
            ValueError: `weights` does not have `K` entries.
        """
        expect_shape("weights", weights, (len(self.weight_map),))
        # As plain numbers: of a handful of rewards a call of numpy takes longer than the sum itself.
        mapped: list[float] = (weights @ self.weight_map).tolist()
        total = sum(map(abs, mapped))
        if not total > 0 or not math.isfinite(total) or min(mapped) < -OUTSIDE * total:
            return None
        if self.stands_for(weights) < LEAST_STOOD_FOR:
            return None
        kept = [max(one, 0.0) for one in mapped]
        on_simplex: Array = np.array(kept) / sum(kept)
        return on_simplex

    def stands_for(self, weights: Array) -> float:
        """Returns the share of a user's taste that lies along the rewards, from 0 to 1: each head's weight times its range, summed.

        It is 1 where every head of the family is a reward. What lies along the other heads the certificate does not know.

        Args:
            weights: `[K]` over the family's heads.
        """
        if not len(self.rest):
            return 1.0
        along = float(np.sum(np.abs(weights @ self.weight_map)))
        total = along + float(np.sum(np.abs(weights) * self.rest))
        return along / total if total > 0 else 0.0

    def bounds(self, weights: Array) -> tuple[float, float]:
        """Returns `L(w)` and `U(w)` for PALM weights `[d]`: what the best member gives at least, what any policy could give at most.

        `U` is a linear programme over a polytope, so its value is the greatest over the vertices: exact, without a solver.
        """
        return float((self.lower @ weights).max()), float((self.vertices @ weights).max())

    def proved(self, weights: Array) -> Proved | None:
        """Returns what is proved for a user, or None where the certificate does not speak of these weights (see `palm_weights`).

        Args:
            weights: `[K]` over the family's heads, non-negative; the posterior mean for instance.
        """
        mapped = self.palm_weights(weights)
        if mapped is None:
            return None
        lower, upper = self.bounds(mapped)
        return Proved(min(1.0, max(lower / upper if upper > 0 else 1.0, self.worst_ratio, 0.0)), lower, upper)

    def summary(self) -> dict[str, Any]:
        """Returns the certificate for people, as JSON types: everything but vertices and weight map."""
        document = self.document()
        return {name: value for name, value in document.items() if name not in {"vertices", "weight_map", "rest"}} | {
            "vertices": len(self.vertices)
        }

    def document(self) -> dict[str, Any]:
        """Returns the certificate as JSON types; `read_certificate` is its inverse."""
        return {
            "family": self.family,
            "rewards": list(self.rewards),
            "method": self.method,
            "oracle_calls": self.oracle_calls,
            **{name: float(getattr(self, name)) for name in _NUMBERS},
            **{name: getattr(self, name).tolist() for name in _SIZED},
            **({"rest": self.rest.tolist()} if len(self.rest) else {}),
        }


def read_certificate(document: Mapping[str, Any]) -> Certificate:
    """Returns the certificate that `document` wrote.

    Raises:
        ValueError: a field is missing, of another type or shape, or not finite; the message names it.
    """
    try:
        arrays = {name: np.array(document[name], dtype=np.float64) for name in _SIZED}
        arrays["rest"] = np.array(document.get("rest", []), dtype=np.float64)
        numbers = {name: float(document[name]) for name in _NUMBERS}
        family, rewards, calls = str(document["family"]), tuple(map(str, document["rewards"])), int(document["oracle_calls"])
    except KeyError as error:
        raise ValueError(f"certificate has no field {error}") from error
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"certificate holds something that is no number: {error}") from error
    if any(arrays[name].ndim != 1 for name in (*_VECTORS, "rest")) or any(arrays[name].ndim != 2 for name in _MATRICES):
        raise ValueError(f"certificate has arrays of shapes { {name: array.shape for name, array in arrays.items()} }")
    fields: dict[str, Any] = {**arrays, **numbers}
    return Certificate(family=family, rewards=rewards, method=str(document.get("method", "exact")), oracle_calls=calls, **fields)
