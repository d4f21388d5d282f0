from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from attune.models.measuring.figures import ACCURACY, GAIN, accuracy, bootstrap, calibration_error, negative_log_likelihood, over_resamples


def test_accuracy_counts_one_half_as_half_right():
    assert accuracy(np.array([0.9, 0.4, 0.5, 0.6])) == pytest.approx((1 + 0 + 0.5 + 1) / 4)


def test_log_loss_is_the_mean_of_minus_log_and_stays_finite():
    assert negative_log_likelihood(np.array([0.5, 0.25])) == pytest.approx(1.5 * np.log(2))
    assert np.isfinite(negative_log_likelihood(np.array([0.0])))


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated():
    # Ten predictions of confidence 0.7, seven of them right; ten of 0.9, nine right.
    calibrated = np.array([0.7] * 7 + [0.3] * 3 + [0.9] * 9 + [0.1])
    assert calibration_error(calibrated) == pytest.approx(0.0, abs=1e-12)


def test_calibration_error_is_the_mean_gap_weighted_by_bin():
    # 0.9 said and right half of the time: a gap of 0.4 on half of the data; 0.6 said, 0.6 right on the other half.
    found = calibration_error(np.array([0.9, 0.9, 0.1, 0.1, 0.6, 0.6, 0.6, 0.4, 0.4]))
    assert found == pytest.approx(4 / 9 * 0.4)


def test_an_interval_covers_the_mean_in_about_95_of_100_samples():
    rng = np.random.default_rng(0)
    inside = [(found := bootstrap(rng.exponential(size=80), seed=trial, resamples=500)).low <= 1.0 <= found.high for trial in range(300)]
    assert 0.88 < np.mean(inside) < 0.99


def test_an_interval_of_equal_users_has_no_width_and_says_how_many_there_are():
    found = bootstrap(np.full(7, 0.25))
    assert (found.mean, found.low, found.high, found.users) == (0.25, 0.25, 0.25, 7)


@pytest.mark.parametrize("values", [np.array([]), np.array([0.5, np.nan])])
def test_an_interval_needs_finite_numbers(values):
    with pytest.raises(ValueError, match="needs finite numbers"):
        bootstrap(values)


@pytest.mark.parametrize(("count", "low"), [(1, 0.025), (4, 0.3976), (100, 0.9638)])
def test_equal_numbers_of_few_users_are_no_certainty(count, low):
    found = bootstrap(np.ones(count), bounds=ACCURACY)
    assert (found.mean, found.high, found.users) == (1.0, 1.0, count)
    assert found.low == pytest.approx(low, abs=1e-4)  # Clopper and Pearson: 0.025 ** (1 / count)


def test_a_gain_of_nothing_that_all_users_have_may_hide_both_ways():
    found = bootstrap(np.zeros(8), bounds=GAIN)
    assert found.mean == 0.0
    assert found.high == pytest.approx(0.3694, abs=1e-4)
    assert found.low == -found.high


def test_bounds_change_nothing_where_numbers_vary():
    values = np.array([0.1, 0.9, 0.4, 0.6])
    assert bootstrap(values, bounds=ACCURACY) == bootstrap(values)


def test_numbers_that_differ_by_their_rounding_alone_are_equal_ones():
    by_rounding = bootstrap(np.array([0.1 + 0.2, 0.3, 0.3]), bounds=ACCURACY)
    equal = bootstrap(np.array([0.3, 0.3, 0.3]), bounds=ACCURACY)
    assert (by_rounding.low, by_rounding.high) == pytest.approx((equal.low, equal.high))
    assert by_rounding.high - by_rounding.low > 0.5


@pytest.mark.parametrize("count", [1, 3, 1500, 30_000])
def test_resamples_are_the_same_however_many_are_held_at_once(count: int):
    values, resamples = np.random.default_rng(1).normal(size=count), 1100 if count < 30_000 else 90
    whole = np.random.default_rng(4).integers(0, count, size=(resamples, count))
    drawn = over_resamples(np.random.default_rng(4), count, resamples, lambda picked: values[picked].mean(axis=1))
    assert np.array_equal(drawn, values[whole].mean(axis=1))


def test_a_bootstrap_of_very_many_users_needs_little_memory():
    values = np.random.default_rng(1).normal(size=100_000)
    tracemalloc.start()
    found = bootstrap(values, resamples=100)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low < found.mean < found.high
    assert most < 40_000_000  # all resamples at once are 160 MB
