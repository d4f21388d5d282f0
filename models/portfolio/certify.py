"""A finite-sample certificate: what members and bounds are worth on prompts that chose neither, with a stated confidence.

    search and pruning on some prompts ─> members, asked weights, corners: all fixed
    fresh prompts ─> members' values ± , optima ± ─> lower and upper bound of every user

Two kinds of bounds hold together with probability `confidence`, half of the error spent on each, shared evenly within (union bound):
- *marginal*: each member's value under each reward, each asked optimum. They give `L(w)`, `U(w)` for every user, online too.
- *paired*: at every corner of the planned cells, the mean over prompts of `optimum - member` in one number, whose variance is far
  smaller than that of its parts. With `G_c` above the gap and `L_c` below the value at corner `c`, every user has
  `L/OPT >= min_c L_c / (L_c + G_c)`: within a cell the gap is convex in `w` and the value linear.
Axis letters: `P` prompts, `M` members, `J` asked weights, `d` rewards, `C` pairs of a member and a corner of its cell.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.portfolio.geometry import UpperBound, lower_corners, vertices_within
from attune.models.portfolio.mean_bounds import Method, mean_bounds
from attune.models.portfolio.oracles import EvidenceInvalid, expect_rewards
from attune.models.portfolio.rewards import Normalisation
from attune.models.seam.certificate import Certificate

Array = NDArray[np.float64]
VERTICES = 2_000


@dataclass(frozen=True, slots=True)
class Evidence:
    """What fresh prompts say. Everything but the rewards was fixed before they were seen.

    Attributes:
        members: `[P, M, d]` normalised reward of each member on each prompt, mean over its answers.
        asked: `[J, d]` weights at which the optimum is bounded.
        optima: `[P, J]` best objective on each prompt at each: of an exact oracle its own; of a trained policy
            `w_j · r` of that policy plus the shortfall that is granted to it.
        planned: `[M, d]` the members' values in the search, which define the cells.
        planned_optima: `[J]` bounds on the optima in the search, which choose how asked weights are combined at a corner.
    """

    members: Array
    asked: Array
    optima: Array
    planned: Array
    planned_optima: Array


def certify(
    evidence: Evidence,
    normalisation: Normalisation,
    *,
    family: str,
    rewards: tuple[str, ...],
    epsilon: float,
    delta: float = 0.0,
    confidence: float = 0.95,
    method: Method = "betting",
    weight_map: Array | None = None,
    oracle_calls: int | None = None,
    vertices: int = VERTICES,
) -> Certificate:
    """Returns the certificate that `portfolio.json` carries.

    Args:
        evidence: of fresh prompts.
        normalisation: of the rewards.
        family: whose heads the rewards are.
        rewards: their names, `d`.
        epsilon: what was searched for.
        delta: likewise.
        confidence: probability that all bounds hold, below 1.
        method: of the intervals, see `mean_bounds`.
        weight_map: `[K, d]`, see `models.seam.certificate`; the normalisation's own if None.
        oracle_calls: all that the search made; `J` if None.
        vertices: most vertices of the upper bound that are kept for serving.

    Raises:
        EvidenceInvalid: rewards outside [0, 1], shapes that do not agree, duplicate members, or fewer than two prompts.
        ValueError: `confidence` is not within 0 and 1.
    """
    members, optima, asked = _checked(evidence)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; bounds that were estimated have one within 0 and 1")
    marginal_error = (1.0 - confidence) / 2.0 / (2 * members[0].size + len(asked))
    mean = members.mean(axis=0)
    lower, upper = mean_bounds(members, 0.0, 1.0, marginal_error, method)
    # A trained policy's optimum is granted a slack, which may lift single prompts above 1; the mean is still at most 1.
    highest = np.minimum(mean_bounds(optima, 0.0, max(1.0, float(optima.max())), marginal_error, method)[1], 1.0)
    # As in the search: an optimum is no less than what a member reaches there.
    bound = UpperBound(asked, np.maximum(highest, (asked @ mean.T).max(axis=1)))
    corners = lower_corners(lower)
    above = bound.over(corners.weights)
    ratios = corners.lower / np.maximum(above, 1e-12)
    paired_ratio, paired_gap, paired_weights = _paired(evidence, (1.0 - confidence) / 2.0, method)
    worst = int(np.argmin(ratios))
    marginal_ratio = float(ratios[worst])
    weights = corners.weights[worst] if marginal_ratio > paired_ratio else paired_weights
    return Certificate(
        family=family,
        rewards=rewards,
        offset=normalisation.offset,
        scale=normalisation.scale,
        weight_map=normalisation.weight_map() if weight_map is None else weight_map,
        epsilon=epsilon,
        delta=delta,
        confidence=confidence,
        worst_weights=weights,
        worst_ratio=float(np.clip(max(marginal_ratio, paired_ratio), 0.0, 1.0)),
        gap=float(max(0.0, min(np.max(above - corners.lower), paired_gap))),
        oracle_calls=len(asked) if oracle_calls is None else oracle_calls,
        lower=lower,
        upper=upper,
        vertices=vertices_within(bound, vertices),
        method=method,
        rest=normalisation.rest,
    )


def _paired(evidence: Evidence, error: float, method: Method) -> tuple[float, float, Array]:
    """Returns the worst ratio, the greatest gap, and the corner of the worst ratio, from differences on each prompt."""
    corners = lower_corners(evidence.planned)
    lifted = np.maximum(evidence.planned_optima, (evidence.asked @ evidence.planned.T).max(axis=1))
    bound = UpperBound(evidence.asked, lifted)
    pairs = np.argwhere(corners.best)
    share = error / (2 * len(pairs))
    weights = corners.weights[pairs[:, 0]]
    proofs = np.array([bound.at(one)[1] for one in corners.weights])[pairs[:, 0]]
    values = np.einsum("pmd,md->pm", evidence.members[:, pairs[:, 1]], weights)
    left = np.maximum(weights - proofs @ evidence.asked, 0.0).sum(axis=1)
    most = proofs.sum(axis=1) * max(1.0, float(evidence.optima.max()))
    gaps = mean_bounds(evidence.optima @ proofs.T - values, -1.0, most, share, method)[1] + left
    lows = mean_bounds(values, 0.0, 1.0, share, method)[0]
    gaps, lows = np.maximum(gaps, 0.0), np.maximum(lows, 0.0)
    ratios = lows / np.maximum(lows + gaps, 1e-12)
    worst = int(np.argmin(ratios))
    return float(ratios[worst]), float(gaps.max()), corners.weights[pairs[worst, 0]]


def _checked(evidence: Evidence) -> tuple[Array, Array, Array]:
    members, asked = expect_rewards(evidence.members), np.asarray(evidence.asked, dtype=np.float64)
    prompts, size = len(members), members.shape[-1]
    if members.ndim != 3 or asked.ndim != 2 or asked.shape[1] != size or evidence.optima.shape != (prompts, len(asked)) or prompts < 2:
        raise EvidenceInvalid(
            f"members {members.shape}, asked {asked.shape} and optima {evidence.optima.shape} do not agree, or too few prompts"
        )
    if evidence.planned.shape != members.shape[1:] or evidence.planned_optima.shape != (len(asked),):
        planned = f"{evidence.planned.shape} and {evidence.planned_optima.shape}"
        raise EvidenceInvalid(f"planned values and optima are {planned}; {members.shape[1:]} and {(len(asked),)} were measured")
    for first, second in itertools.combinations(range(members.shape[1]), 2):
        if np.array_equal(members[:, first], members[:, second]):
            raise EvidenceInvalid(f"members {first} and {second} are duplicates: the same rewards on all of {prompts} prompts; prune first")
    return members, evidence.optima, asked
