"""Items of a response's input, its tools and its choices as the chat that asks the same."""

from __future__ import annotations

from typing import Any

import pytest

from attune.service.api.response_input import ChatOfResponse, chat_of, format_of, tool_choice_of, tools_of
from attune.service.errors import UnknownMember
from attune.service.members.member import PassedFieldRefused

ASKED = {"role": "user", "content": "What time is it?"}


def called(name: str) -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{name}", "call_id": name, "name": "clock", "arguments": "{}", "status": "completed"}


def result(name: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": name, "output": "noon"}


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part], "phase": "commentary"}


def call(name: str) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": "clock", "arguments": "{}"}}


def answer(name: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": "noon"}


THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}


@pytest.mark.parametrize(
    ("items", "turns"),
    [
        ([said("Well.")], [{"role": "assistant", "content": "Well."}]),
        ([THOUGHT, said("Look."), called("a")], [{"role": "assistant", "content": "Look.", "tool_calls": [call("a")]}]),
        ([called("a"), THOUGHT, said("Look.")], [{"role": "assistant", "content": "Look.", "tool_calls": [call("a")]}]),
        (
            [called("a"), called("b"), result("a"), result("b")],
            [{"role": "assistant", "content": None, "tool_calls": [call("a"), call("b")]}, answer("a"), answer("b")],
        ),
        (
            [called("a"), result("a"), called("b"), result("b")],
            [
                {"role": "assistant", "content": None, "tool_calls": [call("a")]},
                answer("a"),
                {"role": "assistant", "content": None, "tool_calls": [call("b")]},
                answer("b"),
            ],
        ),
        (
            [said("One."), called("a"), said("Two.")],
            [
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
                    "tool_calls": [call("a")],
                }
            ],
        ),
        (
            [called("a") | {"parsed_arguments": {}, "namespace": None, "extra_content": {"signature": "c2ln"}}],
            [{"role": "assistant", "content": None, "tool_calls": [{"extra_content": {"signature": "c2ln"}, **call("a")}]}],
        ),
        (
            [
                THOUGHT | {"reasoning": "One. "},
                THOUGHT | {"reasoning": "Two."},
                called("a"),
                THOUGHT | {"reasoning": " Three."},
                called("b"),
            ],
            [{"role": "assistant", "content": None, "tool_calls": [call("a"), call("b")], "reasoning": "One. Two. Three."}],
        ),
        ([THOUGHT | {"reasoning": "Hm."}, {"role": "user", "content": "Go on."}], [{"role": "user", "content": "Go on."}]),
        ([{"type": None, "role": "user", "content": "Hm."}], [{"role": "user", "content": "Hm."}]),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
        ),
    ],
)
def test_what_loops_send_back_is_a_conversation_that_servers_take(items: list[Any], turns: list[Any]):
    chat = chat_of(None, [ASKED, *items])
    assert (chat.messages, chat.wrong) == ([ASKED, *turns], [])


def test_a_grammar_of_a_custom_tool_stands_where_a_chat_has_it():
    chat, grammar = ChatOfResponse(), {"syntax": "lark", "definition": "start: A"}
    tools = [
        {"type": "custom", "name": "sql", "format": {"type": "grammar", **grammar}},
        {"type": "custom", "name": "note", "format": {"type": "text"}},
        {"type": "function", "name": "clock", "parameters": {}, "strict": None, "defer_loading": True},
    ]
    assert tools_of(chat, tools) == [
        {"type": "custom", "custom": {"name": "sql", "format": {"type": "grammar", "grammar": grammar}}},
        {"type": "custom", "custom": {"name": "note", "format": {"type": "text"}}},
        {"type": "function", "function": {"name": "clock", "parameters": {}}},
    ]
    assert not chat.wrong


@pytest.mark.parametrize(
    ("choice", "as_chat"),
    [
        (None, None),
        ({}, None),
        ("required", "required"),
        ({"type": "custom", "name": "sql"}, {"type": "custom", "custom": {"name": "sql"}}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]},
            },
        ),
    ],
)
def test_a_choice_of_tools_is_said_as_in_a_chat(choice: Any, as_chat: Any):
    chat = ChatOfResponse()
    assert (tool_choice_of(chat, choice), chat.wrong) == (as_chat, [])


def test_a_form_holds_what_was_given_and_no_nulls():
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True, "description": None}
    as_chat = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}
    assert format_of(ChatOfResponse(), {"format": form}) == as_chat
    assert format_of(ChatOfResponse(), {"format": {}}) is None


def test_members_that_are_called_as_a_field_keep_their_names():
    said = "member 'messages': its server refuses this request and names no field; passed on as the caller wrote it: {}: HTTP 400"
    refused = PassedFieldRefused(said.format("verbosity, messages"))
    assert ChatOfResponse().renamed(refused).detail == said.format("text.verbosity, input")
    unknown = "model 'm' is none of auto, messages"
    assert ChatOfResponse().renamed(UnknownMember(unknown)).detail == unknown
