"""Comparisons whose authors are known: what they add of member effects beside a family's text, and how well both together predict.

comparisons with directions, text's logit ─> evidence_of_authors ─> the user's slice      tell_everybody ─> everybody's sum
└> predict ─> probability
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.family import Family, reward_difference
from attune.models.seam.member_effects import Everybody, MemberEffects, gate, with_effects
from attune.models.seam.trust import losses
from attune.models.seam.weighted import Compared

Array = NDArray[np.float64]


class FamiliesWithEffects(Protocol):
    """What is needed of `Families`."""

    @property
    def effects(self) -> MemberEffects | None: ...
    def __getitem__(self, name: str) -> Family: ...
    def effects_part(self, evidence: Array) -> Array: ...
    def text_logit(self, name: str, known: Array, one: Compared) -> tuple[float, float]: ...


def evidence_of_authors(families: FamiliesWithEffects, known: Array, comparisons: Sequence[Compared]) -> Array:
    """Returns the slice of member effects that comparisons add to a user's sum `known` `[E]`; empty where there are none."""
    effects = families.effects
    if effects is None:
        return np.zeros(0)
    total = np.zeros(effects.evidence_size)
    for one in comparisons:
        if one.direction is not None and one.direction.any():
            text = families.text_logit(effects.family, known, one)
            total += effects.evidence(one.direction, text, _apart(families[effects.family], one), weight=one.weight, tie=one.tie)
    return total


def predict(families: FamiliesWithEffects, known: Array, one: Compared, everybody: Everybody) -> float:
    """Returns the probability of a choice, text and effects together as far as effects are trusted; the text's without authors."""
    assert families.effects is not None
    text = families.text_logit(families.effects.family, known, one)
    alone = with_effects(text, (0.0, 0.0))
    if one.direction is None or not one.direction.any():
        return alone
    together = with_effects(text, everybody.along(families.effects_part(known), one.direction))
    return everybody.trusted * together + (1.0 - everybody.trusted) * alone


def tell_everybody(
    families: FamiliesWithEffects, known: Array, comparisons: Sequence[Compared], everybody: Everybody
) -> tuple[float, Array]:
    """Returns how much of what was told of authors counts for everybody, and two losses `[2]`: with effects, and by the texts alone.

    Args:
        families: with member effects.
        known: `[E]`, the user's sum as it stood.
        comparisons: told as one.
        everybody: what was known of the members.
    """
    effects = families.effects
    assert effects is not None
    own, lost, counts = families.effects_part(known), np.zeros(2), 1.0
    for one in comparisons:
        if one.direction is None or not one.direction.any():
            continue
        text = families.text_logit(effects.family, known, one)
        both = with_effects(text, everybody.along(own, one.direction)), with_effects(text, (0.0, 0.0))
        lost += one.weight * gate(_apart(families[effects.family], one)) * losses(*both, tie=one.tie)
        counts = min(counts, effects.discount(own, one.direction))
    return counts, lost


def _apart(family: Family, one: Compared) -> float:
    """Returns the greatest difference of two texts under any head, logits."""
    return family.logit_scale * float(np.abs(reward_difference(f"{family.name}_rewards", one.chosen, one.rejected)).max())
