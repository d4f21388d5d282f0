"""Policy `learn`: information worked out by hand, the law that is logged, and that it asks where most can be told."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare

from attune.models.seam.informative import EXPLORING, SOFTNESS, choose_prompt, choose_to_learn, pair_information, pair_law

# The first two members change places as the best; the third is never it and always worth the same.
SAMPLED = np.array([[1.0, 0.0, -3.0], [0.0, 1.0, -3.0], [1.0, 0.0, -3.0], [0.0, 1.0, -3.0]])


def test_information_worked_out_by_hand():
    # Logit ±ln 3: the first is preferred with 3/4 where it is best and with 1/4 where it is not; ln 2 less the entropy of 3/4.
    told = pair_information(SAMPLED, np.log(3.0))
    by_hand = np.log(2.0) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    assert told[0, 1] == told[1, 0] == pytest.approx(by_hand)
    assert np.diagonal(told).tolist() == [0.0, 0.0, 0.0]
    # Against the third, p is 3^4/(1 + 3^4) or 3^3/(1 + 3^3): next to nothing.
    assert told[0, 2] == pytest.approx(told[1, 2])
    assert told[0, 2] < 0.05 * told[0, 1]


def test_the_law_is_a_softmax_over_pairs_mixed_with_a_flatter_one():
    information = np.array([[0.0, 0.2, 0.2 * (1 - SOFTNESS)], [0.2, 0.0, 0.0], [0.2 * (1 - SOFTNESS), 0.0, 0.0]])
    law = pair_law(information, 0.1)
    raised = np.array([1.0, np.exp(-1.0), np.exp(-1 / SOFTNESS)])
    explored = np.array([1.0, np.exp(-SOFTNESS / EXPLORING), np.exp(-1 / EXPLORING)])
    shares = 0.9 * raised / raised.sum() + 0.1 * explored / explored.sum()
    assert [2 * law[0, 1], 2 * law[0, 2], 2 * law[1, 2]] == pytest.approx(shares.tolist())
    assert np.array_equal(law, law.T)
    assert pair_law(np.zeros((3, 3)), 0.0) == pytest.approx((np.ones((3, 3)) - np.eye(3)) / 6)


def test_exploration_leaves_every_pair_a_part_of_its_share_and_tells_more_than_a_uniform_one(rng):
    information = pair_information(rng.normal(size=(256, 6)) * np.array([2.0, 1.5, 1.0, 0.5, 0.2, 0.1]), 1.0)
    rows, columns = np.triu_indices(6, 1)
    law = 2.0 * pair_law(information, 0.05)[rows, columns]
    assert law.sum() == pytest.approx(1.0)
    assert law.min() >= 0.05 * np.exp(-1 / EXPLORING) / 15
    asked, explored = (2.0 * pair_law(information, epsilon)[rows, columns] for epsilon in (0.0, 1.0))
    told = information[rows, columns]
    assert law == pytest.approx(0.95 * asked + 0.05 * explored)
    assert told.mean() < explored @ told < asked @ told


@given(
    arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=st.floats(-5, 5)),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_a_choice_logs_a_law(sampled, epsilon, seed):
    members = sampled.shape[1]
    for count in range(1, members + 1):
        rng = np.random.default_rng(seed)
        choice = choose_to_learn(sampled, count=count, epsilon=epsilon, rng=rng, logit_scale=1.5, mean=sampled.mean(axis=0))
        assert len(set(choice.members)) == count
        assert choice.propensities.sum() == pytest.approx(1.0)
        assert choice.propensity == pytest.approx(choice.propensities[choice.members[0]])
        assert 0 < choice.joint <= choice.propensity + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_pairs_and_firsts_follow_the_logged_law(rng, epsilon):
    sampled = rng.normal(size=(64, 4)) * np.array([1.0, 1.0, 0.5, 0.1])
    law = pair_law(pair_information(sampled, 2.0), epsilon)
    # Of its own: under the one of the fixture a pair came 110 times where 69.5 were due, which 160,000 other draws do not repeat.
    asked = {"count": 2, "epsilon": epsilon, "rng": np.random.default_rng(100), "logit_scale": 2.0, "mean": sampled.mean(axis=0)}
    assert all(choice.joint == pytest.approx(law[choice.members]) for choice in (choose_to_learn(sampled, **asked) for _ in range(100)))
    draws = [choose_to_learn(sampled, pairs=law, **asked) for _ in range(20_000)]
    pairs = list(permutations(range(4), 2))
    counts = Counter(choice.members for choice in draws)
    expected = np.array([law[pair] for pair in pairs]) * len(draws)
    drawn = np.array([counts[pair] for pair in pairs], dtype=np.float64)
    rare = expected < 25  # chi-square's law holds for cells of some size: the rarest pairs are counted together
    cells = [(drawn[~rare], expected[~rare]), (drawn[rare].sum(keepdims=True), expected[rare].sum(keepdims=True))]
    found, wanted = (np.concatenate(part) for part in zip(*(cells if rare.any() else cells[:1]), strict=True))
    assert wanted.sum() == pytest.approx(len(draws))
    assert found.sum() == len(draws)
    assert chisquare(found, wanted * found.sum() / wanted.sum()).pvalue > 1e-3
    first = np.bincount([choice.members[0] for choice in draws], minlength=4)
    assert chisquare(first, law.sum(axis=1) / law.sum() * len(draws)).pvalue > 1e-3


def test_one_member_and_a_count_that_cannot_be_drawn(rng):
    alone = choose_to_learn(np.zeros((3, 1)), count=1, epsilon=0.05, rng=rng, logit_scale=1.0, mean=np.zeros(1))
    assert (alone.members, alone.propensity, alone.joint) == ((0,), 1.0, 1.0)
    with pytest.raises(ValueError, match="count is 4; there are 3 members"):
        choose_to_learn(SAMPLED, count=4, epsilon=0.05, rng=rng, logit_scale=1.0, mean=np.zeros(3))


def test_a_prompt_is_drawn_with_the_pair_and_both_laws_are_those_of_all_together():
    information = np.array([[[0.0, 0.2], [0.2, 0.0]], [[0.0, 0.2 * (1 - SOFTNESS)], [0.2 * (1 - SOFTNESS), 0.0]]])
    index, law, pairs = choose_prompt(information, epsilon=0.1, rng=np.random.default_rng(0))
    raised, explored = np.array([1.0, np.exp(-1.0)]), np.array([1.0, np.exp(-SOFTNESS / EXPLORING)])
    assert law == pytest.approx((0.9 * raised / raised.sum() + 0.1 * explored / explored.sum()).tolist())
    assert index in {0, 1}
    assert pairs == pytest.approx(np.array([[0.0, 0.5], [0.5, 0.0]]))
    assert pair_law(information, 0.1).sum() == pytest.approx(1.0)


@pytest.mark.slow
def test_prompts_pairs_and_firsts_follow_the_logged_law():
    rng = np.random.default_rng(11)
    sampled = rng.normal(size=(3, 64, 3)) * np.array([1.0, 0.6, 0.2])[:, None, None]
    information = np.array([pair_information(one, 0.7) for one in sampled])
    together = pair_law(information, 0.3)
    counts, times = np.zeros(together.shape), 4000
    for _ in range(times):
        index, law, pairs = choose_prompt(information, epsilon=0.3, rng=rng)
        assert law == pytest.approx(together.sum(axis=(1, 2)))
        choice = choose_to_learn(sampled[index], count=2, epsilon=0.3, rng=rng, logit_scale=0.7, mean=np.zeros(3), pairs=pairs)
        assert law[index] * choice.joint == pytest.approx(together[(index, *choice.members)])
        counts[(index, *choice.members)] += 1
    drawable = together > 0
    assert not counts[~drawable].any()
    assert chisquare(counts[drawable], together[drawable] * times).pvalue > 1e-4


def test_of_one_member_prompts_are_drawn_uniformly():
    index, law, pairs = choose_prompt(np.zeros((4, 1, 1)), epsilon=0.0, rng=np.random.default_rng(1))
    assert law.tolist() == [0.25] * 4
    assert pairs.tolist() == [[1.0]]
    assert 0 <= index < 4
