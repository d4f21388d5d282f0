"""The duels of a log: which of two members a user preferred, where one decision drew both.

    decisions (laws, members drawn) + comparisons (who won) ─> duels

A duel is a decision of two candidates of different members, drawn in order with a logged joint probability `q(a, b)`, that a user
compared; whether drawn one after the other or, by policy `learn`, as one pair, changes `q` and no estimator. Axis letters: `N` duels,
`M` members.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.counts import counted

Array = NDArray[np.float64]


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
    decided_at = decided_at or [f"decision {number}" for number in range(1, len(decisions) + 1)]
    compared_at = compared_at or [f"comparison {number}" for number in range(1, len(comparisons) + 1)]
    known = dict(_decided(decision, place) for place, decision in zip(decided_at, decisions, strict=True))
    owner = {candidate: decision for decision, (*_, candidates) in known.items() for candidate in candidates}
    members = tuple(sorted({member for decision in decisions for member in decision["routing"]["propensities"]}))
    left: Counter[str] = Counter()
    duels: list[_Duel] = []
    compared = set()
    for place, comparison in zip(compared_at, comparisons, strict=True):
        pair = _pair(comparison, place, owner)
        if isinstance(pair, str):
            left[pair] += 1
            continue
        decision = owner[pair.chosen]
        compared.add(decision)
        duel = _duel(known[decision], pair, members)
        if isinstance(duel, str):
            left[duel] += 1
        else:
            duels.append(duel)
    left["decisions nobody compared"] = len(known) - len(compared)
    if not duels:
        why = ", ".join(f"{what} ({count:,})" for what, count in left.items() if count)
        given = f"{counted(len(known), 'decision')} and {counted(len(comparisons), 'comparison')}"
        raise LogInvalid(f"{given} hold no choice between two members that one decision drew: {why or 'both files are empty'}")
    return Duels(
        members,
        users=np.unique(np.array([duel.user for duel in duels]), return_inverse=True)[1],
        first=np.array([duel.first for duel in duels]),
        second=np.array([duel.second for duel in duels]),
        won=np.array([duel.won for duel in duels]),
        joint=np.array([duel.joint for duel in duels]),
        laws=np.array([duel.law for duel in duels]),
        expected=np.array([duel.expected for duel in duels]),
        as_pair=np.array([duel.as_pair for duel in duels]),
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


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two candidates of one decision that a user compared."""

    chosen: str
    rejected: str
    tie: bool


def _pair(comparison: Mapping[str, Any], place: str, owner: Mapping[str, str]) -> _Pair | str:
    """Returns the candidates of a comparison, or why they are no two of one decision; `owner` is the decision of each candidate."""
    if comparison.get("kind") in _NO_PAIRS:
        return _NO_PAIRS[comparison["kind"]]
    try:
        chosen, rejected, tie = comparison["chosen"], comparison["rejected"], bool(comparison["tie"])
    except KeyError as error:
        raise LogInvalid(f"{place} lacks {error}; exports of users have it") from error
    if not all(one is None or isinstance(one, str) for one in (chosen, rejected)):
        raise LogInvalid(f"{place} names a candidate by something other than a text")
    if chosen is None or rejected is None:
        return "comparisons of texts"
    if chosen not in owner or rejected not in owner:
        return "comparisons of unknown decisions"
    if owner[chosen] != owner[rejected]:
        return "comparisons across two decisions"
    return _Pair(chosen, rejected, tie)


@dataclass(frozen=True, slots=True)
class _Duel:
    """One row of `Duels`."""

    user: str
    first: int
    second: int
    won: float
    joint: float
    law: Array
    expected: Array
    as_pair: bool


def _duel(decision: _Decided, compared: _Pair, members: tuple[str, ...]) -> _Duel | str:
    """Returns what the comparison of a decision's candidates says of two members, or why it says nothing."""
    place, tag, routing, candidates = decision
    try:
        if routing["propensity"] is None or routing["joint_propensity"] is None:
            return "comparisons of decisions with a null propensity"
        pair = sorted((compared.chosen, compared.rejected), key=lambda one: int(candidates[one]["index"]))
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
    won = 0.5 if compared.tie else float(compared.chosen == pair[0])
    return _Duel(tag, members.index(names[0]), members.index(names[1]), won, joint, law, expected, as_pair)
