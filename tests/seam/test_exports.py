"""The export format: everything that is written is read back, and a deployment's log becomes records."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.models.data.logged import read_logged
from attune.models.data.preferences import ComparisonInvalid
from attune.models.seam.exports import (
    ComparisonLine,
    DecisionLine,
    ExportInvalid,
    ExportLine,
    LastMemberLine,
    ReplayedLine,
    SumLine,
    TakenBackLine,
    UserLine,
    line_object,
    read_export,
)
from attune.models.seam.json_lines import LinesInvalid

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
TIMES = st.none() | st.just("2026-11-26T12:00:00.000Z")
NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4).map(tuple)
EVENTS = st.sampled_from(["tour-0", "tour-1", "ß", "line\nbreak"])
CONTENT = st.fixed_dictionaries(
    {"prompt": WORDS, "chosen_text": WORDS, "rejected_text": WORDS},
    optional={"chosen": st.none() | WORDS, "tie": st.booleans(), "agreement": st.dictionaries(WORDS, st.booleans(), max_size=2)},
)
LEARNED = {"basis": WORDS, "epoch": st.integers(0, 9), "observed_at": TIMES, "evidence": NUMBERS}
LINES = st.one_of(
    st.builds(
        SumLine, basis=WORDS, comparisons=st.integers(0), epoch=st.integers(0, 9), evidence=NUMBERS, first_seen=TIMES, last_seen=TIMES
    ),
    st.builds(ComparisonLine, event_id=EVENTS, content=CONTENT, **LEARNED),
    st.builds(ReplayedLine, event_id=EVENTS, **LEARNED),
    st.builds(LastMemberLine, WORDS),
    st.builds(TakenBackLine, EVENTS),
    st.builds(DecisionLine, WORDS, st.fixed_dictionaries({"user_tag": WORDS}) | st.fixed_dictionaries({"unreadable": WORDS})),
)


@given(st.lists(st.tuples(WORDS, st.lists(LINES, max_size=6)), min_size=1, max_size=4), st.booleans())
def test_everything_that_is_written_is_read_back_for_several_users_with_equal_event_ids(tmp_path_factory, users, packed):
    written: list[ExportLine] = [line for user, lines in users for line in (UserLine(user, "tag"), *lines)]
    path = tmp_path_factory.getbasetemp() / "read-back.jsonl"
    content = "".join(json.dumps(line_object(line)) + "\n" for line in written).encode()
    path.write_bytes(gzip.compress(content) if packed else b"\xef\xbb\xbf" + content)
    export = read_export(path)
    assert (export.unknown, export.plain) == ({}, ())
    for user in {name for name, _ in users}:
        told = [line for name, lines in users for line in lines if name == user]
        log = export.logs[user]
        comparisons: dict[str, ComparisonLine] = {}
        for line in told:
            match line:
                case ComparisonLine():
                    comparisons[line.event_id] = line
                case _:
                    pass
        taken_back = {line.event_id for line in told if isinstance(line, TakenBackLine)}
        assert log.comparisons == {event: line for event, line in comparisons.items() if event not in taken_back}
        assert log.taken_back == taken_back
        assert log.sums == [line for line in told if isinstance(line, SumLine)]
        assert log.replayed == [line for line in told if isinstance(line, ReplayedLine)]
        assert log.decisions == {line.decision_id: line for line in told if isinstance(line, DecisionLine)}
        assert log.last_member == next((line.member for line in reversed(told) if isinstance(line, LastMemberLine)), None)


def write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    return path


def compared(event_id: str, **changes: Any) -> dict[str, Any]:
    texts = {"prompt": "how?", "chosen_text": "so", "rejected_text": "or so", "context": None, "tie": False}
    return {"type": "comparison", "event_id": event_id, "chosen": None, "rejected": None, **texts, **changes}


def test_an_export_is_read_user_by_user_with_contexts_and_times(tmp_path):
    logged = read_logged(
        write(
            tmp_path / "log.jsonl",
            {"type": "user", "id": "ada", "tag": "x", "exported_at": "2026-01-01T00:00:00.000Z"},
            {"type": "sum", "basis": "b", "comparisons": 1},
            compared("e1", context="be brief", observed_at="2027-01-15T08:00:00.000Z"),
            {"type": "decision", "decision_id": "d", "candidates": []},
            {"type": "user", "id": "bob"},
            compared("e1", tie=True),
        )
    )
    ada, bob = logged.records
    assert (ada.user, ada.prompt, ada.chosen, ada.rejected, ada.context, ada.tie) == ("ada", "how?", "so", "or so", "be brief", False)
    assert ada.time_s == 1_800_000_000.0
    assert (bob.user, bob.context, bob.tie) == ("bob", None, True)


def test_an_older_export_behind_a_newer_one_brings_nothing_back(tmp_path):
    user = {"type": "user", "id": "ada"}
    newer, older = (user, {"type": "taken-back", "event_id": "e1"}, compared("e2")), (user, compared("e1"), compared("e2"))
    bob = {"type": "user", "id": "bob"}, compared("e1")
    assert [kept.user for kept in read_logged(write(tmp_path / "log.jsonl", *newer, *older, *bob)).records] == ["ada", "bob"]


def test_comparisons_that_were_taken_back_are_not_learned(tmp_path):
    lines = {"type": "user", "id": "ada"}, compared("e1"), compared("e2"), {"type": "taken-back", "event_id": "e1"}
    (kept,) = read_logged(write(tmp_path / "log.jsonl", *lines, {"type": "taken-back", "event_id": "unknown"})).records
    assert kept.user == "ada"


def test_comparisons_above_any_user_are_not_one_persons_whatever_their_event_ids(tmp_path):
    twice = compared("e1", chosen_text="b"), compared("e1", chosen_text="b")
    logged = read_logged(write(tmp_path / "log.jsonl", compared("e1"), *twice, compared("e2"), {"type": "taken-back", "event_id": "e2"}))
    assert [one.chosen for one in logged.records] == ["so", "b"]
    assert len({one.user for one in logged.records}) == 2
    assert (logged.of_somebody().records, logged.of_somebody().without_user) == ((), 2)


def test_comparisons_whose_texts_were_not_kept_are_counted(tmp_path):
    logged = read_logged(write(tmp_path / "log.jsonl", compared("e1", chosen_text=None), compared("e2")))
    assert (len(logged.records), logged.without_texts) == (1, 1)


def test_plain_records_need_no_types(tmp_path):
    plain = {"user": "u", "prompt": "p", "chosen": "a", "rejected": "b", "context": "c"}
    (record,) = read_logged(write(tmp_path / "log.jsonl", plain, "")).records
    assert (record.user, record.chosen, record.rejected, record.context) == ("u", "a", "b", "c")


def test_kinds_of_lines_that_are_not_needed_or_not_known_are_passed_over_and_the_unknown_counted(tmp_path):
    others = [
        {"type": "last-member", "member": "m"},
        {"type": "replayed", "event_id": "e1", "basis": "b"},
        {"type": "weather"},
        {"type": "weather"},
    ]
    log = write(tmp_path / "log.jsonl", {"type": "user", "id": "ada"}, compared("e1"), *others, {"error": {"code": "store-unavailable"}})
    logged = read_logged(log)
    assert [record.user for record in logged.records] == ["ada"]
    assert logged.unknown == {"weather": 2, "error": 1}


def test_bad_lines_are_named_with_their_field_and_counted(tmp_path):
    lines = ["{", [1], {"type": "user"}, {"type": "taken-back", "event_id": 3}, compared("e1", epoch="x"), compared(""), "nonsense"]
    with pytest.raises(ComparisonInvalid) as caught:
        read_logged(write(tmp_path / "log.jsonl", *lines))
    message = str(caught.value)
    assert message.startswith("log.jsonl: line 1 is not JSON")
    for said in ("line 2 is a list", "line 3: id is None", "line 4: event_id is 3", "line 5: epoch is 'x'", "and 2 more"):
        assert said in message


def test_what_a_comparison_says_is_checked_by_user_and_event(tmp_path):
    for change, said in (
        ({"tie": "yes"}, "tie is 'yes'"),
        ({"context": 3}, "context is 3"),
        ({"observed_at": "then"}, "observed_at is 'then'"),
    ):
        with pytest.raises(ComparisonInvalid, match=f"event 'e1' of user 'ada': {said}"):
            read_logged(write(tmp_path / "log.jsonl", {"type": "user", "id": "ada"}, compared("e1", **change)))


def test_plain_rows_beside_an_export_are_checked_as_tables_are(tmp_path):
    row = {"user": "u", "prompt": "p", "chosen": "a", "rejected": "b"}
    with pytest.raises(ComparisonInvalid, match=r"log\.jsonl line 2: weight: is nan; a finite number"):
        read_logged(write(tmp_path / "log.jsonl", row | {"weight": 1.0}, row | {"weight": float("nan")}))
    with pytest.raises(ComparisonInvalid, match="nothing reads the column colour"):
        read_logged(write(tmp_path / "log.jsonl", row | {"colour": "red"}))


@pytest.mark.parametrize("kind", [["x"], 5, {}])
def test_a_type_that_is_no_text_is_named_by_its_line(tmp_path, kind):
    (tmp_path / "a.jsonl").write_text(json.dumps({"type": kind, "id": "ann"}))
    with pytest.raises(ExportInvalid, match=r"line 1: type is .*; a text is needed"):
        read_export(tmp_path / "a.jsonl")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(LinesInvalid, match="write it to a file first"):
        read_export(tmp_path / "pipe.jsonl")
