"""The smallest portfolio that keeps a promise: set cover over all users, exactly by integer programming, and greedily as a check.

A user `w` is covered by a policy with `w · v - q >= (1 - epsilon) U(w) - delta`. There are infinitely many users; those that matter
are found one after the other: the cheapest cover of the users so far is proved or refuted at its own worst corner, and a corner that
refutes it becomes one user more. The last cover is proved for everybody, and no smaller one covers even the users found.
Axis letters: `M` policies, `T` users found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from attune.models.portfolio.geometry import UpperBound
from attune.models.portfolio.oracles import ROUNDING, Solution
from attune.models.portfolio.search import Proof, prove, upper_bound

Array = NDArray[np.float64]
Covers = NDArray[np.bool_]

MOST_USERS = 2_000
LIMIT_S = 60.0


class NotCovered(ValueError):
    """No choice of policies keeps the promise; the message says by how much the best of them all misses it."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """The smallest portfolio.

    Attributes:
        chosen: indices of the solutions that are kept, ascending.
        proof: what is proved of them.
        greedy: size of the greedy cover of the same users; never smaller.
        exact: whether no smaller portfolio exists among these policies; False where the integer programme ran out of time.
        users: `[T, d]` weights that forced the size.
    """

    chosen: tuple[int, ...]
    proof: Proof
    greedy: int
    exact: bool
    users: Array


def prune(
    solutions: Sequence[Solution],
    epsilon: float,
    delta: float = 0.0,
    *,
    beta: float = 0.0,
    prefer: Array | None = None,
    limit_s: float = LIMIT_S,
) -> Pruned:
    """Returns the fewest solutions that are proved to serve every user within `epsilon` and `delta`.

    The upper bound is that of all solutions.

    Args:
        solutions: of a search; approximate ones among them may be members too.
        epsilon: multiplicative share that may be lost.
        delta: additive share.
        beta: price of KL.
        prefer: `[M]` in [0, 1], decides between covers of one size: the greater sum is taken; mean values if None.
        limit_s: for each integer programme; one that runs out gives the best cover that it found, and `exact` is False.

    Raises:
        NotCovered: not even all solutions together keep the promise.
    """
    everything = prove(solutions, epsilon, beta=beta)
    if everything.excess > delta + ROUNDING:
        raise NotCovered(
            f"all {len(solutions)} policies leave {everything.excess:.4g} at weights {np.round(everything.worst_weights, 4).tolist()}, "
            f"more than delta {delta:g}, with epsilon {epsilon:g}"
        )
    bound = upper_bound(solutions, beta=beta)
    users = np.eye(len(solutions[0].weights))
    prefer = np.array([solution.value.mean() for solution in solutions]) if prefer is None else prefer
    while True:
        covers = _covers(solutions, users, bound, epsilon, delta, beta)
        chosen, exact = smallest_cover(covers, prefer=prefer, limit_s=limit_s)
        proof = prove(solutions, epsilon, beta=beta, chosen=chosen)
        if proof.excess <= delta + ROUNDING or len(users) > MOST_USERS:
            break
        refuting = (1.0 - epsilon) * proof.upper - proof.corners.lower
        worst = np.argsort(-refuting)[: len(users[0])]
        users = np.concatenate([users, proof.corners.weights[worst[refuting[worst] > delta + ROUNDING]]])
    if proof.excess > delta + ROUNDING:
        raise NotCovered(f"{len(users)} users were not enough to tell which policies are needed; {proof.excess:.4g} is left")
    return Pruned(chosen, proof, len(greedy_cover(covers)), exact, users)


def prune_to(
    solutions: Sequence[Solution],
    most: int,
    epsilon: float,
    *,
    prefer: Array | None = None,
    limit_s: float = LIMIT_S,
    tolerance: float = 1e-3,
) -> Pruned:
    """Returns at most `most` solutions for the least additive `delta`, found by bisection.

    All solutions go on to bound what any policy could give: a portfolio for serving may be smaller than the search behind its proof.

    Args:
        solutions: of a search.
        most: members that can be afforded, 1 or more.
        epsilon: multiplicative share that may be lost besides.
        prefer: see `prune`.
        limit_s: for each integer programme, see there.
        tolerance: of delta; within it the preferred solutions are taken.

    Raises:
        ValueError: `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"at most {most} members; a portfolio has 1 or more")
    low = max(0.0, prove(solutions, epsilon).excess)
    found = prune(solutions, epsilon, low, prefer=prefer, limit_s=limit_s)
    if len(found.chosen) <= most:
        return found
    # Values and bounds lie in [0, 1]: with a delta of 1 any one policy will do.
    high = 1.0
    while high - low > tolerance / 2.0:
        middle = (low + high) / 2.0
        tried = prune(solutions, epsilon, middle, prefer=prefer, limit_s=limit_s)
        if len(tried.chosen) <= most:
            high = max(low, min(middle, tried.proof.excess))
        else:
            low = middle
    return prune(solutions, epsilon, high + tolerance / 2.0, prefer=prefer, limit_s=limit_s)


def smallest_cover(covers: Covers, *, prefer: Array | None = None, limit_s: float = LIMIT_S) -> tuple[tuple[int, ...], bool]:
    """Returns the fewest columns that cover every row, by integer programming (HiGHS), and whether that was proved.

    Args:
        covers: `[T, M]` whether policy `m` covers user `t`.
        prefer: `[M]` in [0, 1], decides between covers of one size: the greater sum is taken.
        limit_s: seconds for the programme; past it, the smaller of what it has and the greedy cover.

    Raises:
        NotCovered: a user is covered by none.
    """
    _expect_coverable(covers)
    members = covers.shape[1]
    # All preferences together weigh less than half a member.
    cost = np.ones(members) - (np.zeros(members) if prefer is None else prefer * 0.5 / members)
    found = milp(
        cost,
        constraints=LinearConstraint(covers.astype(np.float64), lb=1.0),
        integrality=np.ones(members, dtype=np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "time_limit": limit_s},
    )
    solved: Array | None = found.x  # None where the programme ran out of time before it had any cover
    covering = [greedy_cover(covers)]
    if solved is not None and np.all(covers[:, solved > 0.5].any(axis=1)):
        covering.insert(0, tuple(int(index) for index in np.flatnonzero(solved > 0.5)))
    return min(covering, key=len), bool(found.success)


def greedy_cover(covers: Covers) -> tuple[int, ...]:
    """Returns a cover made by taking the column that covers most rows left, again and again; at most `1 + ln T` times the smallest."""
    _expect_coverable(covers)
    left = np.ones(len(covers), dtype=np.bool_)
    chosen: list[int] = []
    while left.any():
        best = int(np.argmax(covers[left].sum(axis=0)))
        chosen.append(best)
        left &= ~covers[:, best]
    return tuple(sorted(chosen))


def _covers(solutions: Sequence[Solution], users: Array, bound: UpperBound, epsilon: float, delta: float, beta: float) -> Covers:
    values = np.array([solution.value - solution.half_width for solution in solutions])
    reached = users @ values.T - beta * np.array([solution.divergence for solution in solutions])
    needed = (1.0 - epsilon) * bound.over(users) - delta
    return np.asarray(reached >= needed[:, None] - ROUNDING)


def _expect_coverable(covers: Covers) -> None:
    alone = np.flatnonzero(~covers.any(axis=1))
    if len(alone):
        raise NotCovered(f"{len(alone)} of {len(covers)} users are covered by none of {covers.shape[1]} policies")
