"""What members are worth under each head, from everything known of them: measured beforehand, answered earlier, answered of late.

    Known (one a member) ─> worth_of ─> mean [M, K] and covariance [M, K, K]        Known ─> drift_of ─> Drift

Normal-Normal per head, empirical Bayes: a member's value is drawn around the members' mean with the spread between them, and is then
filtered through the three kinds of evidence in turn. Between two kinds the value may have moved (another model behind the name, other
prompts): it is given a random step whose variance is what the new evidence is off by beyond two standard errors, so evidence that no
longer fits gives way to what is newer and evidence that fits is pooled. `M` members, `K` heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.member_evidence import ObservedRewards

Array = NDArray[np.float64]

LEAST_SPREAD = 1.0
"""Least standard deviation between members that the prior has; rewards are standardised, and a few members tell little of the next."""

UNIT_ANSWERS = 4.0
"""Answers of unit variance that the estimate of the variance within a member begins with."""

FITS = 2.0
"""Standard errors by which new evidence may be off before a value is taken to have moved."""

LEAST_ANSWERS = 30.0
"""Answers on either side without which nothing is said of drift."""


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of one member under one family.

    Attributes:
        measured: `[K]` mean and `[K]` standard error of a measurement made beforehand; None where there was none.
        earlier: its answers, without the latest.
        recent: its latest answers, some hundreds at most.
        before: those of `earlier` that drift is measured against; none is all of them.
    """

    measured: tuple[Array, Array] | None
    earlier: ObservedRewards
    recent: ObservedRewards
    before: ObservedRewards | None = None

    @property
    def answers(self) -> float:
        return self.earlier.count + self.recent.count


@dataclass(frozen=True, slots=True)
class Worth:
    """Gaussians over the members' values: `mean` `[M, K]`, `covariance` `[M, K, K]`."""

    mean: Array
    covariance: Array

    @property
    def std(self) -> Array:
        """`[M, K]`."""
        found: Array = np.sqrt(np.maximum(np.diagonal(self.covariance, axis1=1, axis2=2), 0.0))
        return found


@dataclass(frozen=True, slots=True)
class Drift:
    """By how much a member's latest answers differ from earlier ones.

    Attributes:
        errors: the greatest difference over the heads, in standard errors; at least 0.
        head: index of the head under which it is greatest.
    """

    errors: float
    head: int


def worth_of(members: Sequence[Known]) -> Worth:
    """Returns what the members are worth; of whom nothing is known, the prior: the others' mean, and the spread between them.

    Args:
        members: all of a portfolio, in its order; the prior is estimated from them.
    """
    heads = len(members[0].earlier.total) if members else 0
    within = within_covariance(members, heads)
    centre, spread = _prior(members, np.diagonal(within), heads)
    means, covariances = np.zeros((len(members), heads)), np.zeros((len(members), heads, heads))
    for index, member in enumerate(members):
        mean, covariance = centre, np.diag(spread**2)
        if member.measured is not None:
            mean, covariance = _filtered(mean, covariance, member.measured[0], np.diag(member.measured[1] ** 2))
        for observed in (member.earlier, member.recent):
            if observed.count > 0:
                mean, covariance = _filtered(mean, covariance, observed.mean, within / observed.count)
        means[index], covariances[index] = mean, covariance
    return Worth(means, covariances)


def within_covariance(members: Sequence[Known], heads: int) -> Array:
    """Returns the covariance of rewards of one member's answers, `[K, K]`, pooled over members and over earlier and recent answers."""
    groups = [observed for member in members for observed in (member.earlier, member.recent) if observed.count > 1]
    scatter = sum((group.scatter() for group in groups), start=UNIT_ANSWERS * np.eye(heads))
    pooled: Array = scatter / (UNIT_ANSWERS + sum(group.count - 1.0 for group in groups))
    return pooled


def drift_of(member: Known, within: Array) -> Drift | None:
    """Returns the drift of a member; None where fewer than `LEAST_ANSWERS` stand on either side.

    Args:
        member: whose.
        within: `[K, K]`, see `within_covariance`.
    """
    before = member.earlier if member.before is None else member.before
    if min(before.count, member.recent.count) < LEAST_ANSWERS:
        return None
    errors = np.sqrt(np.diagonal(within) * (1.0 / before.count + 1.0 / member.recent.count))
    apart = np.abs(member.recent.mean - before.mean) / errors
    return Drift(float(apart.max()), int(apart.argmax()))


def _prior(members: Sequence[Known], within: Array, heads: int) -> tuple[Array, Array]:
    """Returns mean and spread `[K]` of the members of whom something is known (method of moments); 0 and the least spread of none."""
    seen = [_pooled(member, within) for member in members if member.measured is not None or member.answers > 0]
    if not seen:
        return np.zeros(heads), np.full(heads, LEAST_SPREAD)
    means, variances = np.array([mean for mean, _ in seen]), np.array([variance for _, variance in seen])
    between = means.var(axis=0, ddof=1) - variances.mean(axis=0) if len(seen) > 1 else np.zeros(heads)
    # Members with hardly an answer say little of the mean: weighted by how sure they are beside the spread between members.
    spread = np.sqrt(np.maximum(between, LEAST_SPREAD**2))
    weights = 1.0 / (spread**2 + variances)
    return (weights * means).sum(axis=0) / weights.sum(axis=0), spread


def _pooled(member: Known, within: Array) -> tuple[Array, Array]:
    """Returns the mean and its variance `[K]` of everything known of a member."""
    observed = member.earlier + member.recent
    if member.measured is None:
        return observed.mean, within / observed.count
    precision = 1.0 / np.maximum(member.measured[1] ** 2, _LEAST_VARIANCE)
    both = precision + observed.count / within
    return (precision * member.measured[0] + observed.total / within) / both, 1.0 / both


def _filtered(mean: Array, covariance: Array, seen: Array, noise: Array) -> tuple[Array, Array]:
    """Returns the Gaussian after a step to what was seen, and after seeing it (Kalman 1960)."""
    expected = np.diagonal(covariance) + np.diagonal(noise)
    stepped = covariance + np.diag(np.maximum(0.0, (seen - mean) ** 2 - FITS**2 * expected))
    gain = np.linalg.solve(stepped + noise + _LEAST_VARIANCE * np.eye(len(mean)), stepped).T
    after = stepped - gain @ stepped
    return mean + gain @ (seen - mean), 0.5 * (after + after.T)


_LEAST_VARIANCE = 1e-9
