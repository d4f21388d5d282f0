"""What the few-shot harness asks of anything that predicts a user's choices: served families and baselines alike.

A learner is told a user's first comparisons and predicts others. Served families do so by a sum of evidence (an adapter in
`attune.models.measuring` runs the server's functions); baselines may read all comparisons at once, which no sum can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.seam.hedge import sigmoid

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of one user's targets.

    Attributes:
        probabilities: `[T]` that the chosen one is preferred.
        spreads: `[T]` standard deviation of the logit by what is not known of the user; zeros where a learner has none.
        weights: `[K]` the user's weights over heads, or None for a learner without heads.
    """

    probabilities: Array
    spreads: Array
    weights: Array | None = None


class Learner(Protocol):
    """Predicts a user's choices after some of them."""

    @property
    def name(self) -> str: ...

    def predict(self, context: Comparisons, targets: Comparisons) -> Predicted:
        """Returns predictions of `targets` by a user who told `context`, which may be empty; both are of one user."""
        ...


def attenuated(margins: Array, variances: Array) -> Array:
    """Returns `sigma(M / sqrt(1 + pi S^2 / 8))` of any shape, the approximate marginal likelihood (MacKay 1992)."""
    return sigmoid(margins / np.sqrt(1.0 + np.pi / 8.0 * variances))
