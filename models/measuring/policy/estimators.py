"""Off-policy evaluation on exported decisions and feedback: what other routing policies would have been worth (SCIENCE §6).

    duels of a log ─> IPS, SNIPS, DR per policy, with intervals over users

A policy's value is the chance that the member it routes to wins against one of the others drawn at random, `V(pi) = E_x sum_a pi(a | x)
mean_{b != a} P(a beats b | x)`; uniform routing has 1/2 by construction. Both roles of a duel count. That users compare is taken to
depend on nothing but what was logged. Members that a decision did not know, since they came later, are no rivals in it: the mean is over
those that it knew. Axis letters: `N` duels, `M` members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from attune.models.measuring.policy.duels import Duels, LogInvalid
from attune.models.measuring.policy.intervals import Estimate, of_mean, of_ratio, of_skewed
from attune.models.seam.routing import joint_probability

Array = NDArray[np.float64]

FOLDS = 5
RIDGE = 1.0

AS_LOGGED = "as logged"
"""The policy that routes by the law of each decision's first member, whatever policy that was."""


# --- policies


def target_laws(duels: Duels) -> dict[str, Array]:
    """Returns the law `[N, M]` of each policy in each duel's context: as logged, best, uniform, and each member alone.

    A member that a decision did not know is not drawn.
    """
    there = np.isfinite(duels.expected)
    best = np.zeros_like(duels.laws)
    best[np.arange(len(best)), np.argmax(duels.expected, axis=1)] = 1.0
    alone = {f"always {name}": np.tile(np.eye(len(duels.members))[index], (len(best), 1)) for index, name in enumerate(duels.members)}
    return {AS_LOGGED: duels.laws, "best": best, "uniform": there / there.sum(axis=1, keepdims=True), **alone}


def unsupported(duels: Duels, law: Array) -> float:
    """Returns the mean share of a policy's pairs that the log could not have drawn; where it is not 0, its value is not identified."""
    total = 0.0
    for logged, expected, as_pair, target in zip(duels.laws, duels.expected, duels.as_pair, law, strict=True):
        known = np.flatnonzero(np.isfinite(expected))  # a member that a decision did not know is no rival in it
        for a in np.flatnonzero(target > 0):
            rivals = [int(b) for b in known if b != a]
            reached = sum(as_pair or joint_probability(logged, expected, (int(a), b)) > 0 for b in rivals) if a in known else 0
            total += target[a] * (1.0 - reached / max(len(rivals), 1))
    return total / len(law)


# --- estimators


def estimate(duels: Duels, law: Array, predicted: Array | None = None) -> dict[str, Estimate]:
    """Returns the value of a policy by `ips`, `snips` and `dr`.

    Args:
        duels: of the log.
        law: `[N, M]` of the policy.
        predicted: `[N, M, M]` chance that `a` beats `b`, from other users' duels; `predict_wins` if None.

    Inverse propensity scores weigh each role of a duel by `pi(a) / (R q)`, with `R` the rivals of `a` that the decision knew; the
    self-normalised ones divide by the mean weight (Swaminathan and Joachims 2015); the doubly robust ones take the prediction's value and
    weigh its error (Dudik et al. 2011).
    """
    predicted = predict_wins(duels) if predicted is None else predicted
    rows, rivals = np.arange(len(law)), _rivals(duels)
    others = np.maximum(rivals.sum(axis=2), 1.0)
    weight_first = law[rows, duels.first] / (others[rows, duels.first] * duels.joint) / 2.0
    weight_second = law[rows, duels.second] / (others[rows, duels.second] * duels.joint) / 2.0
    weight = weight_first + weight_second
    gained = weight_first * duels.won + weight_second * (1.0 - duels.won)
    model = np.einsum("nm,nmk,nmk->n", law / others, predicted, rivals)
    expected = predicted[rows, duels.first, duels.second]
    robust = model + (weight_first - weight_second) * (duels.won - expected)
    return {
        "ips": of_skewed(gained, weight, duels.users),
        "snips": of_ratio(gained, weight, duels.users),
        "dr": of_mean(robust, duels.users),
    }


