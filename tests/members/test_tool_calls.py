"""Calls of tools are put together from whatever parts a server sends, and reach the caller in OpenAI's form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attune.service.members.tool_calls import ToolCalls, parts_of

FIRST = {"index": 0, "id": "a", "type": "function", "function": {"name": "look", "arguments": ""}}
WHOLE = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
OTHER = {"id": "b", "type": "function", "function": {"name": "wait", "arguments": "{}"}}


def put_together(*deltas: list[Any]) -> tuple[list[Any], list[Any]]:
    """Returns the whole calls, and the parts that were sent on the way."""
    calls, sent = ToolCalls(), []
    for delta in deltas:
        sent += calls.add(parts_of({"tool_calls": delta}))
    return calls.whole(), sent


def pieces(*texts: str, **more: object) -> list[list[Any]]:
    return [[{**more, "function": {"arguments": text}}] for text in texts]


@pytest.mark.parametrize(
    "deltas",
    [
        [[FIRST], *pieces('{"at"', ": 1}", index=0)],
        [[FIRST], *pieces('{"at"', ": 1}", index=0, id="a", type="function")],
        [[WHOLE]],
        [[WHOLE | {"index": 7}]],
        [[{"function": {"name": "look", "arguments": {"at": 1}}, "id": "a"}]],
        [[{**FIRST, "index": None}], *pieces('{"at"', ": 1}")],
        [[FIRST, None, 7, {}, {"function": "look"}], *pieces('{"at"', ": 1}", index=0, id=None)],
        [[FIRST], *pieces('{"at"', ": 1}", index=0, id="another in each piece")],
    ],
)
def test_one_call_is_the_same_however_it_is_sent(deltas: list[Any]):
    whole, sent = put_together(*deltas)
    assert [json.loads(call["function"]["arguments"]) for call in whole] == [{"at": 1}]
    assert [(call["id"], call["type"], call["function"]["name"]) for call in whole] == [("a", "function", "look")]
    assert {part["index"] for part in sent} == {0}
    assert (sent[0]["id"], sent[0]["type"]) == ("a", "function")
    assert "".join(part["function"].get("arguments", "") for part in sent) == whole[0]["function"]["arguments"]


@pytest.mark.parametrize(
    "deltas",
    [
        [[WHOLE, OTHER]],
        [[WHOLE | {"index": 0}], [OTHER | {"index": 1}]],
        [[WHOLE | {"index": 0}], [OTHER | {"index": 0}]],
        [[WHOLE | {"index": 1}], [OTHER | {"index": 2}]],
        [[FIRST], [OTHER | {"index": 1}], *pieces('{"at"', ": 1}", index=0)],
    ],
)
def test_two_calls_stay_apart(deltas: list[Any]):
    whole, sent = put_together(*deltas)
    assert [(call["id"], call["function"]["name"]) for call in whole] == [("a", "look"), ("b", "wait")]
    assert [json.loads(call["function"]["arguments"]) for call in whole] == [{"at": 1}, {}]
    assert [part["index"] for part in sent if "id" in part] == [0, 1]


def test_a_call_without_an_id_is_given_one_of_its_own():
    whole, sent = put_together([{"function": {"name": "look", "arguments": "{}"}}])
    assert whole[0]["id"] == sent[0]["id"]
    assert whole[0]["id"] != put_together([{"function": {"name": "look", "arguments": "{}"}}])[0][0]["id"]


def test_a_call_of_a_custom_tool_keeps_its_form():
    whole, _ = put_together(
        [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "select "}}], [{"index": 0, "custom": {"input": "1"}}]
    )
    assert whole == [{"id": "a", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}]


def test_calls_are_sentences_of_a_conversation():
    calls = ToolCalls()
    calls.add(parts_of({"tool_calls": [WHOLE, OTHER]}))
    assert calls.sentences() == ['Called look with {"at": 1}', "Called wait with {}"]


@pytest.mark.parametrize("message", [{}, {"tool_calls": None}, {"tool_calls": "look"}, {"tool_calls": [None, 3, {}]}])
def test_what_is_no_call_is_none(message: dict[str, Any]):
    assert parts_of(message) == ()


def test_texts_of_calls_can_be_sent():
    (part,) = parts_of({"tool_calls": [{"id": "\ud800", "function": {"name": "a\0", "arguments": "\udc00"}}]})
    json.dumps(part, ensure_ascii=False).encode()
    assert part["function"] == {"name": "a\ufffd", "arguments": "\ufffd"}
