"""What an expert is for, and what learning a user changed: cards of experts, and shifts of weights on fixed prompts.

A card holds the comparisons in which an expert's contribution speaks most for the chosen answer. Contribution and not routing
weight: a gate may open an expert that says the same of both answers (arXiv 2608.06400 finds routing weight alone unfaithful).
Axis letters: `C` comparisons, `K` heads, `Q` probe prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.measuring.rows import Rows
from attune.models.seam.families import Family, Row

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CardExample:
    """One comparison of a card: which, its texts, and the expert's contribution to the chosen answer less that to the other."""

    comparison: int
    prompt: str
    chosen: str
    rejected: str
    contrast: float


@dataclass(frozen=True, slots=True)
class ExpertCard:
    """One expert.

    Attributes:
        head: its name.
        share: mean weight over the comparisons' prompts, for somebody nobody knows.
        accuracy: share of the comparisons in which it prefers the chosen answer.
        examples: where it contributed most to what was chosen, the greatest first.
    """

    head: str
    share: float
    accuracy: float
    examples: tuple[CardExample, ...]


def expert_cards(family: Family, rows: Rows, comparisons: Comparisons, *, top: int = 5) -> tuple[ExpertCard, ...]:
    """Returns one card for each head of `family`, with at most `top` examples each, from the comparisons of anybody."""
    weights, difference = _weights_and_differences(family, rows, comparisons, None)
    contrast = weights * difference
    cards = []
    for index, head in enumerate(family.heads):
        order = [int(row) for row in np.argsort(-contrast[:, index], kind="stable")[:top] if contrast[row, index] > 0]
        right = (difference[:, index] > 0) + 0.5 * (difference[:, index] == 0)
        examples = tuple(_example(comparisons, row, float(contrast[row, index])) for row in order)
        cards.append(ExpertCard(head, float(weights[:, index].mean()), float(right.mean()), examples))
    return tuple(cards)


def weight_shift(family: Family, evidence: Array, probes: Sequence[Row]) -> Array:
    """Returns `[K]`, the user's weights less those of somebody nobody knows, mean over the same prompts for everybody.

    Args:
        family: whose weights.
        evidence: `[E]` the user's sum.
        probes: rows of the fixed prompts, at least one.

    Raises:
        ValueError: there are no probes.
    """
    if not probes:
        raise ValueError("a shift of weights is a mean over probe prompts; there are none")
    nobody = np.zeros(family.evidence_size)
    shifts = [family.weights(evidence, probe) - family.weights(nobody, probe) for probe in probes]
    mean: Array = np.mean(shifts, axis=0)
    return mean


def _weights_and_differences(family: Family, rows: Rows, comparisons: Comparisons, evidence: Array | None) -> tuple[Array, Array]:
    known = np.zeros(family.evidence_size) if evidence is None else evidence
    name = f"{family.name}_rewards"
    used = np.unique(comparisons.prompt)
    of_prompt = {int(prompt): family.weights(known, rows.prompts[prompt]) for prompt in used}
    weights = np.array([of_prompt[int(prompt)] for prompt in comparisons.prompt])
    chosen, rejected = (
        np.array([rows.candidates[row][name] for row in side], dtype=np.float64) for side in (comparisons.chosen, comparisons.rejected)
    )
    return weights, chosen - rejected


def _example(comparisons: Comparisons, row: int, contrast: float) -> CardExample:
    texts = comparisons.texts
    prompt, chosen = texts.candidates[comparisons.chosen[row]]
    return CardExample(row, prompt, chosen, texts.candidates[comparisons.rejected[row]][1], contrast)
