from __future__ import annotations

import numpy as np
import pytest

from attune.models.data.preferences import Comparison, Comparisons
from attune.models.data.splits import SplitInvalid, prompt_keys, split

COMPARISONS = Comparisons.from_records(
    Comparison(f"u{user}", f"prompt {prompt}", "yes", "no", context=None if user % 2 else "be brief")
    for user in range(10)
    for prompt in range(12)
)


def sets(part):
    return set(part.user.tolist()), set(prompt_keys(part).tolist())


@pytest.mark.parametrize("by", ["user", "prompt"])
def test_parts_share_no_key_and_lose_no_comparison(by):
    parts = split(COMPARISONS, by, (0.5, 0.25, 0.25), seed=3)
    keys = [sets(part)[0 if by == "user" else 1] for part in (parts.train, parts.validation, parts.test)]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]
    assert len(parts.train) + len(parts.validation) + len(parts.test) == len(COMPARISONS)


def test_one_prompt_under_two_contexts_is_one_prompt():
    assert len(np.unique(prompt_keys(COMPARISONS))) == 12
    assert len(COMPARISONS.texts.prompts) == 24


def test_the_same_seed_draws_the_same_parts_and_another_seed_others():
    first, again, other = (split(COMPARISONS, "user", (0.5, 0.25, 0.25), seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.train.user, again.train.user)
    assert set(first.train.user) != set(other.train.user)


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_that_are_no_parts_of_a_whole_are_refused(fractions):
    with pytest.raises(SplitInvalid, match="must be non-negative and sum to 1"):
        split(COMPARISONS, "user", fractions, seed=0)


def test_too_few_users_for_a_part_are_refused_with_their_number():
    with pytest.raises(SplitInvalid, match=r"10 users are too few: a part of 2% would be empty"):
        split(COMPARISONS, "user", (0.96, 0.02, 0.02), seed=0)


def test_a_part_of_nothing_may_be_empty():
    assert len(split(COMPARISONS, "user", (0.8, 0.2, 0.0), seed=0).test) == 0
