"""Calls of tools as servers send them reach OpenAI's client whole, and as its helper puts a stream together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI

from attune.service.members.openai import OpenAIMember
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from loadtest.upstream import Turn, Upstream, running_upstream
from tests.endpoints.conftest import PROMPT, Service, running
from tests.endpoints.voices import voices
from tests.stores import FreshStore

ASKED: dict[str, Any] = {
    "model": "warm",
    "user": "u1",
    "messages": [{"role": "user", "content": PROMPT}],
    "tools": [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}],
}
CLOCK = {"id": "call_7", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
WAIT = {"id": "call_8", "type": "function", "function": {"name": "wait", "arguments": "{}"}}
SIGNED = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}


def delta(*calls: Any, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"tool_calls": list(calls)}, "finish_reason": None} | choice]}


def part(text: str, **more: Any) -> dict[str, Any]:
    return {"index": 0, "function": {"arguments": text}} | more


def named(text: str, **more: Any) -> dict[str, Any]:
    return {"index": 0, "id": "call_7", "type": "function", "function": {"name": "clock", "arguments": text}} | more


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as upstream:
        yield upstream


@pytest.fixture
async def service(settings_of, upstream: Upstream) -> AsyncIterator[Service]:
    """Yields a service whose member `warm` is a server that takes everything."""
    async with UpstreamPool(environ={}) as pool:
        headers = {"x-key": "a-key-of-the-roster"}
        warm = OpenAIMember("warm", OpenAISpec(base_url=upstream.base_url, model="m", passes="all", headers=headers), pool, environ={})
        async with running(settings_of(max_new_tokens=64), FreshStore(), {**voices(), "warm": warm}) as service:
            yield service


def client_of(service: Service) -> AsyncOpenAI:
    return AsyncOpenAI(base_url="http://localhost/v1", api_key="k", http_client=service.client, max_retries=0)


async def streamed(service: Service) -> Any:
    async with client_of(service).chat.completions.stream(**ASKED) as stream:
        return (await stream.get_final_completion()).choices[0]


async def whole(service: Service) -> Any:
    return (await client_of(service).chat.completions.create(**ASKED)).choices[0]


def in_events(*events: Any, at_once: bool = False) -> Any:
    data = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]

    async def script(turn: Turn) -> None:
        await turn.head()
        for one in [b"".join(data)] if at_once else data:
            await turn.send(one)
        await turn.end()

    return script


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    "events",
    [
        [delta(named("")), delta(part('{"zone": ')), delta(part('"UTC"}')), END],
        [delta(named("")), delta(named('{"zone": ')), delta(named('"UTC"}')), END],
        [delta({"index": 0, "id": "call_7", "type": "function"}), delta({"index": 0, "function": CLOCK["function"]}), END],
        [delta({**CLOCK, "function": {"name": "clock"}}), delta(part('{"zone": "UTC"}')), END],
        [delta({"index": 0}), delta(named('{"zone": "UTC"}')), END],
        [delta(named('{"zone": "UTC"}')), delta(named('{"zone": "UTC"}'), finish_reason="stop")],
        [delta(named('{"zone": "UTC"}'))],
        [{"choices": [{"index": 0, "message": {"tool_calls": [CLOCK]}, "finish_reason": "stop"}]}],
    ],
)
async def test_one_call_is_the_same_however_its_server_streams_it(service: Service, upstream: Upstream, events, at_once: bool):
    upstream.answers(in_events(*events, at_once=at_once))
    for choice in (await whole(service), await streamed(service)):
        assert [call.function.arguments for call in choice.message.tool_calls] == ['{"zone": "UTC"}']
        assert [(call.id, call.function.name) for call in choice.message.tool_calls] == [("call_7", "clock")]
        assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize("ids", [{"id": ""}, {"id": "", "index": 0}, {"id": "f"}])
async def test_two_calls_that_their_server_does_not_tell_apart_are_two(service: Service, upstream: Upstream, ids):
    calls = [CLOCK | ids, WAIT | ids]

    async def message(turn: Turn) -> None:
        await turn.whole("", "stop", tool_calls=calls)

    scripts = [message, in_events(delta(*calls), END)]
    if not ids["id"]:  # one id says that it is one call, where the parts come one after the other
        scripts.append(in_events(delta(calls[0]), delta(calls[1]), END))
    for script in scripts:
        upstream.answers(script)
        for choice in (await whole(service), await streamed(service)):
            told = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]
            assert told == [("clock", '{"zone": "UTC"}'), ("wait", "{}")]
            assert len({call.id for call in choice.message.tool_calls}) == 2


async def test_what_a_helper_makes_of_a_stream_can_be_named_in_feedback(service: Service, upstream: Upstream):
    upstream.answers(in_events(delta(named("{}")), END))
    first, second = await streamed(service), await whole(service)
    told = {"user": "u1", "event_id": "e", "chosen": second.candidate_id, "rejected": first.candidate_id}
    assert (await service.post("/feedback", told))["result"] == "applied"


async def test_a_call_without_arguments_has_none(service: Service, upstream: Upstream):
    upstream.answers(in_events(delta({"index": 0, "id": "a", "function": {"name": "clock", "arguments": None}}), END))
    for choice in (await whole(service), await streamed(service)):
        assert choice.message.tool_calls[0].function.arguments == ""


async def test_a_signature_of_a_call_goes_back_to_its_server_and_no_key_does(service: Service, upstream: Upstream):
    upstream.answers(in_events(delta(named("{}", index=0) | SIGNED | {"echo": "a-key-of-the-roster"}), END))
    for choice in (await whole(service), await streamed(service)):
        (call,) = choice.message.tool_calls
        assert call.model_dump()["extra_content"] == SIGNED["extra_content"]
        assert "echo" not in call.model_dump()


@pytest.mark.parametrize("events", [[delta(named('{"zone": "U'))], [delta(named(""))], [delta({"index": 0, "id": "a"})]])
async def test_a_stream_that_ends_in_the_middle_of_a_call_is_no_answer(service: Service, upstream: Upstream, events):
    upstream.answers(in_events(*events))
    for ask in (whole, streamed):
        with pytest.raises(APIError, match=r"in the middle of a call|no text came"):
            await ask(service)


async def test_arguments_that_cannot_be_written_are_the_members_failure(service: Service, upstream: Upstream):
    upstream.answers(in_events(delta({"index": 0, "function": {"name": "clock", "arguments": {"zone": "\ud800"}}}), END))
    for ask in (whole, streamed):
        with pytest.raises(APIError, match="cannot be written as JSON"):
            await ask(service)


async def test_calls_hold_the_limit_as_texts_do(service: Service, upstream: Upstream):
    upstream.answers(in_events(delta(named("")), *(delta(part("x" * 500)) for _ in range(9)), END))
    choice = await whole(service)
    assert choice.finish_reason == "length"
    assert 0 < len(choice.message.tool_calls[0].function.arguments) <= 16 * 64


async def test_an_answer_that_a_stop_text_ends_says_that_it_calls(service: Service, upstream: Upstream):
    async def script(turn: Turn) -> None:
        await turn.whole("done. STOP here", "stop", tool_calls=[CLOCK])

    upstream.answers(script)
    choice = (await client_of(service).chat.completions.create(**ASKED, stop=["STOP"])).choices[0]
    assert (choice.message.content, choice.finish_reason, len(choice.message.tool_calls)) == ("done. ", "tool_calls", 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_cut_says_nothing_of_the_member(service: Service, upstream: Upstream, stream: bool):
    async def cut(turn: Turn) -> None:
        await turn.whole("let me look .", "length", tool_calls=[CLOCK])

    upstream.answers(cut)
    await service.client.post("/v1/chat/completions", json=ASKED | {"stream": stream, "attune": {"score": stream}})
    await service.settle()
    members = (await service.get("/portfolio"))["members"]
    assert [one["evidence"]["answers"] for one in members if one["name"] == "warm"] == [0.0]
