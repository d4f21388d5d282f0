"""Logs of which no policy's value can be told, and the one sentence that says why."""

from __future__ import annotations

import json

import pytest

from attune.models.measuring.policy.duels import LogInvalid, duels_from
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
    assert str(caught.value).startswith("decision 1 ")


@pytest.mark.parametrize("typed", [True, False])
def test_what_a_line_lacks_is_said_with_the_line_of_the_file(typed: bool, tmp_path):
    made, said = decision("d1", ("a", "b")), comparison("e", "d1-0", "d1-1")
    cases = [
        ([made, {name: value for name, value in said.items() if name != "rejected"}], "log.jsonl line 3 lacks 'rejected'"),
        ([{name: value for name, value in made.items() if name != "user_tag"}, said], "log.jsonl line 2 lacks 'user_tag'"),
        ([made | {"routing": made["routing"] | {"joint_propensity": 2}}, said], "log.jsonl line 2 has joint propensity 2.0"),
    ]
    for entries, expected in cases:
        lines = entries if typed else [{name: value for name, value in entry.items() if name != "type"} for entry in entries]
        log = tmp_path / "log.jsonl"
        log.write_text("\n" + "\n".join(map(json.dumps, lines)), encoding="utf-8")
        with pytest.raises(LogInvalid) as caught:
            evaluate_log(log, log, tmp_path / "out")
        assert str(caught.value).startswith(expected)


def test_a_comparison_whose_candidates_are_no_texts_is_refused_in_a_sentence():
    with pytest.raises(LogInvalid, match="comparison 1 names a candidate by something other than a text"):
        duels_from([decision("d1", ("a", "b"))], [comparison("e", "d1-0", None) | {"rejected": ["d1-1"]}])


def test_lines_of_unknown_kinds_and_unreadable_decisions_are_told_in_the_report_and_in_a_refusal(tmp_path):
    made = [decision(f"d{number}", ("a", "b")) for number in range(3)]
    log = [
        {"type": "user", "id": "ann"},
        *({"type": "decision", **one} for one in made),
        {"type": "decision", "decision_id": "d9", "unreadable": "not-json"},
        made[0] | {"type": "decison"},
        {"type": "comparison", **comparison("e", "d1-0", "d1-1")},
    ]
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(map(json.dumps, log)))
    left_out = evaluate_log(file, file, tmp_path / "out")["left_out"]
    told = {"lines of the unknown kind 'decison'": 1, "decisions that could not be read when they were exported": 1}
    assert {what: left_out[what] for what in told} == told
    assert "lines of the unknown kind 'decison' (1)" in (tmp_path / "out" / "report.md").read_text()
    file.write_text("\n".join(map(json.dumps, [log[0], *log[4:]])))
    with pytest.raises(
        LogInvalid, match=r"comparisons of unknown decisions \(1\); lines of the unknown kind 'decison' \(1\) were passed over"
    ):
        evaluate_log(file, file, tmp_path / "out")
