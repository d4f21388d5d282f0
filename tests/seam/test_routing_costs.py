"""Costs and hysteresis: worked out by hand, and the law that is logged stays the law of the draw."""

from __future__ import annotations

import numpy as np
import pytest

from attune.models.seam.routing import choose, first_law, keeps_last, member_costs, utilities

# Expected values 1.0, 0.9 and 0.2; member 1 is best in the second sample.
SAMPLED = np.array([[1.4, 0.8, 0.3], [0.6, 1.0, 0.1]])


def test_a_cost_is_the_mean_of_the_shares_of_the_greatest_price_and_latency():
    assert member_costs(np.array([10.0, 5.0]), np.array([1.0, 4.0])).tolist() == [0.625, 0.75]
    assert member_costs(np.array([10.0, 5.0]), np.array([1.0, 4.0]), price_share=1.0).tolist() == [1.0, 0.5]
    assert member_costs(np.zeros(2), np.array([1.0, 4.0])).tolist() == [0.125, 0.5]


@pytest.mark.parametrize(
    ("prices", "latencies", "share"),
    [([1.0, -1.0], [1.0, 1.0], 0.5), ([1.0], [1.0, 1.0], 0.5), ([1.0, np.nan], [1.0, 1.0], 0.5), ([1.0], [1.0], 1.5)],
)
def test_costs_that_are_none_are_refused(prices, latencies, share):
    with pytest.raises(ValueError, match=r"prices .* price_share"):
        member_costs(np.array(prices), np.array(latencies), price_share=share)


def test_a_cost_is_taken_off_in_every_sample():
    priced = utilities(SAMPLED, np.array([1.0, 0.5, 0.0]), 0.2)
    np.testing.assert_allclose(priced, [[1.2, 0.7, 0.3], [0.4, 0.9, 0.1]])
    assert utilities(SAMPLED, np.array([1.0, 0.5, 0.0]), 0.0).tolist() == SAMPLED.tolist()


def test_a_dear_member_loses_the_users_for_whom_it_is_hardly_better():
    before = first_law("best", SAMPLED, 0.0)
    after = first_law("best", utilities(SAMPLED, np.array([1.0, 0.0, 0.0]), 0.2), 0.0)
    assert (before.tolist(), after.tolist()) == ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])


@pytest.mark.parametrize(("costs", "trade_off"), [(np.zeros(2), 1.0), (np.zeros(3), -0.1), (np.zeros(3), np.inf)])
def test_utilities_that_are_none_are_refused(costs, trade_off):
    with pytest.raises(ValueError, match="costs are"):
        utilities(SAMPLED, costs, trade_off)


def test_the_last_member_stays_until_another_is_better_by_more_than_the_hysteresis():
    mean = np.array([1.0, 0.75, 0.25])
    assert [keeps_last(mean, 1, hysteresis) for hysteresis in (0.0, 0.24, 0.25)] == [False, False, True]
    assert keeps_last(mean, 0, 0.0)
    assert not keeps_last(mean, None, 9.0)


def test_hysteresis_changes_the_law_and_nothing_but_the_law():
    assert first_law("best", SAMPLED, 0.3, last=1, hysteresis=0.2).tolist() == [0.0, 1.0, 0.0]
    assert first_law("best", SAMPLED, 0.3, last=2, hysteresis=0.2).tolist() == [1.0, 0.0, 0.0]
    np.testing.assert_allclose(first_law("sample", SAMPLED, 0.3, last=1, hysteresis=0.2), [0.1, 0.8, 0.1])
    np.testing.assert_allclose(first_law("sample", SAMPLED, 0.3, last=2, hysteresis=0.2), [0.45, 0.45, 0.1])
    assert first_law("sample", SAMPLED, 0.3, last=1).tolist() == first_law("sample", SAMPLED, 0.3).tolist()
    assert first_law("uniform", SAMPLED, 0.3, last=1, hysteresis=9.0).tolist() == [1 / 3] * 3


def test_draws_with_hysteresis_follow_the_law_that_is_logged():
    rng = np.random.default_rng(0)
    drawn = [choose("sample", SAMPLED, count=1, epsilon=0.3, rng=rng, last=1, hysteresis=0.2) for _ in range(4000)]
    shares = np.bincount([choice.members[0] for choice in drawn], minlength=3) / 4000
    np.testing.assert_allclose(shares, drawn[0].propensities, atol=0.025)
    assert all(choice.propensity == choice.propensities[choice.members[0]] for choice in drawn)


@pytest.mark.parametrize(("last", "hysteresis"), [(3, 0.1), (-1, 0.1), (0, -0.1), (0, np.nan)])
def test_a_last_member_that_is_none_is_refused(last, hysteresis):
    with pytest.raises(ValueError, match=f"last is {last} of 3 members"):
        choose("best", SAMPLED, count=1, epsilon=0.0, rng=np.random.default_rng(0), last=last, hysteresis=hysteresis)
