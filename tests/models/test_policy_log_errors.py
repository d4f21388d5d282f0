"""Logs of which no policy's value can be told, and the one sentence that says why."""

from __future__ import annotations

import pytest

from attune.models.measuring.policy.estimators import LogInvalid, duels_from
from attune.models.measuring.policy.values_report import evaluate_log
from tests.models.test_offpolicy import comparison, decision


def test_a_table_in_the_place_of_a_log_is_called_so_once(tmp_path):
    table = tmp_path / "pairs.jsonl"
    table.write_text('{"user": "u", "user": "v", "prompt": "p", "chosen": "a", "rejected": "b"}')
    with pytest.raises(LogInvalid) as caught:
        evaluate_log(table, table, tmp_path / "out")
    assert str(caught.value).count("a table of comparisons") == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"joint_propensity": "x"}, "cannot be used: could not convert string to float: 'x'"),
        ({"propensities": None}, "cannot be used: "),
        ({"propensities": {"a": 1.25, "b": -0.5, "c": 0.25}}, "a law that sums to 1, the least -0.5"),
        ({"expected": {"a": {"mean": float("nan")}, "b": {"mean": 0.2}}}, "an expected value that is no finite number"),
        ({"expected": {"a": {"mean": float("-inf")}, "b": {"mean": 0.2}}}, "an expected value that is no finite number"),
        ({"expected": {"a": {}, "b": {"mean": 0.2}}}, "lacks 'mean'"),
    ],
)
def test_a_decision_whose_numbers_are_none_is_refused_in_a_sentence(changes: dict, said: str):
    made = decision("d1", ("a", "b"))
    made["routing"] |= changes
    with pytest.raises(LogInvalid) as caught:
        duels_from([made], [comparison("e", "d1-0", "d1-1")])
    assert said in str(caught.value)
    assert str(caught.value).startswith(("decision 1 cannot", "the decision of comparison 1 "))


def test_a_comparison_whose_candidates_are_no_texts_is_refused_in_a_sentence():
    with pytest.raises(LogInvalid, match="comparison 1 names a candidate by something other than a text"):
        duels_from([decision("d1", ("a", "b"))], [comparison("e", "d1-0", None) | {"rejected": ["d1-1"]}])
