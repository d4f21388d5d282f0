"""Every kind of feedback as weighted comparisons, which is all that families learn from (SCIENCE, "Feedback other than pairs").

    a pair, a tie, what was kept ─┐
    a grade of one answer ────────┼─> comparisons with weights ─> Families.study_all ─> one vector of evidence
    a ranking ────────────────────┘

Evidence is the sum of weight times what the comparison alone would say, so a form is added and taken back like one pair. `K` heads,
`F` numbers of a further output, `P` probes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.family import Family, Row

Array = NDArray[np.float64]
How = Literal["regenerate", "edit", "copy"]
Codes = Sequence[Array] | None
"""Codes `[H]` of the authors of answers in their order, see `member_effects`; None where one of them is not known."""

IMPLICIT: Mapping[How, float] = {"edit": 0.7, "regenerate": 0.5, "copy": 0.3}
"""What it weighs, in pairs that were asked for, that a user kept one answer over another: wrote it anew by hand, had it made again and
stayed with the later one, or copied one of several. Chosen, not measured."""

MOST_RANKED = 16
"""Answers in one ranking."""

MOST_APART = 4.0
"""Rewards that an answer may be away from the usual one under any head, in standard deviations; what is further is brought nearer, so
that an odd answer is no stronger evidence than a bad one."""

RIDGE = 0.1
"""Ridge of `further_with_rewards`, in mean variances of a reward."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One of two answers to a prompt was preferred, or with `tie` neither was; it counts `weight` times.

    `direction` `[H]` is how the codes of their authors differ (`member_effects`); None where an author is not known.
    """

    chosen: Row
    rejected: Row
    prompt: Row
    weight: float = 1.0
    tie: bool = False
    direction: Array | None = None


def pair(
    chosen: Row, rejected: Row, prompt: Row, *, tie: bool = False, how: How | None = None, codes: Codes = None
) -> tuple[Compared, ...]:
    """Returns a pair; `how` says that it was not asked for, and weighs it by `IMPLICIT`; `codes` are those of both authors."""
    return (Compared(chosen, rejected, prompt, 1.0 if how is None else IMPLICIT[how], tie, _direction(codes, 0, 1)),)


def graded(answer: Row, usual: Row, prompt: Row, grade: float, *, codes: Codes = None) -> tuple[Compared, ...]:
    """Returns one answer's grade as its log-likelihood has it: `g log sigma(D) + (1 - g) log sigma(-D)`, two comparisons (ours).

    Args:
        answer: what was graded.
        usual: what the user would have got otherwise, see `usual_answer`.
        prompt: of both.
        grade: `g`, from 0 to 1; thumbs are 0 and 1, and 1/2 is a tie.
        codes: of the author, and the mean of those who could have answered otherwise.

    Raises:
        ValueError: the grade is outside.
    """
    if not 0.0 <= grade <= 1.0:
        raise ValueError(f"a grade is {grade}; it must be from 0 to 1")
    better, worse = _direction(codes, 0, 1), _direction(codes, 1, 0)
    sides = (
        Compared(answer, usual, prompt, grade, direction=better),
        Compared(usual, answer, prompt, 1.0 - grade, direction=worse),
    )
    return tuple(side for side in sides if side.weight > 0)


def ranked(best_first: Sequence[Row], prompt: Row, *, codes: Codes = None) -> tuple[Compared, ...]:
    """Returns a ranking of `k` answers by its `k - 1` stages (Plackett 1975; Luce 1959): at each, one is chosen from what is left.

    A stage is approximated by its pairs, the chosen one against each of the `m` that are left with weight `1/m`: families know no choice
    from more than two. A stage weighs as much as a pair, and two answers are exactly a pair.
    """
    found = []
    for place in range(len(best_first) - 1):
        left = range(place + 1, len(best_first))
        found += [
            Compared(best_first[place], best_first[other], prompt, 1.0 / len(left), direction=_direction(codes, place, other))
            for other in left
        ]
    return tuple(found)


def _direction(codes: Codes, author: int, rival: int) -> Array | None:
    return None if codes is None else codes[author] - codes[rival]


def tells_order(comparisons: Sequence[Compared]) -> bool:
    """Returns whether a form says of any two answers that differ which is better, so that there is something to agree with."""
    return not all(one.tie or _outweighs(comparisons, one) == 0 or _alike(one) for one in comparisons)


def agrees(comparisons: Sequence[Compared], predicted: Sequence[float]) -> bool:
    """Returns whether most of the weight of a form that `tells_order` was predicted as it was told.

    Args:
        comparisons: of the form.
        predicted: probability of each.
    """
    right = sum(one.weight for one, probability in zip(comparisons, predicted, strict=True) if probability > 0.5)
    return right > 0.5 * sum(one.weight for one in comparisons)


def _alike(one: Compared) -> bool:
    """Returns whether both answers are the same to every family, as two members' answers in the same words are."""
    same_author = one.direction is None or not one.direction.any()
    # One that was kept has what families read; one that was scored just now has the trunk's own vector beside it.
    read = one.chosen.keys() & one.rejected.keys()
    return same_author and all(np.array_equal(one.chosen[name], one.rejected[name]) for name in read)


