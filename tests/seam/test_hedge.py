"""Hedge over heads. Margins of ln 3 are used where numbers are worked out by hand: sigma(ln 3) = 3/4, sigma(-ln 3) = 1/4."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attune.models.seam.hedge import HedgeSettings, hedge_evidence, hedge_weights, losses, mixed_probability, sigmoid, softmax

LN3 = math.log(3.0)

margins = arrays(np.float64, 4, elements=st.floats(-30, 30))


def test_sigmoid_has_its_known_values():
    np.testing.assert_allclose(sigmoid(np.array([0.0, LN3, -LN3, math.log(9.0)])), [1 / 2, 3 / 4, 1 / 4, 9 / 10], rtol=1e-15)


def test_sigmoid_and_losses_of_extreme_margins_do_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        assert sigmoid(np.array([800.0, -800.0, np.inf, -np.inf])).tolist() == [1.0, 0.0, 1.0, 0.0]
        assert losses(np.array([800.0, -800.0]), cap=4.0).tolist() == [0.0, 4.0]
        assert losses(np.array([800.0, -800.0]), cap=4.0, tie=True).tolist() == [4.0, 4.0]


def test_softmax_has_its_known_values_along_the_last_axis():
    # exp: 1, 3, 6 of 10; and a masked entry.
    logits = np.array([[0.0, LN3, math.log(6.0)], [1000.0, -np.inf, 1000.0]])
    np.testing.assert_allclose(softmax(logits), [[0.1, 0.3, 0.6], [0.5, 0.0, 0.5]], rtol=1e-14)


def test_the_loss_is_the_negative_log_likelihood_up_to_the_cap():
    # -ln(3/4), -ln(1/2), -ln(1/4); the last would be 10.00005.
    expected = [math.log(4 / 3), math.log(2), math.log(4), 4.0]
    np.testing.assert_allclose(losses(np.array([LN3, 0.0, -LN3, -10.0]), cap=4.0), expected, rtol=1e-14)


def test_the_loss_of_a_tie_is_the_mean_over_both_orders():
    # (ln(4/3) + ln 4) / 2 = ln(16/3) / 2 for either sign, and ln 2 for a head that is undecided too.
    half = math.log(16 / 3) / 2
    np.testing.assert_allclose(losses(np.array([LN3, -LN3, 0.0]), cap=4.0, tie=True), [half, half, math.log(2)], rtol=1e-14)


def test_evidence_is_the_loss_less_its_mean():
    # ln(4/3) and ln 4 are ln(16/3)/2 -+ ln(3)/2.
    np.testing.assert_allclose(hedge_evidence(np.array([LN3, -LN3]), cap=4.0), [-LN3 / 2, LN3 / 2], rtol=1e-14)


def test_weights_after_one_comparison_are_those_of_bayes():
    evidence = hedge_evidence(np.array([LN3, -LN3]), cap=4.0)
    # Prior 1/2, 1/2 with likelihoods 3/4, 1/4; then prior 1/5, 4/5: 3/20 to 4/20.
    np.testing.assert_allclose(hedge_weights(np.log([0.5, 0.5]), evidence, eta=1.0), [3 / 4, 1 / 4], rtol=1e-14)
    np.testing.assert_allclose(hedge_weights(np.log([0.2, 0.8]), evidence, eta=1.0), [3 / 7, 4 / 7], rtol=1e-14)


def test_the_learning_rate_is_a_power_of_the_likelihood():
    evidence = hedge_evidence(np.array([LN3, -LN3]), cap=4.0)
    # (3/4)**2 to (1/4)**2 is 9 to 1.
    np.testing.assert_allclose(hedge_weights(np.zeros(2), evidence, eta=2.0), [9 / 10, 1 / 10], rtol=1e-14)


def test_a_masked_head_has_weight_zero_and_the_others_share():
    np.testing.assert_allclose(hedge_weights(np.array([0.0, -np.inf, 0.0]), np.zeros(3), eta=1.0), [0.5, 0.0, 0.5])


def test_the_probability_is_mixed_over_heads():
    # 3/4 * 3/4 + 1/4 * 1/4
    assert mixed_probability(np.array([0.75, 0.25]), np.array([LN3, -LN3])) == pytest.approx(5 / 8, rel=1e-14)


def test_weights_of_a_long_history_do_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        assert hedge_weights(np.zeros(2), np.array([-(2.0**29), 2.0**29]), eta=1.0).tolist() == [1.0, 0.0]


@given(st.lists(margins, min_size=1, max_size=20), arrays(np.float64, 4, elements=st.floats(-3, 3)))
def test_many_comparisons_are_exact_bayes_over_which_head_the_user_is(history, log_prior):
    posterior = [math.exp(value) for value in log_prior]
    for comparison in history:
        for head, margin in enumerate(comparison):
            posterior[head] *= 1.0 / (1.0 + math.exp(-margin))
        scale = sum(posterior)
        posterior = [value / scale for value in posterior]
    cumulative = np.sum([hedge_evidence(comparison, cap=1e9) for comparison in history], axis=0)
    np.testing.assert_allclose(hedge_weights(log_prior, cumulative, eta=1.0), posterior, rtol=1e-9, atol=1e-12)


@given(arrays(np.float64, 4, elements=st.floats(-700, 0)), arrays(np.float64, 4, elements=st.floats(-1e6, 1e6)), st.floats(0.01, 10))
def test_weights_stay_on_the_simplex(log_prior, cumulative, eta):
    weights = hedge_weights(log_prior, cumulative, eta=eta)
    assert np.all(weights >= 0)
    assert np.sum(weights) == pytest.approx(1.0, abs=1e-12)


@given(margins, st.booleans())
def test_evidence_sums_to_zero_and_no_comparison_counts_more_than_the_cap(comparison, tie):
    evidence = hedge_evidence(comparison, cap=4.0, tie=tie)
    assert np.sum(evidence) == pytest.approx(0.0, abs=1e-12)
    assert np.ptp(evidence) <= 4.0


@given(st.lists(st.integers(-35, 35), min_size=4, max_size=4, unique=True))
def test_swapping_winner_and_loser_turns_the_order_of_the_heads_round(tenths):
    comparison = np.array(tenths) / 10.0  # losses below the cap, where no two are clipped to the same
    assert np.argsort(hedge_evidence(comparison, cap=4.0)).tolist() == np.argsort(hedge_evidence(-comparison, cap=4.0)).tolist()[::-1]


@given(margins)
def test_a_tie_does_not_know_who_was_first(comparison):
    assert hedge_evidence(comparison, cap=4.0, tie=True).tobytes() == hedge_evidence(-comparison, cap=4.0, tie=True).tobytes()


@pytest.mark.parametrize(
    ("eta", "cap"), [(0.0, 4.0), (-1.0, 4.0), (math.nan, 4.0), (math.inf, 4.0), (1.0, 0.0), (1.0, 65.0), (1.0, math.nan)]
)
def test_settings_that_could_not_learn_are_refused(eta, cap):
    with pytest.raises(ValueError, match="eta is"):
        HedgeSettings(eta, cap)
