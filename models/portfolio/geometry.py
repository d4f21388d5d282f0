"""The two bounds of a portfolio over the simplex of weights, and the corners at which the distance between them is greatest.

    lower  L(w) = max_j  w · v_j - q_j                                         what the policies at hand give
    upper  U(w) = max { w · v - q : w_j · v - q <= o_j, 0 <= v, q <= 1 }       what no policy can exceed

`q = beta KL` is 0 for every policy without KL. Both are convex in `w`. Where one policy is the best of those at hand, L is linear and
`(1 - epsilon) U - L` convex, and `U / L` quasi-convex, so both are greatest at the corners of these cells: the vertices of L's
epigraph over the simplex (optimistic linear support, Roijers et al. 2015). Axis letters: `d` rewards, `M` policies, `J` asked
weights, `C` corners, `V` vertices.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.spatial import HalfspaceIntersection, QhullError

Array = NDArray[np.float64]

SAME = 1e-9
"""Distance below which two points are one."""

RELAXED = 1e-7
"""How far a polytope without interior is opened, so that it has one; an upper bound may only grow by it."""


class TooManyVertices(ValueError):
    """The polytope of the upper bound has more vertices than allowed; fewer constraints give a looser, valid bound."""


@dataclass(frozen=True, slots=True)
class Corners:
    """Corners of the lower bound.

    Attributes:
        weights: `[C, d]`.
        lower: `[C]` value of L.
        best: `[C, M]` whether the policy is best at the corner, up to rounding.
    """

    weights: Array
    lower: Array
    best: NDArray[np.bool_]


def lower_corners(values: Array, penalties: Array | None = None) -> Corners:
    """Returns the vertices of the epigraph of `L(w) = max_j w · values_j - penalties_j` over the simplex; the simplex's own are among them.

    Args:
        values: `[M, d]`, `d` at least 2.
        penalties: `[M]`, `beta KL` of each policy; 0 if None.
    """
    members, dimensions = values.shape
    penalties = np.zeros(members) if penalties is None else penalties
    # Coordinates (w_1 .. w_{d-1}, t); w_d is what is missing to 1. Rows are a · x + b <= 0.
    lines = np.unique(np.round(np.column_stack([values[:, :-1] - values[:, -1:], values[:, -1] - penalties]), 12), axis=0)
    above = np.column_stack([lines[:, :-1], -np.ones(len(lines)), lines[:, -1]])
    inside = np.concatenate([-np.eye(dimensions - 1), np.ones((1, dimensions - 1))])
    simplex = np.column_stack([inside, np.zeros(dimensions), [0.0] * (dimensions - 1) + [-1.0]])
    top = float(np.max(np.abs(lines))) * dimensions + 1.0
    roof = np.array([[*[0.0] * (dimensions - 1), 1.0, -2.0 * top]])
    centre = np.array([*[1.0 / dimensions] * (dimensions - 1), 1.5 * top])
    found = _intersections(np.concatenate([above, simplex, roof]), centre)
    found = found[found[:, -1] < 1.25 * top]
    weights = np.column_stack([found[:, :-1], 1.0 - found[:, :-1].sum(axis=1)]).clip(0.0, 1.0)
    weights = np.unique(np.round(weights / weights.sum(axis=1, keepdims=True), 12), axis=0)
    weights /= weights.sum(axis=1, keepdims=True)
    heights = weights @ values.T - penalties
    lower = heights.max(axis=1)
    return Corners(weights, lower, heights >= lower[:, None] - SAME)


@dataclass(frozen=True, slots=True)
class UpperBound:
    """The polytope in which every policy's value lies, as far as the oracle has told.

    Attributes:
        asked: `[J, d]` weights at which the optimum is bounded.
        optima: `[J]` those bounds.
        regularised: whether the objective has a penalty `q`.
    """

    asked: Array
    optima: Array
    regularised: bool = False

    def at(self, weights: Array) -> tuple[float, Array]:
        """Returns `U(w)` and the multipliers `[J]` that prove it, by linear programming (HiGHS).

        With multipliers `y >= 0`, `U(w) <= y · optima + sum_i max(0, w_i - (y · asked)_i)` whatever they are (weak duality).

        Raises:
            ArithmeticError: the programme has no solution: a bound is below what a policy has.
        """
        found = linprog(-self._extend(weights[None])[0], A_ub=self._rows(), b_ub=self.optima, bounds=(0.0, 1.0), method="highs")
        if found.status != 0 or found.fun is None:
            raise ArithmeticError(f"the upper bound at {weights} has no solution over {len(self.optima)} constraints: {found.message}")
        return -float(found.fun), np.maximum(-np.asarray(found.ineqlin.marginals), 0.0)

    def vertices(self, limit: int) -> Array:
        """Returns the polytope's vertices `[V, d]`, or `[V, d + 1]` with `q` last, that are greatest for some `w >= 0`.

        Raises:
            TooManyVertices: there are more than `limit`.
        """
        found = self._points(limit)
        kept = _undominated(found, penalised=self.regularised)
        if len(kept) > limit:
            raise TooManyVertices(f"the upper bound over {found.shape[1]} dimensions has {len(kept)} vertices, more than {limit}")
        return kept

    def _points(self, limit: int) -> Array:
        """Returns all vertices; more than `limit` times ten are not even sorted out."""
        rows, size = self._rows(), self.asked.shape[1] + int(self.regularised)
        box = np.concatenate([np.column_stack([-np.eye(size), np.zeros(size)]), np.column_stack([np.eye(size), -np.ones(size)])])
        halfspaces = np.concatenate([np.column_stack([rows, -self.optima]), box]) if len(rows) else box
        centre, radius = _chebyshev(halfspaces)
        if radius < RELAXED:
            halfspaces[:, -1] -= 2.0 * RELAXED
            centre, radius = _chebyshev(halfspaces)
        found = np.unique(np.round(_intersections(halfspaces, centre), 12), axis=0).clip(0.0, 1.0 + RELAXED)
        if len(found) > 10 * limit:
            raise TooManyVertices(f"the upper bound over {size} dimensions has {len(found)} vertices, more than ten times {limit}")
        return found

    def over(self, weights: Array, limit: int = 20_000) -> Array:
        """Returns `U` at each of `weights` `[C, d]`: over the vertices where there are few enough, by linear programmes otherwise."""
        try:
            greatest: Array = (self._extend(weights) @ self._points(limit).T).max(axis=1)
        except TooManyVertices:
            return np.array([self.at(one)[0] for one in weights])
        return greatest

    def _extend(self, weights: Array) -> Array:
        return np.column_stack([weights, -np.ones(len(weights))]) if self.regularised else weights

    def _rows(self) -> Array:
        return self._extend(self.asked)


def vertices_within(bound: UpperBound, limit: int) -> Array:
    """Returns the vertices `[V, d]` of a polytope that holds `bound`'s, at most `limit` of them.

    Constraints are left out from the last until the count fits: each constraint left out makes the bound looser, never wrong. The
    first ones come from the start of the search, where they matter most.

    Raises:
        ValueError: the objective has a penalty, of which the vertices would need to know.
    """
    if bound.regularised:
        raise ValueError("a certificate online speaks of rewards alone; with beta above 0 there is none")
    for kept in range(len(bound.optima), -1, -1):
        try:
            return UpperBound(bound.asked[:kept], bound.optima[:kept]).vertices(limit)
        except TooManyVertices:
            continue
    raise AssertionError("a box has one undominated vertex")


def _chebyshev(halfspaces: Array) -> tuple[Array, float]:
    norms = np.linalg.norm(halfspaces[:, :-1], axis=1, keepdims=True)
    size = halfspaces.shape[1] - 1
    found = linprog(
        [0.0] * size + [-1.0],
        A_ub=np.column_stack([halfspaces[:, :-1], norms]),
        b_ub=-halfspaces[:, -1],
        bounds=[(None, None)] * size + [(0.0, None)],
        method="highs",
    )
    if found.status != 0 or found.x is None:
        return np.zeros(size), 0.0
    return np.asarray(found.x[:-1]), float(found.x[-1])


def _intersections(halfspaces: Array, interior: Array) -> Array:
    try:
        found = HalfspaceIntersection(halfspaces, interior).intersections
    except QhullError:
        # Nearly coplanar halfspaces: joggled by about 1e-11, which is below what counts as the same point here.
        found = HalfspaceIntersection(halfspaces, interior, qhull_options="QJ").intersections
    return np.asarray(found[np.all(np.isfinite(found), axis=1)])


def _undominated(points: Array, *, penalised: bool) -> Array:
    signed = points * np.array([1.0] * (points.shape[1] - 1) + [-1.0 if penalised else 1.0])
    order = np.argsort(-signed.sum(axis=1), kind="stable")
    kept: list[int] = []
    for index in order:
        if not kept or not np.any(np.all(signed[kept] >= signed[index] - 1e-12, axis=1)):
            kept.append(int(index))
    return points[kept]


def simplex_lattice(dimensions: int, steps: int) -> Array:
    """Returns all weights whose entries are multiples of `1 / steps`, `[binomial(steps + d - 1, d - 1), d]`."""
    cuts = itertools.combinations(range(steps + dimensions - 1), dimensions - 1)
    bars = np.array([(-1, *cut, steps + dimensions - 1) for cut in cuts])
    return (np.diff(bars, axis=1) - 1) / steps
