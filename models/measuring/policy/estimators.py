"""Off-policy evaluation on exported decisions and feedback: what other routing policies would have been worth (SCIENCE §6).

    decisions (laws, members drawn) + comparisons (who won) ─> duels ─> IPS, SNIPS, DR per policy, with intervals over users

A duel is a decision of two candidates of different members, drawn in order with a logged joint probability `q(a, b)`, that a user
compared; whether drawn one after the other or, by policy `learn`, as one pair, changes `q` and no estimator. A policy's value is the
chance that the member it routes to wins against one of the others drawn at random, `V(pi) = E_x sum_a pi(a | x) mean_{b != a} P(a beats
b | x)`; uniform routing has 1/2 by construction. Both roles of a duel count. That users compare is taken to depend on nothing but what
was logged. Members that a decision did not know, since they came later, are no rivals in it: the mean is over those that it knew. Axis
letters: `N` duels, `M` members.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from attune.models.measuring.policy.intervals import Estimate, of_mean, of_ratio, of_skewed
from attune.models.seam.counts import counted
from attune.models.seam.routing import joint_probability

Array = NDArray[np.float64]

FOLDS = 5
RIDGE = 1.0

AS_LOGGED = "as logged"
"""The policy that routes by the law of each decision's first member, whatever policy that was."""


class LogInvalid(ValueError):
    """A line of decisions or feedback cannot be used; the message names file, line and field."""


@dataclass(frozen=True, slots=True)
class Duels:
    """What a log says, as columns.

    Attributes:
        members: names, `M`.
        users: `[N]` number of the user.
        first, second: `[N]` members in the order drawn.
        won: `[N]` 1 if the first won, 0 if the second, 1/2 for a tie.
        joint: `[N]` probability of the pair in this order.
        laws: `[N, M]` logged law of the first draw.
        expected: `[N, M]` expected value of each member, as routing saw it.
        as_pair: `[N]` whether policy `learn` drew both members as one pair: `laws` are then the margins of the law of pairs, every pair of
            which has a chance.
        left_out: reason -> how many decisions or comparisons are not among the duels.
    """

    members: tuple[str, ...]
    users: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    won: Array
    joint: Array
    laws: Array
    expected: Array
    as_pair: NDArray[np.bool_]
    left_out: Mapping[str, int]


_NO_PAIRS = {"rating": "ratings of one answer", "ranking": "rankings"}
"""Kinds of feedback that name no chosen and no rejected answer, and what is said of them; of no kind, or `kept`, are pairs."""


def duels_from(
    decisions: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    *,
    decided_at: Sequence[str] = (),
    compared_at: Sequence[str] = (),
) -> Duels:
    """Returns the duels that decisions (as `GET /decisions/{id}` or an export gives them) and comparisons (of an export) make.

    Left out and counted: ratings and rankings; comparisons of texts, of two decisions, of a decision that is not there, or of one
    member with itself; decisions with a null propensity (forced, or another member served), and decisions that nobody compared.

    Args:
        decisions: their records.
        comparisons: theirs.
        decided_at: where each decision stands, for errors; their numbers if empty.
        compared_at: where each comparison stands.

    Raises:
        LogInvalid: a field is missing or of another type, or no duel is left.
    """
    known = {}
    named: set[str] = set()
    decided_at = decided_at or [f"decision {number}" for number in range(1, len(decisions) + 1)]
    compared_at = compared_at or [f"comparison {number}" for number in range(1, len(comparisons) + 1)]
    for place, decision in zip(decided_at, decisions, strict=True):
        name, made = _decided(decision, place)
        known[name] = made
        named.update(decision["routing"]["propensities"])
    members = tuple(sorted(named))
    left: Counter[str] = Counter()
    rows: list[tuple[str, int, int, float, float, Array, Array, bool]] = []
    used = set()
    owner = {candidate: decision for decision, (*_, candidates) in known.items() for candidate in candidates}
    for place, comparison in zip(compared_at, comparisons, strict=True):
        if comparison.get("kind") in _NO_PAIRS:
            left[_NO_PAIRS[comparison["kind"]]] += 1
            continue
        chosen, rejected, tie = _pair(comparison, place)
        if chosen is None or rejected is None:
            left["comparisons of texts"] += 1
        elif chosen not in owner or rejected not in owner:
            left["comparisons of unknown decisions"] += 1
        elif owner[chosen] != owner[rejected]:
            left["comparisons across two decisions"] += 1
        else:
            used.add(owner[chosen])
            duel = _duel(known[owner[chosen]], chosen, rejected, members)
            if isinstance(duel, str):
                left[duel] += 1
            else:
                rows.append((*duel[:3], 0.5 if tie else duel[3], *duel[4:]))
    left["decisions nobody compared"] = len(known) - len(used)
    if not rows:
        why = ", ".join(f"{what} ({count:,})" for what, count in left.items() if count)
        given = f"{counted(len(known), 'decision')} and {counted(len(comparisons), 'comparison')}"
        raise LogInvalid(f"{given} hold no choice between two members that one decision drew: {why or 'both files are empty'}")
    tags, first, second, won, joint, laws, expected, as_pair = zip(*rows, strict=True)
    users = np.unique(np.array(tags), return_inverse=True)[1]
    return Duels(
        members,
        users,
        first=np.array(first),
        second=np.array(second),
        won=np.array(won),
        joint=np.array(joint),
        laws=np.array(laws),
        expected=np.array(expected),
        as_pair=np.array(as_pair),
        left_out=dict(left),
    )


