"""A history is sent once, whatever breaks off: against the real application, and event ids that say what a line says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.data.logged import read_logged
from attune.models.data.preferences import Comparison, ComparisonInvalid
from attune.models.data.sending import LINES, bodies_of
from tests.client.test_client import url
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, bundle, settings_of

__all__ = ["bundle", "settings_of", "url"]  # fixtures of the service's own tests


def test_equal_files_give_equal_events_and_a_choice_made_twice_counts_twice():
    records = [
        Comparison("ada", PROMPT, WARM, LONG),
        Comparison("ada", PROMPT, WARM, LONG),
        Comparison("bob", PROMPT, WARM, LONG, time_s=1.5e9),
    ]
    events = [body["event_id"] for body in bodies_of(records)]
    assert len(set(events)) == 3
    assert [body["event_id"] for body in bodies_of(records)] == events
    assert bodies_of(records)[2]["observed_at"] == "2017-07-14T02:40:00+00:00"


def test_what_an_export_says_was_kept_is_sent_as_such_and_weighs_no_more(tmp_path: Path):
    line = {"type": "comparison", "event_id": "e", "kind": "kept", "how": "edit", "weight": 0.7, "prompt": PROMPT, "evidence": []}
    texts = {"chosen_text": WARM, "rejected_text": LONG, "tie": False}
    file = tmp_path / "export.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in ({"type": "user", "id": "ada"}, line | texts)))
    (body,) = bodies_of(read_logged(file).records)
    assert (body["kept"], body["over"], body["how"], "chosen_text" in body) == (WARM, LONG, "edit", False)
    file.write_text(json.dumps(line | texts | {"weight": 0}) + "\n")
    with pytest.raises(ComparisonInvalid, match="weight is 0"):
        read_logged(file)


async def test_a_history_is_imported_once_and_a_second_run_changes_nothing(url: str, tmp_path: Path):
    rows = [
        {"user": f"u{number % 7}", "prompt": PROMPT, "chosen": (WARM, SHORT)[number % 2], "rejected": f"{LONG} {number}"}
        for number in range(LINES + 20)
    ]
    file = tmp_path / "choices.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    async def run() -> tuple[int, str, str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["users", "import", str(file), "--url", url])
        return result.exit_code, result.stdout, result.stderr

    code, said, progress = await run()
    assert code == 0, progress
    assert "120 learned, 0 known before, 0 refused" in said
    assert "100 of 120 sent; about" in progress
    code, said, _ = await run()
    assert code == 0
    assert "0 learned, 120 known before, 0 refused" in said


async def test_what_the_server_refuses_is_named_and_the_rest_is_learned(url: str, tmp_path: Path):
    file = tmp_path / "choices.jsonl"
    rows = [
        {"user": "ada", "prompt": PROMPT, "chosen": WARM, "rejected": LONG},
        {"user": "a" * 300, "prompt": PROMPT, "chosen": WARM, "rejected": LONG},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = await asyncio.to_thread(CliRunner().invoke, app, ["users", "import", str(file), "--url", url])
    assert result.exit_code == 1
    assert "1 learned, 0 known before, 1 refused" in result.stdout
    assert "comparison 2: 422 user" in result.stderr
