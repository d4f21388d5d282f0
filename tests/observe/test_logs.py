"""Log lines: one object a line, from whoever writes them, and never what a user wrote."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings

import pytest
import structlog

from attune.service.observe.logs import configure_logging, get_logger, log_ready, request_context
from tests.log_lines import logged


@pytest.fixture
def lines():
    """Returns a function that reads the lines written so far, as objects; logging is put back afterwards."""
    with logged("info") as read:
        yield read


def test_a_line_is_one_object_with_time_level_logger_and_fields(lines):
    get_logger("service.app").info("bundle loaded", bundle="demo", heads=8)
    (line,) = lines()
    assert line.items() >= {"event": "bundle loaded", "level": "info", "logger": "service.app", "bundle": "demo", "heads": 8}.items()
    assert line["time"].endswith("Z")


def test_libraries_write_the_same_lines(lines):
    logging.getLogger("uvicorn.error").error("Cancel %d running task(s)", 7)
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert [line["logger"] for line in lines()] == ["uvicorn.error", "py.warnings"]
    assert lines()[0]["event"] == "Cancel 7 running task(s)"


def test_the_access_lines_of_the_server_with_their_raw_paths_are_off(lines):
    logging.getLogger("uvicorn.access").info('127.0.0.1 - "GET /users/anna HTTP/1.1" 200')
    assert lines() == []


def test_lines_below_the_level_are_not_written(lines):
    get_logger("x").debug("detail")
    logging.getLogger("httpx").info("HTTP Request: POST http://upstream/?key=1")
    assert lines() == []


WRITTEN_BY_USERS = (
    *("answer", "api_key", "authorization", "body", "chosen_text", "completion", "content", "context", "documents", "input", "messages"),
    *("prompt", "query", "rejected_text", "response", "responses", "text", "texts", "user", "user_id"),
)
"""Spelled out here, so that a name that goes missing in `PRIVATE_FIELDS` is missed."""


@pytest.mark.parametrize("field", WRITTEN_BY_USERS)
def test_what_a_user_wrote_is_cut_to_its_length(lines, field):
    get_logger("x").info("odd request", **{field: "my secret wish"})
    (line,) = lines()
    assert line[field] == "[14 characters]"
    assert "secret" not in json.dumps(line)


def test_private_lists_and_numbers_are_hidden_too(lines):
    get_logger("x").info("odd request", responses=["a", "b"], user=7)
    (line,) = lines()
    assert (line["responses"], line["user"]) == ("[2 items]", "[hidden]")


def test_an_exception_is_structured_and_carries_no_local_variables(lines):
    prompt = "my secret wish"
    try:
        raise ValueError(f"{len(prompt)} is too long")
    except ValueError:
        get_logger("x").exception("failed")
    (line,) = lines()
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert "secret" not in json.dumps(line)


def test_an_overlong_value_is_cut_in_its_middle_and_says_so(lines):
    get_logger("x").info("big", detail="first" + "x" * 5000 + "the reason")
    detail = lines()[0]["detail"]
    assert detail.startswith("first")
    assert "[5015 characters]" in detail
    assert detail.endswith("the reason")
    assert len(detail) < 2100


def test_a_value_that_is_no_json_is_written_as_its_repr(lines):
    get_logger("x").info("odd", thing={1, 2}, key={3: object})
    assert lines()[0]["thing"] == "{1, 2}"


async def test_the_request_id_follows_awaits_and_tasks_and_stays_in_its_request(lines):
    async def serve_one(request_id: str) -> None:
        with request_context(request_id):
            await asyncio.sleep(0)
            await asyncio.create_task(write())

    async def write() -> None:
        get_logger("x").info("answered")

    async with asyncio.TaskGroup() as group:
        for request_id in ("r1", "r2"):
            group.create_task(serve_one(request_id))
    get_logger("x").info("idle")
    assert sorted(line.get("request_id", "") for line in lines()) == ["", "r1", "r2"]


def test_the_ready_line_is_one_sentence(lines):
    log_ready("http://127.0.0.1:8000", "bundle-demo-0123456789ab", 6, "embedded")
    assert lines()[0]["event"] == "attune ready on http://127.0.0.1:8000 (bundle bundle-demo-0123456789ab, 6 members, redis embedded)"


def test_the_console_format_is_readable_text():
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        configure_logging("warning", "console", stream)
        get_logger("x").warning("store unavailable", operation="read")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert "store unavailable" in stream.getvalue()
    assert "operation=read" in stream.getvalue()