_Decided: TypeAlias = tuple[str, str, Mapping[str, Any], Mapping[str, Any]]
"""Where a decision stands, its user, its routing, and its candidates by id."""


def _decided(decision: Mapping[str, Any], place: str) -> tuple[str, _Decided]:
    try:
        name, tag, routing = str(decision["decision_id"]), str(decision["user_tag"]), decision["routing"]
        candidates = {candidate["candidate_id"]: candidate for candidate in decision["candidates"]}
        iter(routing["propensities"])
    except KeyError as error:
        raise LogInvalid(f"{place} lacks {error}; exports and answers of GET /decisions/{{id}} have it") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise LogInvalid(f"{place} cannot be used: {error}") from error
    return name, (place, tag, routing, candidates)


def _pair(comparison: Mapping[str, Any], place: str) -> tuple[str | None, str | None, bool]:
    try:
        chosen, rejected, tie = comparison["chosen"], comparison["rejected"], bool(comparison["tie"])
    except KeyError as error:
        raise LogInvalid(f"{place} lacks {error}; exports of users have it") from error
    if not all(one is None or isinstance(one, str) for one in (chosen, rejected)):
        raise LogInvalid(f"{place} names a candidate by something other than a text")
    return chosen, rejected, tie


def _duel(
    decision: _Decided, chosen: str, rejected: str, members: tuple[str, ...]
) -> tuple[str, int, int, float, float, Array, Array, bool] | str:
    place, tag, routing, candidates = decision
    try:
        if routing["propensity"] is None or routing["joint_propensity"] is None:
            return "comparisons of decisions with a null propensity"
        pair = sorted((chosen, rejected), key=lambda one: int(candidates[one]["index"]))
        names = [str(candidates[one]["member"]) for one in pair]
        if names[0] == names[1] or names != list(routing["members"]):
            return "comparisons that are not of the two members drawn"
        law = np.array([float(routing["propensities"].get(name, 0.0)) for name in members])
        expected = np.array([float(routing["expected"][name]["mean"]) if name in routing["expected"] else -np.inf for name in members])
        joint, as_pair = float(routing["joint_propensity"]), routing["policy"] == "learn"
    except KeyError as error:
        raise LogInvalid(f"{place} lacks {error}") from error
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise LogInvalid(f"{place} cannot be used: {error}") from error
    if not 0.0 < joint <= 1.0 or not abs(float(law.sum()) - 1.0) < 1e-6 or law.min() < 0.0:
        raise LogInvalid(f"{place} has joint propensity {joint} and a law that sums to {law.sum():g}, the least {law.min():g}")
    if not all(np.isfinite(value) for name, value in zip(members, expected, strict=True) if name in routing["expected"]):
        raise LogInvalid(f"{place} has an expected value that is no finite number")
    return tag, members.index(names[0]), members.index(names[1]), float(chosen == pair[0]), joint, law, expected, as_pair


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


def evaluate_policies(duels: Duels) -> dict[str, dict[str, Any]]:
    """Returns, for each policy, its estimates and the share of its pairs that the log could not have drawn."""
    predicted = predict_wins(duels)
    laws = dict(target_laws(duels))
    if len(set(duels.users.tolist())) > 1:
        laws["best single"] = best_single(duels)
    return {name: {**estimate(duels, law, predicted), "unsupported": unsupported(duels, law)} for name, law in laws.items()}
