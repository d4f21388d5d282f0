"""What the server of a member says beside its text comes through a chat as it said it, whole and streamed, where one member answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from attune.service.members.openai import OpenAIMember
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.settings import Settings
from loadtest.upstream import Turn, running_upstream
from tests.endpoints.conftest import PROMPT, Service, running
from tests.endpoints.voices import voices
from tests.stores import FreshStore

DETAILS = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}, "cost": 0.001}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 99, **DETAILS}
HEAD = {"id": "theirs", "model": "theirs", "service_tier": "flex", "system_fingerprint": "fp_1", "provider": "p"}
MESSAGE = {"name": "n", "annotations": [{"type": "url_citation"}], "reasoning_content": "hm"}
CHOICE = {"stop_reason": 7, "whole": True, "candidate_id": "theirs"}
BODY: dict[str, Any] = {"model": "warm", "user": "u1", "messages": [{"role": "user", "content": PROMPT}]}


async def script(turn: Turn) -> None:
    if not turn.body.get("stream"):
        message = {"role": "assistant", "content": "Hello", "refusal": " no", **MESSAGE}
        choice = {"index": 0, "message": message, "finish_reason": "stop", **CHOICE}
        await turn.refuse(200, {**HEAD, "choices": [choice], "usage": USAGE})
        return
    await turn.head()
    await turn.event({**HEAD, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hello", **MESSAGE}}]})
    await turn.event({**HEAD, "choices": [{"index": 0, "delta": {"refusal": " no"}}]})
    await turn.event({**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", **CHOICE}]})
    await turn.event({**HEAD, "choices": [], "usage": USAGE})
    await turn.event(b"[DONE]")
    await turn.end()


@pytest.fixture
async def service(settings_of: Callable[..., Settings]) -> AsyncIterator[Service]:
    members: dict[str, Any] = dict(voices())
    async with running_upstream() as upstream, UpstreamPool(environ={}) as pool:
        upstream.answers(script)
        members["warm"] = OpenAIMember("warm", OpenAISpec(base_url=upstream.base_url, model="m"), pool, environ={})
        async with running(settings_of(), FreshStore(), members) as service:
            yield service


def _are_passed_on(told: dict[str, Any], choice: dict[str, Any], message: dict[str, Any]) -> None:
    assert {name: told[name] for name in ("service_tier", "system_fingerprint", "provider")} == {
        name: HEAD[name] for name in ("service_tier", "system_fingerprint", "provider")
    }
    assert (told["model"], told["id"] == HEAD["id"]) == ("warm", False)
    assert (choice["stop_reason"], choice["whole"], choice["member"]) == (7, True, "warm")
    assert choice["candidate_id"].startswith(told["attune"]["decision_id"][:20])
    assert (message["name"], message["annotations"], message["refusal"]) == ("n", MESSAGE["annotations"], " no")
    assert "reasoning_content" not in message


async def test_a_whole_chat_says_what_the_server_said(service: Service):
    told = await service.post("/v1/chat/completions", BODY)
    (choice,) = told["choices"]
    _are_passed_on(told, choice, choice["message"])
    assert choice["message"]["content"] == "Hello no"
    assert told["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, **DETAILS}
    assert told["attune"]["bundle"] == service.serving.bundle.id


async def test_a_streamed_chat_says_what_the_server_said(service: Service):
    asked = BODY | {"stream": True, "stream_options": {"include_usage": True}}
    async with service.client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        chunks = [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: {")]
    assert {(chunk["service_tier"], chunk["system_fingerprint"]) for chunk in chunks} == {("flex", "fp_1")}
    (end,) = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["finish_reason"]]
    _are_passed_on(end, end["choices"][0], end["choices"][0]["delta"])
    assert chunks[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, **DETAILS}


async def test_of_several_choices_none_speaks_for_the_whole_answer(service: Service):
    told = await service.post("/v1/chat/completions", BODY | {"n": 2})
    assert told["system_fingerprint"] == service.serving.bundle.id
    assert "service_tier" not in told
    assert told["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
    assert [choice["stop_reason"] for choice in told["choices"]] == [7, 7]
