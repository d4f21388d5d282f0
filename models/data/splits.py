"""Seeded splits of comparisons by user and by prompt, disjoint by construction and checked.

A split by user measures strangers; a split by prompt measures new questions. Subsets share the table of texts, so vectors are computed
once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from attune.models.data.preferences import Comparisons, Ints

By = Literal["user", "prompt"]


class SplitInvalid(ValueError):
    """There are too few users or prompts for the parts that were asked for."""


@dataclass(frozen=True, slots=True)
class Split:
    """Three parts of one data set; `test` is looked at once, by evaluation."""

    train: Comparisons
    validation: Comparisons
    test: Comparisons


def split(comparisons: Comparisons, by: By, fractions: tuple[float, float, float], *, seed: int) -> Split:
    """Returns the parts of `comparisons`, whole users (or whole prompts) in each.

    Args:
        comparisons: to be split.
        by: what may not be in two parts.
        fractions: of users or prompts in train, validation and test; they sum to 1.
        seed: draws who goes where.

    Raises:
        SplitInvalid: fractions do not sum to 1, or a part with a fraction above 0 would be empty.
    """
    keys = comparisons.user if by == "user" else prompt_keys(comparisons)
    parts = draw(np.unique(keys), fractions, seed=seed, what=by)
    masks = [np.isin(keys, part) for part in parts]
    return Split(*(comparisons.take(mask) for mask in masks))


def draw(keys: Ints, fractions: Sequence[float], *, seed: int, what: str) -> list[Ints]:
    """Returns disjoint random parts of `keys`, of sizes by `fractions`, each sorted; nothing is left over.

    Raises:
        SplitInvalid: as `split`.
    """
    if abs(sum(fractions) - 1.0) > 1e-9 or min(fractions) < 0:
        raise SplitInvalid(f"fractions {tuple(fractions)} must be non-negative and sum to 1; they sum to {sum(fractions):g}")
    shuffled = np.random.default_rng(seed).permutation(keys)
    edges = np.rint(np.cumsum(fractions) * len(keys)).astype(int)
    parts = [np.sort(part) for part in np.split(shuffled, edges[:-1])]
    for fraction, part in zip(fractions, parts, strict=True):
        if fraction > 0 and not len(part):
            raise SplitInvalid(f"{len(keys)} {what}{'s are' if len(keys) != 1 else ' is'} too few: a part of {fraction:.0%} would be empty")
    together = np.concatenate(parts)
    assert len(together) == len(np.unique(together)) == len(keys), "parts overlap"
    return parts


def prompt_keys(comparisons: Comparisons) -> Ints:
    """Returns `[C]` one number per prompt text: one prompt under two contexts is still the same prompt."""
    numbers: dict[str, int] = {}
    of_row = np.array([numbers.setdefault(prompt, len(numbers)) for prompt, _ in comparisons.texts.prompts], dtype=np.int64)
    return of_row[comparisons.prompt]
