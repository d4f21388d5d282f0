"""The head that every family starts from: ridge on several inputs, and what validation people make of them.

    vectors ─┬─ length ──────────────┐
             ├─ style, read off them ┼─> ridge for each ─> the one, or the mean of the best, that validation people lose least under
             ├─ all of it ───────────┤
             └─ all, style loudest ──┘

On some data the length of an answer says more than several hundred inputs can be fitted to say; elsewhere it says nothing. How a
text is written (`training.style`) stands in early layers, linearly for the most part: style is a few directions of the trunk's own
vectors, found without looking at a choice, and the head is one matrix row whatever was chosen. `D` width, `S` style features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons, together
from attune.models.training.linear_map import FOLDS, fit_linear_map
from attune.models.training.ridge import Ridge, nll_over_people, ridge_path
from attune.models.training.style import style_features

Array = NDArray[np.float64]

READABLE = 0.3
"""Share of a style feature's variance between texts that must stand in the vectors, out of fold, for it to be used."""

MOST_TEXTS = 1000
"""Texts that style is read off by: more make a direction no better, and cost their square."""

LOUD = 3.0
"""How many times as large style is made beside the other inputs where it is loudest: its penalty is a ninth."""

ENOUGH = 60
"""Validation people (or prompts) from which on they choose alone; with fewer all take turns, since a handful chooses by chance."""

TURNS = 4
STRENGTHS = (3.0, 30.0, 300.0, 3000.0)


@dataclass(frozen=True, slots=True)
class _Judged:
    """One head on raw vectors, and its margins of comparisons that it was not fitted on, of those who judge."""

    inputs: str
    weights: Array
    strength: float
    margins: Array


def fit_first_head(vectors: NDArray[np.float32], train: Comparisons, validation: Comparisons) -> Ridge:
    """Returns the head, fitted on `train`, its weights on raw vectors; `inputs` says what it was made of.

    Inputs and strengths are judged by validation people, or, where those are fewer than `ENOUGH`, by all people in `TURNS`, each by heads
    that were fitted without them.

    Args:
        vectors: `[candidates, D]` of the texts that both parts share, the length last.
        train: fitted on.
        validation: other people or prompts.

    Raises:
        ValueError: see `fit_ridge`.
    """
    turns = _turns(train, validation)
    judging = _all_who_judge(turns)
    width = vectors.shape[1]
    every = np.eye(width)
    found = [_judged(vectors, train, turns, judging, "vectors", every)]
    style = style_directions(vectors, train)
    others: list[tuple[str, Array, Array | None]] = []
    if np.ptp(vectors[:, -1]) > 0:
        others.append(("length", every[-1:], None))
    if len(style):
        others.append(("style", np.concatenate([style, every[-1:]]), None))
        loud = np.concatenate([np.ones(width), np.full(len(style), LOUD)])
        others.append(("vectors and style", np.concatenate([every, style]), loud))
    found += [_judged(vectors, train, turns, judging, *one) for one in others]
    found.sort(key=lambda one: nll_over_people(one.margins, judging))
    means = [found[:count] for count in range(1, len(found) + 1)]
    losses = [nll_over_people(np.mean([one.margins for one in several], axis=0), judging) for several in means]
    best = means[int(np.argmin(losses))]
    weights = np.mean([one.weights for one in best], axis=0)
    utilities = vectors.astype(np.float64) @ weights
    nll = nll_over_people(utilities[validation.chosen] - utilities[validation.rejected], validation)
    return Ridge(weights, best[0].strength, nll, ", ".join(one.inputs for one in best))


def fit_in_turns(inputs: NDArray[np.float32], train: Comparisons, validation: Comparisons) -> Array:
    """Returns weights `[F]` on `inputs` `[candidates, F]`, fitted on `train`, of the strength that is judged best; see `fit_first_head`."""
    turns = _turns(train, validation)
    return _judged(inputs, train, turns, _all_who_judge(turns), "", np.eye(inputs.shape[1])).weights


def style_directions(vectors: NDArray[np.float32], train: Comparisons) -> Array:
    """Returns `[<= S, D]` directions along which a text's style features stand in its vector; none where too few texts show them."""
    used = np.unique(np.concatenate([train.chosen, train.rejected]))
    used = np.random.default_rng(0).permutation(used)[:MOST_TEXTS]
    if len(used) < 2 * FOLDS:
        return np.zeros((0, vectors.shape[1]))
    seen = style_features([train.texts.candidates[row][1] for row in used]).astype(np.float64)
    seen = seen[:, seen.std(axis=0) > 1e-6]
    if not seen.shape[1]:
        return np.zeros((0, vectors.shape[1]))
    read = fit_linear_map(vectors[used].astype(np.float64), (seen - seen.mean(axis=0)) / seen.std(axis=0), seed=0)
    return read.weight[read.r2 > READABLE]


def _all_who_judge(turns: list[tuple[Comparisons, Comparisons]]) -> Comparisons:
    judging = turns[0][1]
    for _, part in turns[1:]:
        judging = judging.join(part)
    return judging


def _turns(train: Comparisons, validation: Comparisons) -> list[tuple[Comparisons, Comparisons]]:
    """Returns who is fitted on and who judges, in turns; people stay together, and prompts where both parts are of the same people."""
    people = [{part.users[user] for user in np.unique(part.user).tolist()} for part in (train, validation)]
    by_people = not people[0] & people[1]
    one_table = train.users == validation.users and train.texts is validation.texts
    strangers = not set(train.users) & set(validation.users)
    enough = len(np.unique(validation.user if by_people else validation.prompt)) >= ENOUGH
    if enough or not (one_table or strangers):
        return [(train, validation)]
    both = train.join(validation) if one_table else together(train, validation)
    groups = both.user if by_people else both.prompt
    names = np.random.default_rng(0).permutation(np.unique(groups))
    if len(names) < TURNS:
        return [(train, validation)]
    turn = np.zeros(int(groups.max()) + 1, dtype=np.int64)
    turn[names] = np.arange(len(names)) % TURNS
    return [(both.take(turn[groups] != one), both.take(turn[groups] == one)) for one in range(TURNS)]


def _judged(
    vectors: NDArray[np.float32],
    train: Comparisons,
    turns: list[tuple[Comparisons, Comparisons]],
    judging: Comparisons,
    inputs: str,
    directions: Array,
    emphasis: Array | None = None,
) -> _Judged:
    """Returns the head on `vectors` seen along `directions` `[F, D]`, of the strength that is judged best."""
    seen = (vectors.astype(np.float64) @ directions.T).astype(np.float32)
    paths = [ridge_path(seen, fitted, asked, STRENGTHS, emphasis=emphasis) for fitted, asked in turns]
    # Where answers are alike in these inputs for all who are fitted on, there is one strength: nothing is known under any.
    margins = {strength: np.concatenate([path.get(strength, path[max(path)])[1] for path in paths]) for strength in STRENGTHS}
    best = min(STRENGTHS, key=lambda strength: nll_over_people(margins[strength], judging))
    path = ridge_path(seen, train, judging, (best,), emphasis=emphasis)
    return _Judged(inputs, path[best][0] @ directions, best, margins[best])
