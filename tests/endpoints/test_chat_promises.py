"""What clients of other servers put into a chat: forms and texts that would be lost are refused, wishes are told as not used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.endpoints.conftest import Service

TURNS = [{"role": "user", "content": "how do i boil an egg ?"}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("regex", "yes|no"),
        ("ebnf", 'root ::= "yes"'),
        ("grammar", 'root ::= "yes"'),
        ("json_schema", {"type": "object"}),
        ("format", "json"),
        ("structural_tag", {"type": "x"}),
        ("documents", [{"text": "An egg takes six minutes."}]),
        ("chat_template", "{{ messages }}"),
        ("use_beam_search", True),
        ("logit_bias", {"1": 0, "2": -100}),
        ("tool_choice", {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}}),
        ("tool_choice", {"type": "any"}),
        ("response_format", [{"type": "json_object"}]),
    ],
)
async def test_what_would_change_the_answer_and_cannot_be_had_is_refused_by_its_name(service: Service, field: str, value: Any):
    answer = await service.post("/v1/chat/completions", {"model": "auto", "messages": TURNS, field: value}, status=400)
    assert answer["error"]["param"] == field


@pytest.mark.parametrize(
    ("given", "ignored"),
    [
        ({"frequency_penalty": 0.5, "presence_penalty": 0, "top_k": 40}, ["frequency_penalty", "top_k"]),
        ({"reasoning_effort": "low", "verbosity": "low"}, ["reasoning_effort", "verbosity"]),
        ({"repetition_penalty": 1.0, "best_of": 1, "top_k": -1, "min_p": 0.0, "prediction": None}, []),
        ({"logit_bias": {"1": 0}, "regex": "", "documents": [], "tool_choice": {"type": "none"}}, []),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}, []),
        ({"store": True, "metadata": {"a": "b"}, "service_tier": "flex", "parallel_tool_calls": False}, []),
    ],
)
async def test_a_wish_is_answered_and_told_as_not_used(service: Service, given: dict[str, Any], ignored: list[str]):
    body = {"model": "auto", "messages": TURNS, "n": 2} | given
    answer = await service.post("/v1/chat/completions", body)
    assert answer["attune"]["ignored"] == ignored
    streamed = await service.client.post("/v1/chat/completions", json=body | {"stream": True})
    chunks = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert [chunk["attune"] for chunk in chunks if "attune" in chunk] == [answer["attune"]]
    assert "attune" in chunks[-1]


async def test_the_likeliest_token_alone_may_be_asked_for_by_top_p(service: Service):
    await service.post("/v1/chat/completions", {"model": "warm", "messages": TURNS, "top_p": 0})
    (asked,) = service.members["warm"].asked
    assert asked.top_p == 0.001


async def test_an_unknown_model_is_told_what_there_is_by_the_clients_word(service: Service):
    answer = await service.post("/v1/chat/completions", {"model": "gpt-4o", "messages": TURNS}, status=404)
    assert answer["error"]["code"] == "model_not_found"
    assert answer["error"]["message"].startswith("model 'gpt-4o' is none of auto, ")


async def test_parts_of_histories_that_are_no_text_of_openai_are_read_or_passed_over(service: Service):
    turns = [
        {"role": "user", "content": [{"text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "sunny"}]}]},
    ]
    await service.post("/v1/chat/completions", {"model": "warm", "messages": turns})
    (asked,) = service.members["warm"].asked
    assert [(message.role, message.content) for message in asked.messages] == [
        ("user", "Weather?"),
        ("assistant", 'Called weather with {"city": "Oslo"}'),
        ("user", "Result of the tool: sunny"),
    ]
    image = [{"type": "tool_result", "content": [{"type": "image", "source": {}}]}]
    refused = await service.post("/v1/chat/completions", {"model": "warm", "messages": [{"role": "user", "content": image}]}, status=400)
    assert refused["error"]["param"] == "messages[0].content[0].content[0].type"


async def test_results_inside_of_results_are_refused_however_deep_they_are(service: Service):
    part: dict[str, Any] = {"type": "tool_result", "content": "sunny"}
    for _ in range(40):
        part = {"type": "tool_result", "content": [part]}
    refused = await service.post("/v1/chat/completions", {"model": "warm", "messages": [{"role": "user", "content": [part]}]}, status=400)
    assert refused["error"]["param"] == "messages[0].content[0].content[0].type"
