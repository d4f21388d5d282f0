"""Pairs for preference optimisation: of the base's own answers to a prompt, the best and the worst under one user's `w·r`.

Answers [P, G] + rewards [P, G, d] + w ─> choose_pairs ─> [Pair(prompt, chosen, rejected, margin)]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.base_answers import Answers
from attune.models.alignment.causal import Answer

Array = NDArray[np.float64]


class PairsMissing(ValueError):
    """Too few answers differ enough for anything to be learned; the message says why with numbers."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to a prompt, the chosen one worth `margin` more."""

    prompt: str
    chosen: Answer
    rejected: Answer
    margin: float


def choose_pairs(
    answers: Answers, rewards: Array, weights: Array, per_prompt: int = 1, least_margin: float = 0.05, *, only_ended: bool = True
) -> list[Pair]:
    """Returns the best answer with the worst, the second best with the second worst, and so on, for each prompt.

    By default only answers that the model ended itself take part: those that were cut off score well on brevity, which nobody
    asked for. Blank answers may be rejected, never chosen.

    Args:
        answers: of the base, `[P, G]`.
        rewards: `[P, G, d]` theirs.
        weights: `[d]`.
        per_prompt: most pairs of one prompt.
        least_margin: pairs whose `w·r` is closer are left out, in units of sum(w).
        only_ended: False lets answers take part that were cut off, for a model that hardly ever ends one.

    Raises:
        PairsMissing: no pair is left.
    """
    utility = rewards @ weights
    needed = least_margin * float(weights.sum())
    found: list[Pair] = []
    for prompt, group, worth in zip(answers.prompts, answers.answers, utility, strict=True):
        ranked = [index for index in np.argsort(-worth, kind="stable") if group[index].ended or not only_ended]
        best = [index for index in ranked if group[index].text]
        for top, bottom in list(zip(best, reversed(ranked), strict=False))[:per_prompt]:
            margin = float(worth[top] - worth[bottom])
            if margin >= needed and margin > 0:
                found.append(Pair(prompt, group[top], group[bottom], margin))
    if not found:
        ended = np.mean([answer.ended for group in answers.answers for answer in group])
        spread = float(np.mean(utility.max(axis=1) - utility.min(axis=1)))
        raise PairsMissing(
            f"no pair of {answers.shape[1]} answers to {answers.shape[0]} prompts differs by {needed:g}: the best and the worst differ by "
            f"{spread:.3g} on average, and {ended:.0%} of the answers were ended by the model; sample more answers or allow longer ones"
        )
    return found
