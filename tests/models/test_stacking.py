"""Heads as one: sizes and shares are those that people who were in no training lose least under, and few people change little."""

from __future__ import annotations

import numpy as np
import pytest

from attune.models.data.preferences import Comparison, Comparisons
from attune.models.training.stacking import fitted_size, stacked_shares

EQUAL = np.array([0.5, 0.5])


def told_by(people: int, each: int, *, tie: bool = False) -> Comparisons:
    return Comparisons.from_records(
        Comparison(f"u{person}", "p", f"a {person} {number}", f"b {person} {number}", tie=tie)
        for person in range(people)
        for number in range(each)
    )


def test_margins_that_are_right_three_times_in_four_are_sized_to_the_log_odds_of_three():
    told = told_by(5, 8)
    right = np.where(np.arange(40) % 4 == 0, -1.0, 1.0)
    assert fitted_size(right, told) == pytest.approx(np.log(3.0), abs=1e-6)
    assert fitted_size(right / 50.0, told) == pytest.approx(50.0 * np.log(3.0), rel=1e-6)
    assert fitted_size(-right, told) == 0.0


def test_ties_do_not_judge_beside_choices_whoever_told_them(rng):
    told = told_by(6, 8)
    tied = told_by(9, 5, tie=True)  # three people told nothing else
    both = Comparisons.from_records([*told.records(), *tied.records()])
    margins = rng.normal(size=(2, 48)) + np.array([[0.8], [0.2]])
    more = np.concatenate([margins, 5.0 * rng.normal(size=(2, 45))], axis=1)
    assert fitted_size(more[0], both) == pytest.approx(fitted_size(margins[0], told), abs=1e-9)
    np.testing.assert_allclose(stacked_shares(more, both, EQUAL, 20), stacked_shares(margins, told, EQUAL, 20), atol=1e-9)


def test_ties_alone_say_that_a_head_is_too_sure_and_one_that_says_nothing_is_left_as_it_is():
    assert fitted_size(np.ones(40), told_by(5, 8, tie=True)) == pytest.approx(0.0, abs=1e-6)
    assert fitted_size(np.zeros(40), told_by(5, 8)) == 1.0


def test_a_head_that_is_never_wrong_is_not_made_endlessly_large():
    assert fitted_size(np.ones(40), told_by(5, 8)) <= 1000.0


def test_shares_are_those_at_which_loss_and_entropy_pull_alike(rng):
    told, judges = told_by(30, 4), 30
    margins = rng.normal(size=(5, 120)) + 0.3 * np.arange(5)[:, None]
    expected = np.arange(1.0, 6.0) / 15.0
    shares = stacked_shares(margins, told, expected, judges)
    assert shares.sum() == pytest.approx(1.0)
    assert shares.min() > 0
    pull = margins @ (1.0 / (1.0 + np.exp(-(shares @ margins))) - 1.0) / 120.0 + np.log(shares / expected) / judges
    np.testing.assert_allclose(pull, pull.mean(), atol=2e-3)


def test_few_who_judge_change_little_and_many_leave_the_better_head_nearly_alone(rng):
    told = told_by(60, 10)
    margins = np.stack([1.0 + 0.2 * rng.normal(size=600), rng.normal(size=600)])
    few, many = (stacked_shares(margins, told, EQUAL, judges) for judges in (0.5, 10_000))
    np.testing.assert_allclose(few, EQUAL, atol=0.1)
    assert many[0] > 0.99
    expected = np.array([0.1, 0.9])
    np.testing.assert_allclose(stacked_shares(margins, told, expected, 1e-3), expected, atol=1e-3)


def test_heads_that_say_the_same_keep_their_expected_shares():
    margins = np.ones((2, 40))
    np.testing.assert_allclose(stacked_shares(margins, told_by(5, 8), np.array([0.3, 0.7]), 5), [0.3, 0.7], atol=1e-9)


def test_who_told_much_is_still_one_person():
    records = [*told_by(9, 1).records(), *(Comparison("many", "p", f"c {number}", f"d {number}") for number in range(91))]
    told = Comparisons.from_records(records)
    mine = np.array([told.users[user] == "many" for user in told.user])
    first_right = np.where(mine, -1.0, 1.0)
    assert stacked_shares(np.stack([first_right, -first_right]), told, EQUAL, 1000)[0] > 0.9
    assert fitted_size(first_right, told) == pytest.approx(np.log(9.0), rel=1e-5)
