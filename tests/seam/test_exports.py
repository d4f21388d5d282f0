"""What a deployment's export says, as records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attune.models.data.logged import read_logged
from attune.models.data.preferences import ComparisonInvalid


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
            {"type": "decision", "id": "d"},
            {"type": "user", "id": "bob"},
            compared("e1", tie=True),
        )
    )
    ada, bob = logged.records
    assert (ada.user, ada.prompt, ada.chosen, ada.rejected, ada.context, ada.tie) == ("ada", "how?", "so", "or so", "be brief", False)
    assert ada.time_s == 1_800_000_000.0
    assert (bob.user, bob.context, bob.tie) == ("bob", None, True)


def test_comparisons_that_were_taken_back_are_not_learned(tmp_path):
    lines = {"type": "user", "id": "ada"}, compared("e1"), compared("e2"), {"type": "taken-back", "event_id": "e1"}
    (kept,) = read_logged(write(tmp_path / "log.jsonl", *lines, {"type": "taken-back", "event_id": "unknown"})).records
    assert kept.user == "ada"


def test_comparisons_whose_texts_were_not_kept_are_counted(tmp_path):
    logged = read_logged(write(tmp_path / "log.jsonl", compared("e1", chosen_text=None), compared("e2")))
    assert (len(logged.records), logged.without_texts) == (1, 1)


def test_plain_records_need_no_types(tmp_path):
    plain = {"user": "u", "prompt": "p", "chosen": "a", "rejected": "b", "context": "c"}
    (record,) = read_logged(write(tmp_path / "log.jsonl", plain, "")).records
    assert (record.user, record.chosen, record.rejected, record.context) == ("u", "a", "b", "c")


def test_bad_lines_are_named_with_their_field_and_counted(tmp_path):
    lines = [
        "{",
        [1],
        {"type": "weather"},
        {"prompt": "p", "chosen": "a"},
        compared("e1", tie="yes"),
        compared("e2", context=3),
        "nonsense",
    ]
    with pytest.raises(ComparisonInvalid) as caught:
        read_logged(write(tmp_path / "log.jsonl", *lines))
    message = str(caught.value)
    assert message.startswith("log.jsonl: line 1:")
    for said in ("line 2: holds a list", "line 3: type is 'weather'", "line 4: rejected is None", "line 5: tie is 'yes'", "and 2 more"):
        assert said in message
