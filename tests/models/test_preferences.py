from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attune.models.data.preferences import Comparison, ComparisonInvalid, Comparisons, together
from tests.models.small_world import small_world

RECORDS = [
    Comparison("ann", "How are you?", "Fine.", "Why do you ask?"),
    Comparison("bob", "How are you?", "Why do you ask?", "Fine.", weight=2.0, time_s=10.5),
    Comparison("ann", "Boil an egg?", "Nine minutes.", "Ask a cook.", tie=True, context="be brief"),
    Comparison("ann", "Boil an egg?", "Nine minutes.", "Ten.", context=None),
]


def test_records_come_back_as_they_went_in():
    assert list(Comparisons.from_records(RECORDS).records()) == RECORDS


def test_each_text_is_kept_once_however_many_comparisons_it_is_in():
    comparisons = Comparisons.from_records(RECORDS)
    assert comparisons.texts.candidates == (
        ("How are you?", "Fine."),
        ("How are you?", "Why do you ask?"),
        ("Boil an egg?", "Nine minutes."),
        ("Boil an egg?", "Ask a cook."),
        ("Boil an egg?", "Ten."),
    )
    assert comparisons.texts.prompts == (("How are you?", None), ("Boil an egg?", "be brief"), ("Boil an egg?", None))
    assert comparisons.users == ("ann", "bob")


def test_taking_rows_keeps_the_tables_and_the_order_asked_for():
    comparisons = Comparisons.from_records(RECORDS)
    taken = comparisons.take(np.array([3, 1]))
    assert list(taken.records()) == [RECORDS[3], RECORDS[1]]
    assert taken.texts is comparisons.texts


def test_rows_of_users_cover_every_row_once_and_leave_out_users_without_any():
    comparisons = Comparisons.from_records(RECORDS)
    assert {user: rows.tolist() for user, rows in comparisons.rows_of_users().items()} == {0: [0, 2, 3], 1: [1]}
    assert set(comparisons.take(np.array([1])).rows_of_users()) == {1}


def test_equal_records_have_equal_hashes_and_any_change_is_another_hash():
    first = Comparisons.from_records(RECORDS).sha256()
    assert Comparisons.from_records(list(RECORDS)).sha256() == first
    changed = [replace(RECORDS[0], chosen=RECORDS[0].rejected, rejected=RECORDS[0].chosen), *RECORDS[1:]]
    assert Comparisons.from_records(changed).sha256() != first
    assert Comparisons.from_records(RECORDS[::-1]).sha256() != first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "  "}, "comparison 1: prompt must not be blank"),
        ({"chosen": "", "rejected": ""}, "comparison 1: chosen and rejected must not be blank"),
        ({"user": ""}, "comparison 1: user must not be blank"),
        ({"rejected": "Why do you ask?"}, "comparison 1: chosen and rejected are the same text"),
        ({"weight": 0.0}, "comparison 1: weight is 0.0"),
        ({"weight": float("nan")}, "comparison 1: weight is nan"),
    ],
)
def test_a_bad_record_is_refused_by_its_position_and_field(change, said):
    with pytest.raises(ComparisonInvalid, match=said):
        Comparisons.from_records([RECORDS[0], replace(RECORDS[1], **change)])


def test_no_comparisons_are_refused():
    with pytest.raises(ComparisonInvalid, match="no comparisons"):
        Comparisons.from_records([])


def test_two_sets_of_people_over_the_same_texts_are_put_together_and_a_name_on_both_sides_is_refused():
    data, _ = small_world(users=20, per_user=5)
    others = replace(data.train, users=tuple(f"other {name}" for name in data.train.users))
    both = together(data.train, others)
    assert len(both) == 2 * len(data.train)
    assert both.users == (*data.train.users, *others.users)
    assert list(both.records()) == [*data.train.records(), *others.records()]
    with pytest.raises(ComparisonInvalid, match="20 users are in both parts, such as 'u0'"):
        together(data.train, data.validation)
    with pytest.raises(ComparisonInvalid, match="over one table of texts"):
        together(data.train, Comparisons.from_records(list(others.records())[:3]))
