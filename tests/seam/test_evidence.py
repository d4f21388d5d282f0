"""Sums of evidence: the grid that makes them exact, and forward decay."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attune.models.seam.evidence import GRID, HALF_LIVES_PER_EPOCH, MAX_EVIDENCE, Decay, align, half, quantise

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

vectors = arrays(np.float64, 3, elements=st.floats(-80, 80, width=64))
HALF_LIFE_S = 100.0
EPOCH_S = HALF_LIVES_PER_EPOCH * HALF_LIFE_S


def summed(parts: list[Array]) -> Array:
    total = np.zeros(3)
    for part in parts:
        total = total + part
    return total


def added(total: Array, epoch: int, part: Array, part_epoch: int) -> tuple[Array, int]:
    """What a store does: bring the older of the two to the landmark of the later, then add."""
    latest = max(epoch, part_epoch)
    return align(total, epoch, latest) + align(part, part_epoch, latest), latest


# --- the grid


def test_evidence_is_rounded_to_the_nearest_point_of_the_grid():
    # 0.3 * 2**24 = 5033164.8 and 1/3 * 2**24 = 5592405.33; 2**-26 is a quarter of a step.
    rounded = quantise(np.array([0.3, -1 / 3, 2.0**-26]))
    assert [Fraction(value) for value in rounded] == [Fraction(5033165, 2**24), Fraction(-5592405, 2**24), 0]


def test_evidence_beyond_the_limit_is_clipped_to_it():
    assert quantise(np.array([64.5, -1e300, 64.0])).tolist() == [64.0, -64.0, 64.0]


def test_a_negative_zero_becomes_zero_so_that_sums_do_not_remember_it():
    assert not np.signbit(quantise(np.array([-0.0, -(2.0**-30)]))).any()


def test_an_empty_vector_stays_empty():
    assert quantise(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_evidence_that_is_not_finite_is_refused_with_the_count(broken):
    with pytest.raises(ValueError, match="1 of 3 components"):
        quantise(np.array([0.0, broken, 1.0]))


def test_the_limit_on_comparisons_is_where_a_double_runs_out_of_grid_points():
    # 2**23 comparisons of the greatest size make 2**29, which is 2**53 steps of the grid: the last integer of a double.
    full = 2**23 * MAX_EVIDENCE
    assert full / GRID == 2**53
    assert (full - GRID) + GRID == full
    assert (full - GRID) != full


@given(vectors)
def test_half_precision_stays_on_the_grid_and_near(part):
    exact = quantise(part)
    rounded = half(exact)
    assert np.all(rounded / GRID == np.rint(rounded / GRID))
    assert np.all(np.abs(rounded - exact) <= 2.0**-11 * np.abs(exact))
    assert half(rounded).tobytes() == rounded.tobytes()


@given(st.lists(vectors, max_size=30), st.randoms(use_true_random=False))
def test_any_order_of_comparisons_gives_the_same_bits(parts, random):
    quantised = [quantise(part) for part in parts]
    shuffled = quantised.copy()
    random.shuffle(shuffled)
    assert summed(shuffled).tobytes() == summed(quantised).tobytes()


@given(st.lists(vectors, max_size=15), st.lists(vectors, max_size=15))
def test_merging_two_regions_gives_the_bits_of_one(left, right):
    left, right = [quantise(part) for part in left], [quantise(part) for part in right]
    assert (summed(left) + summed(right)).tobytes() == summed([*right, *left]).tobytes()


@given(st.lists(vectors, max_size=20), st.lists(vectors, min_size=1, max_size=5))
def test_taking_comparisons_back_restores_the_bits(kept, withdrawn):
    before = summed([quantise(part) for part in kept])
    total = before
    for part in withdrawn:
        total = total + quantise(part)
    for part in withdrawn:  # in the order they came: not the order that would undo them one by one
        total = total - quantise(part)
    assert total.tobytes() == before.tobytes()


@given(vectors)
def test_the_grid_is_symmetric_and_rounds_once(part):
    assert quantise(-part).tobytes() == (-quantise(part) + 0.0).tobytes()
    assert quantise(quantise(part)).tobytes() == quantise(part).tobytes()


# --- forward decay


@pytest.mark.parametrize("half_life_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_half_life_that_is_not_a_positive_number_is_refused(half_life_s):
    with pytest.raises(ValueError, match="half_life_s"):
        Decay(half_life_s)


def test_without_a_half_life_nothing_is_scaled():
    evidence = np.array([1.5, -2.0])
    stamped, epoch = Decay().stamp(evidence, 1.7e9)
    assert (stamped.tolist(), epoch) == ([1.5, -2.0], 0)
    assert Decay().read(stamped, epoch, 9e9).tolist() == [1.5, -2.0]


def test_a_stamp_is_two_to_the_half_lives_since_the_landmark():
    # An epoch is 256 * 100 s; 25,600 + 300 s is three half-lives after the landmark of epoch 1, so 2**3.
    stamped, epoch = Decay(HALF_LIFE_S).stamp(np.array([1.0, -0.5]), 25_900.0)
    assert (stamped.tolist(), epoch) == ([8.0, -4.0], 1)
    # 12.5 half-lives before 1970 is 243.5 after the landmark of epoch -1.
    stamped, epoch = Decay(HALF_LIFE_S).stamp(np.array([1.0]), -1_250.0)
    assert (stamped.tolist(), epoch) == ([pytest.approx(2.0**243.5, rel=1e-15)], -1)


def test_reading_after_one_half_life_halves():
    decay = Decay(HALF_LIFE_S)
    stamped, epoch = decay.stamp(np.array([3.0, -1.0]), 123_456.0)
    np.testing.assert_allclose(decay.read(stamped, epoch, 123_456.0), [3.0, -1.0], rtol=1e-12)
    np.testing.assert_allclose(decay.read(stamped, epoch, 123_556.0), [1.5, -0.5], rtol=1e-12)
    np.testing.assert_allclose(decay.read(stamped, epoch, 123_656.0), [0.75, -0.25], rtol=1e-12)


def test_two_epochs_align_by_an_exact_power_of_two():
    total = np.array([0.1, -7.0 / 3.0, 2.0**200])
    forward = align(total, 3, 5)
    assert [Fraction(value) for value in forward] == [Fraction(value) / 2**512 for value in total]
    assert align(forward, 5, 3).tobytes() == total.tobytes()


def test_comparisons_of_two_epochs_add_up_exactly_in_either_order():
    decay = Decay(HALF_LIFE_S)
    old = decay.stamp(np.array([3.0]), 2 * EPOCH_S - 100.0)  # one half-life before the landmark: scaled by 2**255
    new = decay.stamp(np.array([5.0]), 2 * EPOCH_S + 100.0)  # one after it: by 2**1
    forwards, backwards = added(*old, *new), added(*new, *old)
    # At the landmark of epoch 2 they are worth 3 * 2**-1 and 5 * 2**1.
    assert forwards[1] == backwards[1] == 2
    assert forwards[0].tolist() == backwards[0].tolist() == [3 / 2 + 10.0]


def test_a_comparison_observed_before_the_stored_epoch_counts_what_it_is_worth():
    decay = Decay(HALF_LIFE_S)
    total, epoch = decay.stamp(np.array([4.0]), 10 * EPOCH_S)
    late = decay.stamp(np.array([1024.0]), 10 * EPOCH_S - 10 * HALF_LIFE_S)
    total, epoch = added(total, epoch, *late)
    assert epoch == 10
    assert decay.read(total, epoch, 10 * EPOCH_S).tolist() == [5.0]


def test_epochs_far_apart_neither_overflow_nor_complain():
    with np.errstate(over="raise", invalid="raise"):
        assert align(np.array([64.0, 0.0]), 0, 10**9).tolist() == [0.0, 0.0]
    assert align(np.array([0.0]), 10**9, 0).tolist() == [0.0]
    assert align(np.zeros(0), 0, 3).shape == (0,)


def test_a_reader_whose_clock_is_behind_the_landmark_reads_what_is_stored():
    decay = Decay(HALF_LIFE_S)
    assert decay.read(np.array([4.0]), 10, 10 * EPOCH_S - 1.0).tolist() == [4.0]
    assert decay.read(np.array([4.0]), 10**6, 0.0).tolist() == [4.0]


def test_a_user_who_was_away_for_ages_is_read_as_the_prior():
    assert Decay(HALF_LIFE_S).read(np.array([1e80]), 0, 1e9).tolist() == [0.0]


timed = st.lists(st.tuples(vectors, st.floats(0.0, 3 * EPOCH_S)), min_size=1, max_size=12)


@given(timed, st.randoms(use_true_random=False))
def test_decayed_sums_of_any_order_are_equal_up_to_rounding_and_are_the_defining_sum(comparisons, random):
    decay, now_s = Decay(HALF_LIFE_S), max(time for _, time in comparisons)
    shuffled = comparisons.copy()
    random.shuffle(shuffled)
    readings = []
    for order in (comparisons, shuffled):
        total, epoch = np.zeros(3), 0
        for evidence, observed_s in order:
            total, epoch = added(total, epoch, *decay.stamp(quantise(evidence), observed_s))
        readings.append(decay.read(total, epoch, now_s))
    defining, size = np.zeros(3), np.zeros(3)
    for evidence, observed_s in comparisons:
        worth = 2.0 ** (-(now_s - observed_s) / HALF_LIFE_S) * quantise(evidence)
        defining, size = defining + worth, size + np.abs(worth)
    assert np.all(np.abs(readings[0] - readings[1]) <= 1e-12 * size)
    assert np.all(np.abs(readings[0] - defining) <= 1e-12 * size)


@given(timed, vectors, st.floats(0.0, 3 * EPOCH_S))
def test_taking_a_decayed_comparison_back_is_right_to_rounding(kept, evidence, observed_s):
    decay, now_s = Decay(HALF_LIFE_S), 3 * EPOCH_S
    total, epoch = np.zeros(3), 0
    for part, time in kept:
        total, epoch = added(total, epoch, *decay.stamp(quantise(part), time))
    before = decay.read(total, epoch, now_s)
    stamped, its_epoch = decay.stamp(quantise(evidence), observed_s)
    total, epoch = added(*added(total, epoch, stamped, its_epoch), -stamped, its_epoch)
    np.testing.assert_allclose(decay.read(total, epoch, now_s), before, rtol=1e-12, atol=1e-12)


def test_sums_of_different_half_lives_are_kept_under_different_names():
    names = [Decay(half_life_s).keep_under("0123abcdef") for half_life_s in (None, 86_400.0, 86_400.5, 2_592_000.0)]
    assert names[0] == "0123abcdef"
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) for name in names)
