"""Few-shot curves: how well each family predicts a user's choices after n of them, with the server's own functions.

Context comparisons are learned through `Families.learn` and targets predicted through `Families.predict`, so a point of a
curve is what a user with n comparisons gets. Axis letters: `U` users, `n` counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.data.preferences import Comparisons
from models.evaluation.metrics import Interval, accuracy, bootstrap, calibration_error, negative_log_likelihood
from models.evaluation.rows import Rows
from models.seam.families import Families, Row

Array = NDArray[np.float64]

COUNTS = (0, 1, 3, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class Point:
    """One family at one number of comparisons."""

    comparisons: int
    accuracy: Interval
    nll: Interval
    ece: float


@dataclass(frozen=True, slots=True)
class FewShot:
    """Curves of all families, and what they were computed from.

    Attributes:
        curves: family -> one point per count.
        per_user: family -> `[U, n]` accuracy, for paired differences.
        users: how many had enough comparisons; `skipped` had not.
    """

    curves: Mapping[str, tuple[Point, ...]]
    per_user: Mapping[str, Array]
    users: int
    skipped: int

    def gain(self, family: str, baseline: str, count_index: int) -> Interval:
        """Returns the paired difference in accuracy to `baseline` at one count, with its interval over users."""
        return bootstrap(self.per_user[family][:, count_index] - self.per_user[baseline][:, count_index])


def few_shot(
    families: Families, rows: Rows, context: Comparisons, targets: Comparisons, *, counts: Sequence[int] = COUNTS, least_targets: int = 5
) -> FewShot:
    """Returns the curves over users who have `max(counts)` context comparisons and `least_targets` targets.

    Args:
        families: with the server's functions.
        rows: of the texts that both share.
        context: what users tell, in order; the first n are learned.
        targets: what is predicted; no comparison of it may be in `context`.
        counts: increasing numbers of context comparisons.
        least_targets: users with fewer are left out, since their accuracy is mostly chance.

    Raises:
        ValueError: no user has enough.
    """
    context_rows, target_rows = context.rows_of_users(), targets.rows_of_users()
    enough = [user for user, mine in target_rows.items() if len(mine) >= least_targets and len(context_rows.get(user, ())) >= max(counts)]
    if not enough:
        raise ValueError(f"none of {len(target_rows)} users has {max(counts)} context comparisons and {least_targets} targets")
    found: dict[str, list[list[Array]]] = {name: [] for name in families.names}
    for user in enough:
        evidence, per_count, learned = families.prior(), [], 0
        for count in counts:
            for row in context_rows[user][learned:count]:
                evidence = evidence + families.learn(*_rows(rows, context, row), tie=bool(context.tie[row]))
            learned = count
            per_count.append([families.predict(evidence, *_rows(rows, targets, row)) for row in target_rows[user]])
        for name in families.names:
            found[name].append([np.array([one[name] for one in predictions]) for predictions in per_count])
    curves, per_user = {}, {}
    for name, users in found.items():
        right = np.array([[accuracy(one) for one in user] for user in users])
        loss = np.array([[negative_log_likelihood(one) for one in user] for user in users])
        per_user[name] = right
        curves[name] = tuple(
            Point(count, bootstrap(right[:, i]), bootstrap(loss[:, i]), calibration_error(np.concatenate([user[i] for user in users])))
            for i, count in enumerate(counts)
        )
    return FewShot(curves, per_user, len(enough), len(target_rows) - len(enough))


def cut(comparisons: Comparisons, *, context: int, targets: int, seed: int) -> tuple[Comparisons, Comparisons]:
    """Returns context and targets: each user's decided comparisons in a random order, cut so that no pair is in both parts.

    Ties are left out, since no prediction of a tie is right or wrong. A pair that a user judged twice stays on one side.
    """
    rng = np.random.default_rng(seed)
    first: list[int] = []
    then: list[int] = []
    for mine in comparisons.rows_of_users().values():
        order = rng.permutation(mine[~comparisons.tie[mine]])
        told = order[:context]
        pairs = {_pair(comparisons, row) for row in told}
        first += told.tolist()
        then += [int(row) for row in order[context:] if _pair(comparisons, row) not in pairs][:targets]
    return comparisons.take(np.array(first, dtype=np.int64)), comparisons.take(np.array(then, dtype=np.int64))


def _pair(comparisons: Comparisons, row: int) -> frozenset[int]:
    return frozenset((int(comparisons.chosen[row]), int(comparisons.rejected[row])))


def _rows(rows: Rows, comparisons: Comparisons, row: int) -> tuple[Row, Row, Row]:
    return rows.candidates[comparisons.chosen[row]], rows.candidates[comparisons.rejected[row]], rows.prompts[comparisons.prompt[row]]
