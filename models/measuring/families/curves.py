"""Few-shot curves of any learners: the same users, contexts and targets for all, and the numbers that are read off them.

`observe` runs the learners, everything else is arithmetic on what they said. Context comparisons are never scored. Axis
letters: `U` users, `n` counts, `T` a user's targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.data.progress import Steps
from attune.models.measuring.figures import (
    CONFIDENCE_BINS,
    GAIN,
    Bounds,
    Interval,
    accuracy,
    bootstrap,
    calibration_error,
    negative_log_likelihood,
    over_resamples,
)
from attune.models.training.learner import Learner, Predicted

Array = NDArray[np.float64]

NOTHING = np.zeros(0, dtype=np.int64)
"""Rows of somebody who told nothing before the first prediction."""

By = Literal["probability", "doubt", "spread"]
QUARTILES = 4
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Observed:
    """What learners said of the same users.

    Attributes:
        counts: numbers of context comparisons.
        users: names, `[U]`.
        said: learner -> one list over counts for each user.
        skipped: users who had too few comparisons.
    """

    counts: tuple[int, ...]
    users: tuple[str, ...]
    said: Mapping[str, Sequence[Sequence[Predicted]]]
    skipped: int

    def per_user(self, name: str, at: int) -> tuple[Array, Array]:
        """Returns accuracy and log-loss `[U]` of one learner at one count."""
        found = [user[at].probabilities for user in self.said[name]]
        return np.array([accuracy(one) for one in found]), np.array([negative_log_likelihood(one) for one in found])

    def probabilities(self, name: str, at: int) -> Array:
        """Returns every prediction of one learner at one count, users one after another."""
        return np.concatenate([user[at].probabilities for user in self.said[name]])


def observe(
    learners: Sequence[Learner],
    context: Comparisons,
    targets: Comparisons,
    *,
    counts: Sequence[int],
    least_targets: int = 5,
    most_users: int | None = None,
) -> Observed:
    """Returns what `learners` predict for users with `max(counts)` context comparisons and `least_targets` targets.

    Args:
        learners: with names of their own.
        context: what users tell, in order; the first n are learned.
        targets: decided comparisons to predict.
        counts: increasing.
        least_targets: users with fewer are left out, since their accuracy is mostly chance.
        most_users: the first so many who have enough; None takes all.

    Raises:
        ValueError: no user has enough, or two learners share a name, or a comparison is in context and targets.
    """
    names = [learner.name for learner in learners]
    if len(set(names)) != len(names):
        raise ValueError(f"learners' names repeat: {names}")
    told, asked = context.rows_of_users(), targets.rows_of_users()
    enough = told_enough(context, targets, max(counts), least_targets)
    if not enough:
        raise ValueError(f"none of {len(asked)} users has {max(counts)} context comparisons and {least_targets} targets")
    skipped, enough = len(asked) - len(enough), enough[:most_users]
    said: dict[str, list[list[Predicted]]] = {name: [] for name in names}
    progress = Steps("predicted the choices of {} people")
    for number, user in enumerate(enough, start=1):
        mine, theirs = context.take(told.get(user, NOTHING)), targets.take(asked[user])
        _refuse_overlap(mine, theirs, context.users[user])
        firsts = [mine.take(np.arange(count)) for count in counts]
        for learner in learners:
            said[learner.name].append([learner.predict(first, theirs) for first in firsts])
        progress(number, len(enough))
    return Observed(tuple(counts), tuple(context.users[user] for user in enough), said, skipped)


def told_enough(context: Comparisons, targets: Comparisons, most_told: int, least_targets: int) -> list[int]:
    """Returns the users, as indices, who have `most_told` comparisons in the context and `least_targets` targets."""
    told = context.rows_of_users()
    return [user for user, mine in targets.rows_of_users().items() if len(mine) >= least_targets and len(told.get(user, ())) >= most_told]


def paired_gain(parts: Sequence[Observed], name: str, baseline: str, at: int) -> Interval:
    """Returns the mean difference in accuracy to `baseline` at one count, with its interval over users.

    A user who is in several parts (seeds) is one user: their differences are averaged before users are resampled.
    """
    differences = [part.per_user(name, at)[0] - part.per_user(baseline, at)[0] for part in parts]
    return over_users(parts, differences, GAIN if name != baseline else (0.0, 0.0))


def over_users(parts: Sequence[Observed], values: Sequence[Array], bounds: Bounds | None = None) -> Interval:
    """Returns the mean of one number per user and part, within `bounds` if given, with its 95 % interval over different users."""
    of_user: dict[str, list[float]] = {}
    for part, mine in zip(parts, values, strict=True):
        for user, value in zip(part.users, mine, strict=True):
            of_user.setdefault(user, []).append(float(value))
    return bootstrap(np.array([np.mean(found) for found in of_user.values()]), bounds=bounds)


@dataclass(frozen=True, slots=True)
class Reliability:
    """Calibration at one count: bins of confidence with their mean confidence, accuracy and share of predictions; and the ECE."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    share: tuple[float, ...]
    ece: float


