"""Few-shot curves: how well each family predicts a user's choices after n of them, with the server's own functions.

Context comparisons are learned through `Families.learn` and targets predicted through `Families.predict`, so a point of a
curve is what a user with n comparisons gets. Axis letters: `U` users, `n` counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.measuring.families.curves import observe
from attune.models.measuring.families.learners import ServedLearner
from attune.models.measuring.figures import ACCURACY, GAIN, LOG_LOSS, Interval, bootstrap, calibration_error
from attune.models.measuring.rows import Rows
from attune.models.seam.families import Families

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
        differences = self.per_user[family][:, count_index] - self.per_user[baseline][:, count_index]
        return bootstrap(differences, bounds=GAIN if family != baseline else (0.0, 0.0))


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
    learners = [ServedLearner(families[name], rows, families.trust[name]) for name in families.names]
    observed = observe(learners, context, targets, counts=counts, least_targets=least_targets)
    curves, per_user = {}, {}
    for name in families.names:
        of_user = [observed.per_user(name, at) for at in range(len(counts))]
        per_user[name] = np.column_stack([right for right, _ in of_user])
        curves[name] = tuple(
            Point(
                count,
                bootstrap(right, bounds=ACCURACY),
                bootstrap(loss, bounds=LOG_LOSS),
                calibration_error(observed.probabilities(name, at)),
            )
            for at, (count, (right, loss)) in enumerate(zip(counts, of_user, strict=True))
        )
    return FewShot(curves, per_user, len(observed.users), observed.skipped)


def cut(comparisons: Comparisons, *, context: int, targets: int, seed: int, texts_apart: bool = False) -> tuple[Comparisons, Comparisons]:
    """Returns context and targets: each user's decided comparisons in a random order, cut so that no pair is in both parts.

    Ties are left out, since no prediction of a tie is right or wrong. A pair that a user judged twice stays on one side.

    Args:
        comparisons: of users with enough of them.
        context: most comparisons that a user tells.
        targets: most that are predicted.
        seed: of the order.
        texts_apart: no text of a user's context is in their targets: three fifths of the texts they compared are for the
            context, the others for the targets, and comparisons across are left out. Otherwise a text that was told better
            than one may be predicted to be better than another, which helps nobody with a new text.
    """
    rng = np.random.default_rng(seed)
    first: list[int] = []
    then: list[int] = []
    for mine in comparisons.rows_of_users().values():
        order = rng.permutation(mine[~comparisons.tie[mine]])
        if texts_apart:
            texts = rng.permutation(np.unique(np.concatenate([comparisons.chosen[order], comparisons.rejected[order]])))
            told = texts[: len(texts) * 3 // 5]
            sides = np.isin(comparisons.chosen[order], told).astype(int) + np.isin(comparisons.rejected[order], told)
            first += order[sides == 2][:context].tolist()
            then += order[sides == 0][:targets].tolist()
            continue
        told = order[:context]
        pairs = {_pair(comparisons, row) for row in told}
        first += told.tolist()
        then += [int(row) for row in order[context:] if _pair(comparisons, row) not in pairs][:targets]
    return comparisons.take(np.array(first, dtype=np.int64)), comparisons.take(np.array(then, dtype=np.int64))


def _pair(comparisons: Comparisons, row: int) -> frozenset[int]:
    return frozenset((int(comparisons.chosen[row]), int(comparisons.rejected[row])))