def _outweighs(comparisons: Sequence[Compared], one: Compared) -> float:
    """Returns by how much a comparison outweighs its reverse in the same form."""
    return one.weight - sum(other.weight for other in comparisons if other.chosen is one.rejected and other.rejected is one.chosen)


def usual_answer(families: Sequence[Family], answer: Row, usual: Mapping[str, Array], further: Mapping[str, Array]) -> Row:
    """Returns the outputs of the answer that a user would have got otherwise, as far from `answer` as `MOST_APART` allows.

    Its rewards are the members' means. No means are known of a family's further outputs (the features of `vrf`): they are moved away
    from the answer's own as they go with rewards, see `further_with_rewards`.

    Args:
        families: which read the rows.
        answer: outputs of the answer that was graded.
        usual: family -> `[K]`, mean rewards of what the members give for the prompt.
        further: output -> `[K, F]`.
    """
    row: dict[str, NDArray[np.float32]] = {}
    for family in families:
        output = f"{family.name}_rewards"
        own = np.asarray(answer[output], dtype=np.float64)
        away = usual[family.name] - own
        away = away * min(1.0, MOST_APART / max(float(np.abs(away).max()), MOST_APART))
        row[output] = (own + away).astype(np.float32)
        for name in set(family.candidate_outputs) - {output}:
            moved = away @ further[name] if name in further else 0.0
            row[name] = (np.asarray(answer[name], dtype=np.float64) + moved).astype(np.float32)
    return row


def further_with_rewards(families: Sequence[Family], answers: Mapping[str, NDArray[np.float32]]) -> dict[str, Array]:
    """Returns how outputs beside the rewards go with them, output -> `[K, F]`: a ridge regression on a bundle's probes.

    Args:
        families: whose candidate outputs are looked at.
        answers: output -> `[P, ...]`, what the scorer says of probes that are answers to a prompt.
    """
    found: dict[str, Array] = {}
    for family in families:
        for name in (set(family.candidate_outputs) - {f"{family.name}_rewards"}) & answers.keys():
            rewards, outputs = (_centred(answers[output]) for output in (f"{family.name}_rewards", name))
            products = rewards.T @ rewards
            ridge = RIDGE * float(np.trace(products)) / len(products)
            if ridge <= 0:  # fewer than two probes, or all alike: nothing is known of how they go together
                found[name] = np.zeros((rewards.shape[1], outputs.shape[1]))
            else:
                found[name] = np.asarray(np.linalg.solve(products + ridge * np.eye(len(products)), rewards.T @ outputs), dtype=np.float64)
    return found


def _centred(values: NDArray[np.float32]) -> Array:
    exact = np.asarray(values, dtype=np.float64)
    return exact - exact.mean(axis=0) if len(exact) else exact
