"""Where this deployment's users sit, and where the portfolio is weakest for them.

    recent users [U, K] ─> utilities of the members ─> whom each serves best, what is lost without them
                        ─> the certificate's weights [U, d] ─> certified ratios ─> the worst decile, and the member that would help most

Of this process and of the users it routed of late (`live.recent_users`), each once; numbers in reward of the serving family, those of
`add` in the certificate's normalised reward. `U` users, `M` members, `K` heads, `d` rewards, `V` vertices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.certificate import Certificate
from attune.service.live.recent_users import RecentUser
from attune.service.live.runtime import Call
from attune.service.live.standing import Standing

EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
EQUAL = 1e-9
"""Logits by which members may differ for a user whom they serve equally well, as two do of whom nothing is known: rounding alone."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RatioBin:
    """Users whose certified ratio is at least `lower` and below `upper` (the last bin has its end too).

    Attributes:
        lower: the bin's beginning, from 0 to 1
        upper: the bin's end
        users: how many there are
    """

    lower: float
    upper: float
    users: int


@dataclass(frozen=True, slots=True)
class WorstDecile:
    """The tenth of the users for whom least is proved: their mean ratio, and their mean weights over the certificate's rewards.

    Attributes:
        users: how many there are, at least 1
        mean_ratio: mean of their certified ratios, from 0 to 1
        weights: mean of their weights over the certificate's rewards; sums to 1
    """

    users: int
    mean_ratio: float
    weights: dict[str, float]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Weights to align a further member to: of those users who could gain by one and the same policy, weighted by their gain.

    `gain` is the most that the member could bring to an average user, as far as the certificate knows; it promises nothing.

    Attributes:
        weights: over the certificate's rewards; sums to 1
        users: who could gain
        gain: at most, for an average user, in the certificate's normalised reward
    """

    weights: dict[str, float]
    users: int
    gain: float


@dataclass(frozen=True, slots=True)
class MemberCoverage:
    """The share of users whom a member serves best, and what an average user loses without it.

    Attributes:
        member: name of the member
        share: of the users, from 0 to 1; a user whom several serve equally well counts in equal parts for them
        loss_if_dropped: reward that an average user loses without it, in logits of the serving family
    """

    member: str
    share: float
    loss_if_dropped: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """The report; what needs a certificate is None, and without users empty, where there is none of the serving family.

    `certified` counts the users of whom something is proved. `drop` names the member that is missed least; None for a portfolio of one,
    without users, or where nothing tells the members apart.
    """

    users: int
    certified: int
    mean_gap: float | None
    histogram: list[RatioBin]
    worst_decile: WorstDecile | None
    add: Suggestion | None
    members: list[MemberCoverage]
    drop: str | None


def coverage(call: Call, users: Sequence[RecentUser], standing: Standing) -> Coverage:
    """Returns the report on these users; members are worth what all evidence of the caller's tenant says."""
    serving, family = call.serving, call.serving.family
    portfolio = serving.bundle.portfolio
    costs = call.runtime.routing.routing_cost_weight * serving.costs
    members: list[MemberCoverage] = []
    if users and portfolio.members:
        weights = np.stack([user.weights for user in users]).astype(np.float64)
        members = _members(portfolio.names, weights @ standing.worth(family).mean.T - costs)
    proved = [user for user in users if user.ratio is not None]
    ratios = np.array([user.ratio for user in proved], dtype=np.float64)
    certificate = portfolio.certificate
    mapped = _mapped(certificate, proved)
    counts, _ = np.histogram(ratios, bins=np.array(EDGES))
    return Coverage(
        users=len(users),
        certified=len(proved),
        mean_gap=float(np.mean(1.0 - ratios)) if proved else None,
        histogram=[RatioBin(*each) for each in zip(EDGES[:-1], EDGES[1:], counts.tolist(), strict=True)] if proved else [],
        worst_decile=None if certificate is None or not proved else _worst(certificate, ratios, mapped),
        add=None if certificate is None or not proved else _suggested(certificate, mapped),
        members=members,
        drop=_missed_least(members),
    )


def _members(names: Sequence[str], utilities: Array) -> list[MemberCoverage]:
    best = utilities >= np.max(utilities, axis=1, keepdims=True) - EQUAL
    shares = np.mean(best / best.sum(axis=1, keepdims=True), axis=0)
    found = []
    for index, name in enumerate(names):
        others = np.delete(utilities, index, axis=1)
        lost = np.maximum(0.0, utilities[:, index] - np.max(others, axis=1)) if others.size else np.zeros(len(utilities))
        found.append(MemberCoverage(name, float(shares[index]), float(np.mean(lost))))
    return found


def _missed_least(members: Sequence[MemberCoverage]) -> str | None:
    least = min(members, key=_missed, default=None)
    return None if least is None or all(_missed(member) == _missed(least) for member in members) else least.member


def _missed(member: MemberCoverage) -> tuple[float, float]:
    return member.loss_if_dropped, member.share


def _mapped(certificate: Certificate | None, proved: Sequence[RecentUser]) -> Array:
    """Returns the certificate's weights of users that it speaks of, `[U, d]`."""
    found = [certificate.palm_weights(user.weights.astype(np.float64)) for user in proved] if certificate else []
    # A ratio was given for these weights before they were rounded to float32; the uniform ones stand in should rounding have mattered.
    size = len(certificate.rewards) if certificate else 0
    return np.array([np.full(size, 1 / size) if each is None else each for each in found], dtype=np.float64).reshape(len(found), size)


def _worst(certificate: Certificate, ratios: Array, mapped: Array) -> WorstDecile:
    chosen = np.argsort(ratios, kind="stable")[: math.ceil(len(ratios) / 10)]
    mean = mapped[chosen].mean(axis=0)
    return WorstDecile(len(chosen), float(ratios[chosen].mean()), dict(zip(certificate.rewards, mean.tolist(), strict=True)))


def _suggested(certificate: Certificate, mapped: Array) -> Suggestion | None:
    """Returns the weights for which a new member could help most: the policy (a vertex) with the greatest sum of gains over the users.

    Not the mean of the worst decile: two groups at opposite corners have their mean where nobody is.
    """
    lower = np.max(mapped @ certificate.lower.T, axis=1)
    gains = np.maximum(0.0, mapped @ certificate.vertices.T - lower[:, None])
    best = int(np.argmax(gains.sum(axis=0)))
    mine = gains[:, best]
    if not mine.sum() > 0:
        return None
    weights = (mine @ mapped) / mine.sum()
    return Suggestion(dict(zip(certificate.rewards, weights.tolist(), strict=True)), int(np.sum(mine > 0)), float(mine.mean()))