def reliability(parts: Sequence[Observed], name: str, at: int) -> Reliability:
    """Returns the reliability of all predictions of one learner at one count; empty bins are left out."""
    found = np.concatenate([part.probabilities(name, at) for part in parts])
    confidence, right = np.maximum(found, 1.0 - found), (found > 0.5) + 0.5 * (found == 0.5)
    bin_of = np.minimum(((confidence - 0.5) * 2.0 * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    used = [index for index in range(CONFIDENCE_BINS) if np.any(bin_of == index)]
    return Reliability(
        tuple(float(confidence[bin_of == index].mean()) for index in used),
        tuple(float(right[bin_of == index].mean()) for index in used),
        tuple(float(np.mean(bin_of == index)) for index in used),
        calibration_error(found),
    )


def accuracy_by_quartile(parts: Sequence[Observed], name: str, at: int, *, by: By) -> list[Interval] | None:
    """Returns accuracy in the quartiles of predicted uncertainty, surest first, with intervals over users.

    None if all are alike or fewer than there are quartiles.

    Args:
        parts: what was observed.
        name: of the learner.
        at: index of the count.
        by: `probability`: how near a prediction is to one half, which holds all that is uncertain. `doubt`: the spread of
            the logit over its size, `S / |M|`, how likely knowing the user better would turn the prediction round. `spread`:
            `S` alone; pairs far apart have large margins and large spreads both, so this need not fall.
    """
    users: dict[str, int] = {}
    owner, uncertain, right = [], [], []
    for part in parts:
        for user, mine in zip(part.users, part.said[name], strict=True):
            found = mine[at]
            owner += [users.setdefault(user, len(users))] * len(found.probabilities)
            uncertain.append(_uncertainty(found, by))
            right.append((found.probabilities > 0.5) + 0.5 * (found.probabilities == 0.5))
    values, hits, of_user = np.concatenate(uncertain), np.concatenate(right), np.array(owner)
    if len(values) < QUARTILES or np.ptp(values) < 1e-12:
        return None
    quartile = np.empty(len(values), dtype=np.int64)
    quartile[np.argsort(values, kind="stable")] = np.arange(len(values)) * QUARTILES // len(values)
    sums, sizes = np.zeros((len(users), QUARTILES)), np.zeros((len(users), QUARTILES))
    np.add.at(sums, (of_user, quartile), hits)
    np.add.at(sizes, (of_user, quartile), 1.0)
    drawn = over_resamples(
        np.random.default_rng(0),
        len(users),
        RESAMPLES,
        lambda picked: sums[picked].sum(axis=1) / np.maximum(1.0, sizes[picked].sum(axis=1)),
    )
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    mean = sums.sum(axis=0) / sizes.sum(axis=0)
    return [Interval(float(mean[index]), float(low[index]), float(high[index]), len(users)) for index in range(QUARTILES)]


def _uncertainty(found: Predicted, by: By) -> Array:
    if by == "probability":
        return -np.abs(found.probabilities - 0.5)
    if by == "spread":
        return found.spreads
    clipped = np.clip(found.probabilities, 1e-9, 1.0 - 1e-9)
    logits = np.abs(np.log(clipped) - np.log1p(-clipped))
    # Probabilities are attenuated by the spread (MacKay 1992): the margin before that is what the spread is held against.
    doubt: Array = found.spreads / np.maximum(logits * np.sqrt(1.0 + np.pi / 8.0 * found.spreads**2), 1e-9)
    return doubt


def effective_heads(parts: Sequence[Observed], name: str, at: int) -> tuple[float, float] | None:
    """Returns `exp(H(mean weights))` and `exp(mean H(weights))` over users: heads that all use together, and that one user does."""
    weights = [user[at].weights for part in parts for user in part.said[name]]
    known = np.array([one for one in weights if one is not None])
    if not len(known):
        return None
    mean = known.mean(axis=0)
    return float(np.exp(_entropy(mean[None])[0])), float(np.exp(_entropy(known).mean()))


def _entropy(weights: Array) -> Array:
    entropy: Array = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)
    return entropy


def _refuse_overlap(context: Comparisons, targets: Comparisons, user: str) -> None:
    told = {frozenset(pair) for pair in zip(context.chosen.tolist(), context.rejected.tolist(), strict=True)}
    both = sum(frozenset(pair) in told for pair in zip(targets.chosen.tolist(), targets.rejected.tolist(), strict=True))
    if both:
        raise ValueError(f"{both} targets of user {user!r} are pairs that their context tells: adaptation rows are never scored")
