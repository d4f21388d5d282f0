"""The head that every family starts from: ridge on several inputs, and what validation people make of them.

    vectors ─┬─ length ──────────────┐
             ├─ style, read off them ┼─> ridge of every strength for each ─> as much of each as validation people lose least under
             ├─ all of it ───────────┤
             └─ all, style loudest ──┘

On some data the length of an answer says more than several hundred inputs can be fitted to say; elsewhere it says nothing. How a
text is written (`training.style`) stands in early layers, linearly for the most part: style is a few directions of the trunk's own
vectors, found without looking at a choice. Nothing is chosen outright (`training.stacking`), and the head is one matrix row whatever
came of it. Its recipe can be fitted again on more people (`training.last_head`). `D` width, `S` style features, `H` heads, `C` comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons, together
from attune.models.training.ridge import Ridge, nll_over_people, ridge_path
from attune.models.training.stacking import fitted_size, stacked_shares
from attune.models.training.style_directions import style_directions

Array = NDArray[np.float64]

LOUD = 3.0
"""How many times as large style is made beside the other inputs where it is loudest: its penalty is a ninth."""

ENOUGH = 60
"""Validation people (or prompts) from which on they judge alone; with fewer all take turns, since a handful judges by chance."""

FEW = 5000
"""Comparisons below which all take turns however many validation people (or prompts) there are: a hundred choices judge by chance."""

TURNS = 4
STRENGTHS = (30.0, 300.0, 3000.0, 30000.0)
"""Far apart, since they are mixed; weaker ones than the first gained nothing on cuts of 500 to 2,000 comparisons."""

EXPECTED = (1.0, 2.0, 3.0, 4.0)
"""How likely each strength is the right one before anything is seen, against the others: with little data the strong ones are."""

SIMPLER = 2.0
"""How much likelier length and style are than the whole vectors, before anything is seen."""

A_JUDGE = 10.0
"""Comparisons whose losses together are taken for one independent judge's: one choice is mostly chance, and people choose alike."""

MENTIONED = 0.05
"""Share of the head from which on an input is named."""


@dataclass(frozen=True, slots=True)
class _Heads:
    """Heads on raw vectors `[H, D]`, one for each strength and of the sizes `[H]` that those who judge want, and their margins `[H, C]`."""

    inputs: str
    sizes: Array
    weights: Array
    margins: Array


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that was chosen of a head and nothing that was fitted, so that another can be fitted the same way on more.

    Attributes:
        comparisons: that it was chosen for. A penalty is held to as much for each comparison: sizes were chosen for heads that are
            held back so far, and on more data the same penalty in all makes every head larger, so that it would say too much.
        inputs: directions `[F, D]` of each, and how loud each of them is `[F]`; None for alike.
        amounts: `[inputs, STRENGTHS]` how much of each input's head of each strength, its share times its sizes.
    """

    comparisons: int
    inputs: tuple[tuple[Array, Array | None], ...]
    amounts: Array

    def fit(self, vectors: NDArray[np.float32], comparisons: Comparisons) -> Array:
        """Returns the weights `[D]` on raw vectors of the head that is fitted on `comparisons` by this recipe.

        Raises:
            ValueError: see `fit_ridge`.
        """
        weights = np.zeros(vectors.shape[1])
        nobody = comparisons.take(np.arange(1))  # nothing is asked here
        more = len(comparisons) / self.comparisons
        for (directions, emphasis), amounts in zip(self.inputs, self.amounts, strict=True):
            path = _path(_along(vectors, directions), comparisons, nobody, emphasis, more)
            weights += (amounts @ np.array([one for one, _ in path])) @ directions
        return weights


@dataclass(frozen=True, slots=True)
class FirstHead(Ridge):
    """The head fitted on training people alone, and the recipe that it was fitted by."""

    recipe: Recipe = field(kw_only=True)

    def fitted_on_all(self, vectors: NDArray[np.float32], train: Comparisons, validation: Comparisons) -> Ridge:
        """Returns the head fitted again, on both parts, by the same recipe; `validation_nll` stays that of the head without them.

        Where the parts name their people differently, so that they are no one table, it is the head as it was.
        """
        both = _as_one(train, validation)
        weights = self.weights if both is None else self.recipe.fit(vectors, both)
        return Ridge(weights, self.strength, self.validation_nll, self.inputs)


def fit_first_head(vectors: NDArray[np.float32], train: Comparisons, validation: Comparisons) -> FirstHead:
    """Returns the head, fitted on `train`, its weights on raw vectors; `inputs` says what it was made of, and in which shares.

    Heads are judged by validation people, or, where those are fewer than `ENOUGH` or all comparisons fewer than `FEW`, by all people in
    `TURNS`, each by heads that were fitted without them. `strength` is that of the head with the greatest share.

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
    style = style_directions(vectors, train)
    several: list[tuple[str, Array, Array | None]] = [("vectors", every, None)]
    if np.ptp(vectors[:, -1]) > 0:
        several.append(("length", every[-1:], None))
    if len(style):
        several.append(("style", np.concatenate([style, every[-1:]]), None))
        loud = np.concatenate([np.ones(width), np.full(len(style), LOUD)])
        several.append(("vectors and style", np.concatenate([every, style]), loud))
    found = [_judged(vectors, train, turns, judging, *one) for one in several]
    margins = np.concatenate([one.margins for one in found])
    expected = np.outer([SIMPLER if one.inputs in ("length", "style") else 1.0 for one in found], EXPECTED).ravel()
    shares = stacked_shares(margins, judging, expected / expected.sum(), len(judging) / A_JUDGE)
    size = fitted_size(shares @ margins, judging)
    weights = size * (shares @ np.concatenate([one.weights for one in found]))
    amounts = size * shares * np.concatenate([one.sizes for one in found])
    recipe = Recipe(len(train), tuple((directions, emphasis) for _, directions, emphasis in several), amounts.reshape(len(found), -1))
    utilities = vectors.astype(np.float64) @ weights
    nll = nll_over_people(utilities[validation.chosen] - utilities[validation.rejected], validation)
    of_inputs = {one.inputs: float(part.sum()) for one, part in zip(found, shares.reshape(len(found), -1), strict=True)}
    told = sorted(((share, name) for name, share in of_inputs.items() if share >= MENTIONED), reverse=True)
    strength = STRENGTHS[int(shares.argmax()) % len(STRENGTHS)]
    return FirstHead(weights, strength, nll, ", ".join(f"{name} {share:.2f}" for share, name in told), recipe=recipe)


