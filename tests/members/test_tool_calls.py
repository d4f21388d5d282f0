"""Calls of tools are put together from whatever parts a server sends, and reach the caller in OpenAI's form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attune.service.members.openai_wire import BadAnswer, read_chunk
from attune.service.members.tool_calls import ToolCalls, joined, parts_of

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
        [[FIRST], *pieces('{"at"', ": 1}", id="another in each piece")],
        [[FIRST], [{"function": {"name": "look", "arguments": '{"at"'}}], [{"function": {"name": "look", "arguments": ": 1}"}}]],
        [[FIRST], *[[{**FIRST, "function": {"name": "look", "arguments": text}}] for text in ('{"at"', ": 1}")]],
        [[FIRST], *pieces('{"at"', ": 1}", index=0), [WHOLE]],
        [[{**FIRST, "function": {"name": "look", "arguments": text}} for text in ('{"at"', ": 1}")]],
        [[{"index": 0}], [FIRST], *pieces('{"at"', ": 1}", index=0)],
        [[{"index": 0, "id": "a", "type": "function"}], [{"index": 0, "function": {"name": "look"}}], *pieces('{"at": 1}', index=0)],
        [[{"index": 0, "id": "a"}], *pieces('{"at"', index=0), [{"index": 0, "function": {"name": "look", "arguments": ": 1}"}}]],
    ],
)
def test_one_call_is_the_same_however_it_is_sent(deltas: list[Any]):
    whole, sent = put_together(*deltas)
    assert [json.loads(call["function"]["arguments"]) for call in whole] == [{"at": 1}]
    assert [(call["id"], call["type"], call["function"]["name"]) for call in whole] == [("a", "function", "look")]
    assert {part["index"] for part in sent} == {0}
    assert (sent[0]["id"], sent[0]["type"], sent[0]["function"]["name"]) == ("a", "function", "look")
    assert [part.keys() for part in sent[1:]] == [{"index", "function"}] * len(sent[1:])  # clients join what they are told twice
    assert [part["function"].keys() for part in sent[1:]] == [{"arguments"}] * len(sent[1:])
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


def without_ids(*calls: dict[str, Any], **more: object) -> list[Any]:
    return [{name: value for name, value in call.items() if name != "id"} | more for call in calls]


@pytest.mark.parametrize(
    "deltas",
    [
        [without_ids(WHOLE, OTHER)],
        [without_ids(WHOLE, OTHER, index=0)],
        [without_ids(WHOLE, OTHER, id="", index=0)],
        [without_ids(WHOLE), without_ids(OTHER)],
        [without_ids(WHOLE, index=0), without_ids(OTHER, index=0)],
        [without_ids(WHOLE, OTHER, id="a")],
        [without_ids(WHOLE, OTHER | {"function": {"name": "look", "arguments": "{}"}}, index=0)],
        [without_ids(WHOLE, index=0, id="a"), without_ids(OTHER, index=1, id="a")],
        [without_ids(WHOLE), without_ids(WHOLE | {"function": OTHER["function"] | {"name": "look"}})],
    ],
)
def test_two_calls_that_no_id_tells_apart_are_two(deltas: list[Any]):
    whole, sent = put_together(*deltas)
    assert [json.loads(call["function"]["arguments"]) for call in whole] == [{"at": 1}, {}]
    assert len({call["id"] for call in whole}) == 2
    assert [part["id"] for part in sent] == [call["id"] for call in whole]


def test_each_call_of_a_message_is_one_of_its_own():
    calls = ToolCalls()
    calls.add(parts_of({"tool_calls": [WHOLE, WHOLE, *without_ids(WHOLE, WHOLE)]}), apart=True)
    assert [call["function"] for call in calls.whole()] == [WHOLE["function"]] * 4
    assert len({call["id"] for call in calls.whole()}) == 4


def test_parts_of_one_call_stand_in_a_chunk_as_one():
    _, sent = put_together([FIRST, OTHER | {"index": 1}], *pieces('{"at"', ": 1}", index=0))
    assert joined(sent, bool) == ({"index": 0, **WHOLE}, {"index": 1, **OTHER})
    later = joined(sent[2:], bool)
    assert later == ({"index": 0, "function": {"arguments": '{"at": 1}'}},)


def test_what_a_server_says_of_a_call_beside_it_stays_with_it():
    signed = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    whole, sent = put_together([WHOLE | {"index": 0} | signed], [OTHER | {"index": 1, "empty": None}])
    assert [call.get("extra_content") for call in whole] == [signed["extra_content"], None]
    assert "empty" not in whole[1]
    assert joined(sent, lambda field: "extra_content" not in field)[0] == {"index": 0, **WHOLE}


@pytest.mark.parametrize("zone", ['"\\ud800"', "[" * 300 + "]" * 300, '[{}, "\\ud800"]'.format("9" * 30)])
def test_arguments_that_cannot_be_written_are_no_call(zone: str):
    chunk = '{"choices": [{"delta": {"tool_calls": [{"function": {"name": "look", "arguments": {"zone": ' + zone + "}}}]}}]}"
    with pytest.raises(BadAnswer, match="cannot be written as JSON"):
        read_chunk(chunk.encode())


def test_a_call_may_begin_with_its_text():
    begun = [[{"index": place, "function": {"arguments": '{"at"'}}] for place in (0, 1)]
    ends = [[{"index": place, "function": {"name": name, "arguments": ": 1}"}}] for place, name in ((0, "look"), (1, "wait"))]
    whole, sent = put_together(*begun, *ends)
    assert [call["function"] for call in whole] == [{"name": name, "arguments": '{"at": 1}'} for name in ("look", "wait")]
    assert [part["function"] for part in sent] == [call["function"] for call in whole]


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


@pytest.mark.parametrize(
    "message", [{}, {"tool_calls": None}, {"tool_calls": "look"}, {"tool_calls": [None, 3, {}, {"index": 0}, {"type": "function"}]}]
)
def test_what_is_no_call_is_none(message: dict[str, Any]):
    assert parts_of(message) == ()


def test_texts_of_calls_can_be_sent():
    (part,) = parts_of({"tool_calls": [{"id": "\ud800", "function": {"name": "a\0", "arguments": "\udc00"}}]})
    json.dumps(part, ensure_ascii=False).encode()
    assert part["function"] == {"name": "a\ufffd", "arguments": "\ufffd"}
