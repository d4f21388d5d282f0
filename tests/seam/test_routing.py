"""Choosing members: what is logged is the law that was drawn from, for the first draw and for ordered pairs."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attune.models.seam.routing import Policy, best_shares, choose, expected_values, first_law, joint_probability, next_law, sampled_values

DRAWS, SIGNIFICANCE = 4_000, 1e-3

# Best: 0 and 1 tie, 2, 0, 2, all three tie; so shares (1/2 + 1 + 1/3)/5, (1/2 + 1/3)/5, (1 + 1 + 1/3)/5.
TIED = np.array([[1.0, 1.0, 0.0], [0.0, 0.5, 2.0], [3.0, 0.0, 1.0], [0.0, 0.0, 4.0], [1.0, 1.0, 1.0]])
# Members 1 and 2 are the same member twice, and 3 is never best.
TWINS = np.array([[2.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, -1.0], [0.5, 1.5, 1.5, 1.0]])
CERTAIN = np.array([[0.0, 2.0, 1.0], [0.5, 3.0, 1.0]])
EVEN = np.zeros((4, 3))

SAMPLED = {"tied": TIED, "twins": TWINS, "certain": CERTAIN, "even": EVEN}
CASES: list[tuple[Policy, float, str]] = [
    *(("sample", epsilon, name) for epsilon in (0.0, 0.05) for name in SAMPLED),
    *(("uniform", epsilon, "tied") for epsilon in (0.0, 0.05)),
    *(("best", 0.05, name) for name in ("tied", "certain", "even")),
]
every_case = pytest.mark.parametrize(("policy", "epsilon", "name"), CASES)


def follows(counts: Counter[tuple[int, ...]], law: dict[tuple[int, ...], float]) -> bool:
    """Whether draws follow a law, by chi-square; what has probability 0 must not occur at all."""
    possible = [outcome for outcome, probability in law.items() if probability > 0]
    if set(counts) - set(possible):
        return False
    if len(possible) == 1:
        return True
    expected = np.array([law[outcome] for outcome in possible])
    observed = np.array([counts[outcome] for outcome in possible])
    return bool(scipy.stats.chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > SIGNIFICANCE)


# --- values and shares


def test_a_members_value_is_its_rewards_under_the_sampled_weights():
    weights = np.array([[0.25, 0.75], [1.0, 0.0]])
    values = np.array([[4.0, 0.0], [0.0, 8.0], [-2.0, 2.0]])
    assert sampled_values(weights, values).tolist() == [[1.0, 6.0, 1.0], [4.0, 0.0, -2.0]]
    assert expected_values(weights, values).tolist() == [2.5, 3.0, -0.5]


def test_members_that_tie_share_the_sample_evenly():
    np.testing.assert_allclose(best_shares(TIED), [11 / 30, 5 / 30, 14 / 30], rtol=1e-14)
    np.testing.assert_allclose(best_shares(TWINS), [1 / 3, 1 / 3, 1 / 3, 0.0], rtol=1e-14)
    np.testing.assert_allclose(best_shares(EVEN), [1 / 3] * 3, rtol=1e-14)


def test_the_law_of_each_policy():
    # 19/20 of the shares, and 1/60 for each of three members.
    np.testing.assert_allclose(first_law("sample", TIED, 0.05), [0.95 * 11 / 30 + 1 / 60, 0.95 / 6 + 1 / 60, 0.95 * 14 / 30 + 1 / 60])
    np.testing.assert_allclose(first_law("sample", TIED, 1.0), [1 / 3] * 3)
    assert first_law("uniform", TIED, 0.0).tolist() == [1 / 3] * 3
    assert first_law("best", TIED, 0.5).tolist() == [0.0, 0.0, 1.0]  # means 1, 1/2, 8/5
    assert first_law("best", EVEN, 0.0).tolist() == [1.0, 0.0, 0.0]  # a tie of means goes to the first, always


def test_an_unknown_policy_is_refused():
    with pytest.raises(AssertionError, match="greedy"):
        first_law("greedy", TIED, 0.0)


# --- joint law


def test_the_joint_law_without_replacement_worked_out_by_hand():
    law, mean = np.array([1 / 2, 1 / 3, 1 / 6]), np.zeros(3)
    np.testing.assert_allclose(next_law(law, mean, (0,)), [0.0, 2 / 3, 1 / 3])
    np.testing.assert_allclose(next_law(law, mean, (1,)), [3 / 4, 0.0, 1 / 4])
    # 1/2 * (1/3)/(1/2), 1/3 * (1/6)/(2/3), and the third is what is left.
    assert joint_probability(law, mean, (0, 1)) == pytest.approx(1 / 3, rel=1e-14)
    assert joint_probability(law, mean, (1, 2)) == pytest.approx(1 / 12, rel=1e-14)
    assert joint_probability(law, mean, (1, 2, 0)) == pytest.approx(1 / 12, rel=1e-14)
    assert joint_probability(law, mean, (2,)) == pytest.approx(1 / 6, rel=1e-14)


def test_where_no_probability_is_left_the_order_is_that_of_expected_values():
    law, mean = np.array([0.0, 1.0, 0.0]), np.array([3.0, 9.0, 5.0])
    assert next_law(law, mean, (1,)).tolist() == [0.0, 0.0, 1.0]
    assert joint_probability(law, mean, (1, 2, 0)) == 1.0
    assert joint_probability(law, mean, (1, 0, 2)) == 0.0
    assert joint_probability(law, mean, (0, 1)) == 0.0


values = st.one_of(st.integers(-2, 2).map(float), st.floats(-5, 5))


@given(
    arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=values),
    st.sampled_from(["sample", "best", "uniform"]),
    st.sampled_from([0.0, 1e-13, 0.05, 1.0]),
)
def test_the_probabilities_of_all_orders_of_one_length_sum_to_one(sampled, policy, epsilon):
    law, mean = first_law(policy, sampled, epsilon), sampled.mean(axis=0)
    for length in range(1, sampled.shape[1] + 1):
        total = sum(joint_probability(law, mean, order) for order in permutations(range(sampled.shape[1]), length))
        assert total == pytest.approx(1.0, abs=1e-9)


@given(
    arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=values),
    st.sampled_from(["sample", "best", "uniform"]),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_a_choice_logs_the_law_it_was_drawn_from(sampled, policy, epsilon, seed):
    members = sampled.shape[1]
    for count in range(1, members + 1):
        choice = choose(policy, sampled, count=count, epsilon=epsilon, rng=np.random.default_rng(seed))
        assert len(set(choice.members)) == count
        assert choice.propensities.tolist() == first_law(policy, sampled, epsilon).tolist()
        assert choice.propensity == choice.propensities[choice.members[0]] > 0
        assert choice.joint == joint_probability(choice.propensities, choice.mean, choice.members) > 0
        assert choice.joint <= choice.propensity + 1e-12
        np.testing.assert_allclose(choice.mean, sampled.mean(axis=0))
        np.testing.assert_allclose(choice.std, sampled.std(axis=0))


@pytest.mark.slow
@every_case
def test_first_draws_follow_the_logged_propensities(policy, epsilon, name):
    rng, sampled = np.random.default_rng(20261121), SAMPLED[name]
    choices = [choose(policy, sampled, count=1, epsilon=epsilon, rng=rng) for _ in range(DRAWS // 2)]
    law = {(member,): float(probability) for member, probability in enumerate(choices[0].propensities)}
    assert follows(Counter(choice.members for choice in choices), law)


@pytest.mark.slow
@every_case
def test_ordered_pairs_follow_the_logged_joint_law(policy, epsilon, name):
    rng, sampled = np.random.default_rng(20261122), SAMPLED[name]
    choices = [choose(policy, sampled, count=2, epsilon=epsilon, rng=rng) for _ in range(DRAWS)]
    law = {pair: joint_probability(choices[0].propensities, choices[0].mean, pair) for pair in permutations(range(sampled.shape[1]), 2)}
    assert follows(Counter(choice.members for choice in choices), law)
    assert all(choice.joint == law[choice.members] for choice in choices)


def test_the_chi_square_would_notice_a_law_that_is_a_little_off():
    rng = np.random.default_rng(5)
    counts = Counter(choose("sample", TIED, count=1, epsilon=0.15, rng=rng).members for _ in range(DRAWS))
    shares = first_law("sample", TIED, 0.15)
    assert follows(counts, {(member,): float(shares[member]) for member in range(3)})
    assert not follows(counts, {(member,): float(share) for member, share in enumerate(first_law("sample", TIED, 0.0))})
    assert not follows(counts, {(0,): 0.5, (1,): 0.5, (2,): 0.0})


# --- choosing


def test_the_same_state_of_the_generator_gives_the_same_members():
    first, second = (
        [choose("sample", TIED, count=2, epsilon=0.05, rng=rng).members for _ in range(20)]
        for rng in (np.random.default_rng(9), np.random.default_rng(9))
    )
    assert first == second
    assert len(set(first)) > 1


def test_best_takes_the_members_in_the_order_of_expected_value():
    choice = choose("best", TIED, count=3, epsilon=0.5, rng=np.random.default_rng(0))
    assert (choice.members, choice.propensity, choice.joint) == ((2, 0, 1), 1.0, 1.0)


def test_one_member_is_chosen_with_certainty():
    choice = choose("sample", np.zeros((3, 1)), count=1, epsilon=0.05, rng=np.random.default_rng(0))
    assert (choice.members, choice.propensity, choice.joint) == ((0,), 1.0, 1.0)


@pytest.mark.parametrize("count", [0, 4, -1])
def test_a_count_that_cannot_be_drawn_is_refused(count):
    with pytest.raises(ValueError, match=f"count is {count}; there are 3 members"):
        choose("sample", TIED, count=count, epsilon=0.05, rng=np.random.default_rng(0))


@pytest.mark.parametrize("epsilon", [-0.01, 1.01, float("nan")])
def test_exploration_outside_its_range_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        choose("sample", TIED, count=1, epsilon=epsilon, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("sampled", "message"),
    [
        (np.zeros((0, 3)), r"\(0, 3\)"),
        (np.zeros((3, 0)), r"\(3, 0\)"),
        (np.zeros(3), r"\(3,\)"),
        (np.array([[0.0, np.nan]]), "1 values that are not finite"),
        (np.array([[np.inf, np.inf]]), "2 values that are not finite"),
    ],
)
def test_values_that_are_none_are_refused(sampled, message):
    with pytest.raises(ValueError, match=message):
        choose("sample", sampled, count=1, epsilon=0.05, rng=np.random.default_rng(0))