def fit_in_turns(inputs: NDArray[np.float32], train: Comparisons, validation: Comparisons) -> Array:
    """Returns weights `[F]` on `inputs` `[candidates, F]`, fitted on `train`, of the strength that is judged best; see `fit_first_head`."""
    turns = _turns(train, validation)
    judging = _all_who_judge(turns)
    found = _judged(inputs, train, turns, judging, "", np.eye(inputs.shape[1]))
    best: Array = found.weights[int(np.argmin([nll_over_people(margins, judging) for margins in found.margins]))]
    return best


def _all_who_judge(turns: list[tuple[Comparisons, Comparisons]]) -> Comparisons:
    judging = turns[0][1]
    for _, part in turns[1:]:
        judging = judging.join(part)
    return judging


def _turns(train: Comparisons, validation: Comparisons) -> list[tuple[Comparisons, Comparisons]]:
    """Returns who is fitted on and who judges, in turns; people stay together, and prompts where both parts are of the same people."""
    people = [{part.users[user] for user in np.unique(part.user).tolist()} for part in (train, validation)]
    by_people = not people[0] & people[1]
    enough = len(np.unique(validation.user if by_people else validation.prompt)) >= ENOUGH and len(train) + len(validation) >= FEW
    both = None if enough else _as_one(train, validation)
    if both is None:
        return [(train, validation)]
    groups = both.user if by_people else both.prompt
    names = np.random.default_rng(0).permutation(np.unique(groups))
    if len(names) < TURNS:
        return [(train, validation)]
    turn = np.zeros(int(groups.max()) + 1, dtype=np.int64)
    turn[names] = np.arange(len(names)) % TURNS
    return [(both.take(turn[groups] != one), both.take(turn[groups] == one)) for one in range(TURNS)]


def _as_one(train: Comparisons, validation: Comparisons) -> Comparisons | None:
    """Returns both parts as one; None where some people are in both and their tables of users are not the same."""
    if train.users == validation.users and train.texts is validation.texts:
        return train.join(validation)
    return None if set(train.users) & set(validation.users) else together(train, validation)


def _judged(
    vectors: NDArray[np.float32],
    train: Comparisons,
    turns: list[tuple[Comparisons, Comparisons]],
    judging: Comparisons,
    inputs: str,
    directions: Array,
    emphasis: Array | None = None,
) -> _Heads:
    """Returns the heads on `vectors` seen along `directions` `[F, D]`, of every strength, as large as those who judge lose least under."""
    seen = _along(vectors, directions)
    paths = [_path(seen, fitted, asked, emphasis) for fitted, asked in turns]
    # With one turn the heads that are judged are those that are served.
    served = paths[0] if len(turns) == 1 else _path(seen, train, train.take(np.arange(1)), emphasis)
    margins = np.array([np.concatenate([path[at][1] for path in paths]) for at in range(len(STRENGTHS))])
    sizes = np.array([fitted_size(said, judging) for said in margins])
    weights = np.array([size * (one @ directions) for size, (one, _) in zip(sizes, served, strict=True)])
    return _Heads(inputs, sizes, weights, sizes[:, None] * margins)


def _along(vectors: NDArray[np.float32], directions: Array) -> NDArray[np.float32]:
    return (vectors.astype(np.float64) @ directions.T).astype(np.float32)


def _path(
    seen: NDArray[np.float32], fitted: Comparisons, asked: Comparisons, emphasis: Array | None, more: float = 1.0
) -> list[tuple[Array, Array]]:
    """Returns for each of `STRENGTHS`, times `more`, the weights `[F]` fitted on `fitted`, and margins `[C]` of `asked`."""
    strengths = [more * strength for strength in STRENGTHS]
    path = ridge_path(seen, fitted, asked, strengths, emphasis=emphasis)
    # Where answers are alike in these inputs for all who are fitted on, there is one strength: nothing is known under any.
    return [path.get(strength, path[max(path)]) for strength in strengths]
