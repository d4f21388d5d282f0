"""How sets are cut to the size of a new deployment: nobody is on two sides, sizes are kept, and equal seeds cut alike."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from attune.models.data.preferences import Comparisons
from studies.small_data.cutting import VALIDATION, SmallSet, cut
from studies.small_data.run import COUNTS, TODAY, _said, _summary, render
from tests.models.small_world import small_world


@pytest.fixture(scope="module")
def everyone() -> Comparisons:
    data, test = small_world(users=120, per_user=20)
    return data.train.join(data.validation).join(test)


def small(apart, per_person=10):
    return SmallSet("nowhere", apart, per_person, lambda _folder: None)


def test_people_are_on_one_side_and_tell_no_more_than_they_may(everyone):
    found = cut(everyone, small("people"), size=300, seed=1, most_tested=25)
    sides = [set(part.user.tolist()) for part in (found.train, found.validation, found.test)]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]
    assert len(sides[2]) == 25
    for part in (found.train, found.validation, found.test):
        assert np.bincount(part.user).max() <= 10
    told = len(found.train) + len(found.validation)
    assert 300 <= told < 310
    assert len(found.validation) / told == pytest.approx(VALIDATION, abs=0.05)


def test_prompts_are_on_one_side_where_labels_are_by_a_handful_of_raters(everyone):
    found = cut(everyone, small("prompts", 4000), size=400, seed=0, most_tested=150)
    sides = [set(part.prompt.tolist()) for part in (found.train, found.validation, found.test)]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]
    assert sides[2]


def test_one_seed_cuts_alike_and_another_otherwise(everyone):
    one, same, other = (cut(everyone, small("people"), size=200, seed=seed, most_tested=9).train.sha256() for seed in (3, 3, 4))
    assert one == same != other


def test_a_set_that_leaves_nobody_for_the_test_is_refused_with_the_numbers(everyone):
    with pytest.raises(ValueError, match=r"9000 of 1200 comparisons leave -?\d+ of 120 people for the test"):
        cut(everyone, small("people"), size=9000, seed=0, most_tested=9)


def test_the_report_says_how_many_of_those_tested_have_told_anything(everyone):
    class Undecided:
        def predict(self, _told, targets):
            return SimpleNamespace(probabilities=np.full(len(targets), 0.5))

    rows = everyone.rows_of_users()[0]
    said = [_said(Undecided(), everyone.take(rows[:count]), COUNTS) for count in (12, 11)]
    assert [one.told for one in said] == [10, 0]
    sizes = {"500": _summary({TODAY: said})}
    report = render({"layers": [0], "settings": {"seeds": [0]}, "sets": {"jokes": {"apart": "people", "sizes": sizes}}})
    assert "(people apart, 2 tested)" in report
    assert "1 of them have told 10 comparisons in the last columns, and the others none." in report
