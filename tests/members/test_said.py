"""What a server says beside its text is passed on where it cannot be mistaken, and nothing that should stay where it is."""

from __future__ import annotations

from typing import Any

import pytest

from attune.service.members.said import MAX_BYTES, Saying


def said_by(*chunks: dict[str, Any], secrets: tuple[str, ...] = ()):
    saying = Saying(secrets)
    for chunk in chunks:
        choice = chunk.get("choice", {})
        saying.add(chunk, choice, choice.get("delta", {}), chunk.get("usage", {}))
    return saying.said()


def test_fields_are_told_by_their_place():
    said = said_by(
        {
            "id": "1",
            "service_tier": "flex",
            "choice": {"index": 0, "stop_reason": "###", "delta": {"content": "a", "name": "n"}},
            "usage": {
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "total_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 1},
                "cost": None,
            },
        }
    )
    assert said.answer["service_tier"] == "flex"
    assert (said.choice, said.message) == ({"stop_reason": "###"}, {"name": "n"})
    assert said.usage == {"prompt_tokens_details": {"cached_tokens": 1}}


def test_what_comes_twice_and_differs_is_left_out_and_lists_of_a_message_are_joined():
    said = said_by(
        {"tier": "a", "seen": 1, "choice": {"delta": {"annotations": [1], "piece": "x", "refusal": "I "}}},
        {"tier": "b", "seen": 1, "choice": {"delta": {"annotations": [2], "piece": "y", "refusal": "cannot"}}},
        {"tier": "a", "choice": {"delta": {"piece": "x"}}},
    )
    assert "tier" not in said.answer
    assert said.answer["seen"] == 1
    assert said.message == {"annotations": [1, 2], "refusal": "I cannot"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reasoning_content", "hm"),
        ("thought_signature", "x"),
        ("tool_calls", [{"id": "1"}]),
        ("half", "\ud800"),
        ("nul", "a\0b"),
        ("large", 1 << 70),
        ("long", "x" * MAX_BYTES),
        ("echo", {"headers": ["Bearer a-key-of-a-server"]}),
        ("empty", []),
    ],
)
def test_thoughts_calls_secrets_and_what_cannot_be_written_stay_where_they_are(name: str, value: Any):
    assert said_by({"choice": {"delta": {name: value, "kept": 1}}}, secrets=("a-key-of-a-server", "1")).message == {"kept": 1}


def test_what_would_be_taken_for_an_error_or_for_our_own_is_no_field_of_the_answer():
    assert said_by({"error": {"code": None}, "message": "ok", "code": 200, "attune": 1, "obfuscation": "zz"}).answer == {}


def test_thoughts_are_passed_on_where_the_member_passes_them():
    pieces = [
        {"choice": {"delta": {"reasoning_content": "It ", "reasoning_details": [{"text": "It "}]}}},
        {"choice": {"delta": {"reasoning_content": "is \ud800", "reasoning_details": [{"text": "is"}], "name": "n"}}},
        {"choice": {"delta": {"content": "No.", "reasoning_content": None}}},
    ]

    def message(*, thoughts: bool):
        saying = Saying(("a-secret-key",), thoughts=thoughts)
        for piece in pieces:
            saying.add(piece, piece["choice"], piece["choice"]["delta"], {})
        return saying.said().message

    assert message(thoughts=False) == {"name": "n"}
    whole = [{"text": "It "}, {"text": "is"}]
    assert message(thoughts=True) == {"name": "n", "reasoning_content": "It is \ufffd", "reasoning_details": whole}
    pieces[0]["choice"]["delta"]["reasoning_content"] = "x" * (2 * MAX_BYTES)
    assert len(message(thoughts=True)["reasoning_content"]) > 2 * MAX_BYTES
    pieces[0]["choice"]["delta"]["reasoning_content"] = "a-secret-key"
    assert "reasoning_content" not in message(thoughts=True)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([{"text": "a"}, {"text": "b"}], {}),
        (["It is", 6], {}),
        ([["a"], "b", ["c"]], {}),
        ([{"text": "a"}, {"text": "b"}, {"text": "b"}], {}),
        ([{"text": "a"}, None, {"text": "a"}], {"reasoning": {"text": "a"}}),
        ([5], {"reasoning": 5}),
    ],
)
def test_thoughts_that_cannot_be_joined_are_left_out_where_they_differ(said: list[Any], told: dict[str, Any]):
    saying = Saying(thoughts=True)
    for value in said:
        saying.add({}, {}, {"reasoning": value}, {})
    assert saying.said().message == told


@pytest.mark.parametrize(("pieces", "kept"), [(800, 4_000_000), (6_000, None)])
def test_thoughts_are_joined_up_to_what_is_passed_on_and_no_further(pieces: int, kept: int | None):
    """Joined to their end, 30 MB in small pieces would take minutes, in which nothing else is answered."""
    saying = Saying(thoughts=True)
    for _ in range(pieces):
        saying.add({}, {}, {"reasoning": "x" * 5_000}, {})
    assert {name: len(thought) for name, thought in saying.said().message.items()} == ({"reasoning": kept} if kept else {})
