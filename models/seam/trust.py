"""How far a user's own evidence is trusted: never much worse off than a stranger (SCIENCE §0, "never hurt").

Every comparison is predicted before it is learned, by the family with the user's evidence and by the family as it sees
anybody. Both log-losses are summed beside the evidence, and what is read of a user is a mixture of both views:

    w = 1 / (1 + exp(L_personal - L_anybody - b))        w personal + (1 - w) anybody

With probabilities mixed so, the summed log-loss is at most `L_anybody + ln(1 + e^b)` and at most `L_personal + ln(1 + e^-b)`,
whatever a user does (Cesa-Bianchi and Lugosi 2006, section 3.3), up to the clipping of single losses. `b` is the prior
log-odds, chosen on validation people; minus infinity where there were too few people to learn how people differ.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ALWAYS, NEVER = math.inf, -math.inf
"""Trust of a family whose evidence is read as it is, and of one that takes nobody for anything but a stranger."""

LOSSES = 2
"""Doubles in the sum for each family that learns: losses of the personal and of anybody's prediction."""

MOST_LOSS = 4.0
"""Nats that one comparison can cost either view: a slip of the finger is no verdict."""


def losses(personal: float, anybody: float, *, tie: bool) -> Array:
    """Returns what one comparison adds to both sums, `[2]` nats: log-loss less that of a coin, so that equal texts add nothing.

    Args:
        personal: probability of the choice that was made, as the user's evidence gave it.
        anybody: the same, as it is given for anybody.
        tie: the user could not tell; the loss is then the mean over both orders.
    """
    return np.array([_excess(personal, tie=tie), _excess(anybody, tie=tie)])


def share(summed: Array, trust: float) -> float:
    """Returns `w` for the two sums `[2]` and the prior log-odds `trust`."""
    if math.isinf(trust):
        return 1.0 if trust > 0 else 0.0
    against = float(summed[0] - summed[1]) - trust
    # exp of a number that is not positive cannot overflow.
    small = math.exp(-abs(against))
    return (small if against > 0 else 1.0) / (1.0 + small)


def _excess(probability: float, *, tie: bool) -> float:
    def loss(one: float) -> float:
        return min(MOST_LOSS, -math.log(one)) if one > 0 else MOST_LOSS

    found = 0.5 * (loss(probability) + loss(1.0 - probability)) if tie else loss(probability)
    return found - math.log(2.0)