def _rivals(duels: Duels) -> Array:
    """Returns `[N, M, M]`, 1 where the second member is a rival of the first in that decision: another one, and known to it."""
    known = np.isfinite(duels.expected).astype(np.float64)
    return known[:, None, :] * (1.0 - np.eye(len(duels.members)))


def predict_wins(duels: Duels) -> Array:
    """Returns `[N, M, M]` chance that one member beats another in each context, fitted on duels of other users (cross-fitting).

    Bradley-Terry with a strength per member and a slope on the difference of expected values; ridge, by Newton's method.
    """
    count = len(duels.members)
    finite = np.where(np.isfinite(duels.expected), duels.expected, np.nanmin(np.where(np.isfinite(duels.expected), duels.expected, np.nan)))
    scale = float(finite.std()) or 1.0
    folds = np.random.default_rng(0).integers(0, FOLDS, size=int(duels.users.max()) + 1)[duels.users]
    rows = np.arange(len(duels.won))
    eye = np.eye(count)
    features = np.column_stack([eye[duels.first] - eye[duels.second], (finite[rows, duels.first] - finite[rows, duels.second]) / scale])
    found = np.empty((len(rows), count, count))
    for fold in range(FOLDS):
        held = folds == fold
        strength = _logistic(features[~held], duels.won[~held])
        utility = strength[:count] + strength[count] * finite[held] / scale
        found[held] = expit(utility[:, :, None] - utility[:, None, :])
    return found


def _logistic(features: Array, labels: Array) -> Array:
    weights = np.zeros(features.shape[1])
    for _ in range(25):
        chance = expit(features @ weights)
        gradient = features.T @ (labels - chance) - RIDGE * weights
        curvature = (features * (chance * (1.0 - chance))[:, None]).T @ features + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step
        if np.max(np.abs(step)) < 1e-8:
            break
    return weights


def best_single(duels: Duels) -> Array:
    """Returns the law `[N, M]` of always routing to the best member, chosen on the other half of users.

    A choice on the duels that value it would flatter. What is estimated is the value of the members chosen, which differ between the
    halves where the log does not tell which is best.

    Raises:
        LogInvalid: there is one user only.
    """
    eye, half = np.eye(len(duels.members)), duels.users % 2
    law = np.empty_like(duels.laws)
    for side in (0, 1):
        there = half == side
        if there.all() or not there.any():
            raise LogInvalid("best-single is chosen on one half of the users and valued on the other; the log has one user")
        others = _part(duels, ~there)
        # Predictions of their own too: the ones of the whole log were fitted on the very users who value the choice.
        predicted = predict_wins(others)
        worth = [estimate(others, np.tile(eye[m], (len(others.won), 1)), predicted)["dr"].value for m in range(len(eye))]
        law[there] = eye[int(np.argmax(worth))]
    return law


def _part(duels: Duels, there: NDArray[np.bool_]) -> Duels:
    return replace(
        duels,
        users=duels.users[there],
        first=duels.first[there],
        second=duels.second[there],
        won=duels.won[there],
        joint=duels.joint[there],
        laws=duels.laws[there],
        expected=duels.expected[there],
        as_pair=duels.as_pair[there],
    )


Policies = Callable[[Duels], Mapping[str, Array]]


def evaluate_policies(duels: Duels, policies: Policies = target_laws) -> dict[str, dict[str, Any]]:
    """Returns, for each policy, its estimates and the share of its pairs that the log could not have drawn."""
    predicted = predict_wins(duels)
    laws = dict(policies(duels))
    if len(set(duels.users.tolist())) > 1:
        laws["best single"] = best_single(duels)
    return {name: {**estimate(duels, law, predicted), "unsupported": unsupported(duels, law)} for name, law in laws.items()}
