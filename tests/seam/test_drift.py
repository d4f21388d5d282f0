"""A taste that changes is followed at a half-life, and one that does not change loses little by it: in the sum itself, no server needed."""

from __future__ import annotations

import numpy as np
import pytest

from attune.models.seam.attributes import Attributes
from attune.models.seam.families import Families

HEADS = ("one", "two", "three")
HALF_LIFE = 25
"""Comparisons after which one counts half."""

BEFORE, AFTER = 200, 50


def followed(taste: np.ndarray, then: np.ndarray, *, half_life: float | None, seed: int) -> float:
    """Returns the cosine of what is known of a user and of their taste, `AFTER` comparisons after it became `then`."""
    family = Attributes("named", HEADS, 3.0, np.zeros(3), 2.0 * np.eye(3))
    families, rng = Families([family]), np.random.default_rng(seed)
    kept = 1.0 if half_life is None else 2.0 ** (-1.0 / half_life)
    evidence = families.prior()
    for count in range(BEFORE + AFTER):
        wanted = taste if count < BEFORE else then
        texts = rng.normal(size=(2, 3)).astype(np.float32)
        first = rng.random() < 1.0 / (1.0 + np.exp(-(texts[0] - texts[1]) @ wanted))
        chosen, rejected = ({"named_rewards": row} for row in (texts if first else texts[::-1]))
        evidence = kept * evidence + families.learn(chosen, rejected, {}, known=kept * evidence)
    known = families.weights("named", evidence, None)
    return float(known @ then / np.linalg.norm(known) / np.linalg.norm(then))


@pytest.fixture(scope="module")
def tastes():
    drawn = np.random.default_rng(0).normal(size=(16, 2, 3))
    return 3.0 * drawn / np.linalg.norm(drawn, axis=2, keepdims=True)


@pytest.mark.slow
def test_within_fifty_comparisons_a_change_is_followed_at_a_half_life_and_not_without_one(tastes):
    faded = [followed(before, after, half_life=HALF_LIFE, seed=seed) for seed, (before, after) in enumerate(tastes)]
    kept = [followed(before, after, half_life=None, seed=seed) for seed, (before, after) in enumerate(tastes)]
    assert np.mean(faded) > 0.85
    assert np.mean(kept) < np.mean(faded) - 0.3


@pytest.mark.slow
def test_people_who_stay_as_they_are_lose_little_by_forgetting(tastes):
    faded = [followed(taste, taste, half_life=HALF_LIFE, seed=seed) for seed, (taste, _) in enumerate(tastes)]
    kept = [followed(taste, taste, half_life=None, seed=seed) for seed, (taste, _) in enumerate(tastes)]
    assert np.mean(kept) > np.mean(faded) > np.mean(kept) - 0.06
