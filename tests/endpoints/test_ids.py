"""Ids: sorted by time, and a candidate's decision is computed from it."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.service.ids import MAX_CANDIDATES, as_decision_id, candidate_id, new_decision_id, new_id, split_candidate


@given(st.integers(0, MAX_CANDIDATES - 1), st.floats(0, 4e9))
def test_a_candidate_id_gives_back_its_decision_and_its_index(index: int, now_s: float):
    decision = new_decision_id(now_s)
    assert split_candidate(candidate_id(decision, index)) == (decision, index)


def test_ids_are_version_7_and_sort_by_time():
    ids = [new_id(seconds) for seconds in (1.0, 2.0, 1_000_000_000.0, 1_800_000_000.5)]
    assert ids == sorted(ids)
    assert {uuid.UUID(found).version for found in ids} == {7}
    assert {uuid.UUID(found).variant for found in ids} == {uuid.RFC_4122}
    assert uuid.UUID(ids[-1]).int >> 80 == 1_800_000_000_500


def test_a_decision_id_is_no_candidate_and_a_candidate_is_no_decision():
    decision = new_decision_id()
    assert split_candidate(decision) is None
    assert as_decision_id(decision) == decision
    assert as_decision_id(candidate_id(decision, 0)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{01a3185c-5000-7db5-afb6-d948e446e581}",
        "01a3185c50007db5afb6d948e446e581" + "0000",
        "é" * 36,
        "\ud800" * 36,
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",  # a random one, as models write them
        "f47ac10b-58cc-4372-a567-0e02b2c3d440",
        "01a3185c-5000-7db5-cfb6-d948e446e581",
    ],
)
def test_what_is_not_spelt_like_an_id_is_none(text: str):
    assert split_candidate(text) is None
    assert as_decision_id(text) is None


def test_there_is_no_place_for_a_64th_candidate():
    with pytest.raises(ValueError, match="63 candidates"):
        candidate_id(new_decision_id(), MAX_CANDIDATES)
