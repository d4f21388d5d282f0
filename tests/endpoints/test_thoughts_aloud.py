"""What a model thinks is told while it is thought, by both of OpenAI's dialects, and goes back to the server that thought it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai.types.responses import ResponseReasoningItem

from loadtest.upstream import Turn, Upstream
from tests.endpoints.test_chat_beyond_text import ASKED, CALL, CHAT, HISTORY, TOOLS, chat, sent_to, serve, upstream
from tests.endpoints.test_response_events import PATH as RESPONSES
from tests.endpoints.test_streaming import listening

__all__ = ["serve", "upstream"]  # fixtures of the tests of what else is passed

SIGNED = {"reasoning_content": "I need ", "reasoning_details": [{"text": "I need "}]}
MORE = {"reasoning_content": "the time.", "reasoning_details": [{"text": "the time.", "signature": "c2ln"}], "reasoning_rank": 3}
DETAILS = [*SIGNED["reasoning_details"], *MORE["reasoning_details"]]  # type: ignore[misc]
ONE_TOOL = [{"type": "function", "name": "clock", "parameters": {"type": "object"}}]


def response(**more: Any) -> dict[str, Any]:
    return {"model": "warm", "user": "u1", "input": [ASKED], "tools": ONE_TOOL, "stream": True, **more}


async def told(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yields the events of a stream as they come."""
    assert answer.status_code == 200
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]


async def thinks(turn: Turn) -> None:
    await turn.head()
    await turn.delta(**SIGNED)
    await turn.delta(**MORE)
    await turn.delta(tool_calls=[{"index": 0, **CALL}])
    await turn.finish("tool_calls")


async def test_a_thought_is_told_before_the_next_one_is_thought(serve, upstream: Upstream):
    read = asyncio.Event()

    async def waits(turn: Turn) -> None:
        await turn.head()
        await turn.delta(reasoning_content="Hm \ud83d")
        await read.wait()
        await turn.delta(reasoning_content="\ude00.")
        await turn.text("It is noon.")
        await turn.finish()

    upstream.answers(waits)
    async with (
        serve(["reasoning"]) as service,
        listening(service) as client,
        client.stream("POST", CHAT, json=chat(model="warm", stream=True)) as answer,
    ):
        chunks = []
        async for chunk in told(answer):
            chunks.append(chunk)
            read.set()
    found = deltas(chunks)
    assert found[0] == {"role": "assistant", "content": ""}
    assert [delta["reasoning_content"] for delta in found if "reasoning_content" in delta] == ["Hm ", "\U0001f600."]
    assert "".join(delta.get("content", "") for delta in found) == "It is noon."
    assert all(choice["member"] == "warm" for chunk in chunks for choice in chunk["choices"])


async def test_thoughts_are_told_once_and_what_comes_in_no_pieces_at_the_end(serve, upstream: Upstream):
    upstream.answers(thinks)
    async with serve(["tools", "reasoning"]) as service, service.client.stream("POST", CHAT, json=chat(tools=TOOLS, stream=True)) as answer:
        found = deltas([chunk async for chunk in told(answer)])
    assert "".join(delta.get("reasoning_content", "") for delta in found) == "I need the time."
    assert [detail for delta in found for detail in delta.get("reasoning_details", ())] == DETAILS
    assert [delta for delta in found if "reasoning_rank" in delta] == [found[-1]]


async def test_nobody_stands_in_once_a_thought_was_told(serve, upstream: Upstream):
    async def breaks_off(turn: Turn) -> None:
        await turn.head()
        await turn.delta(reasoning_content="Hm")
        turn.hang_up()

    upstream.answers(breaks_off)
    asked, answers, heard = chat(attune={"among": ["warm", "detailed"]}), {}, {}
    for stream in (False, True):
        async with serve(["reasoning"]) as service:
            before = len(sent_to(upstream))
            answers[stream] = [await service.client.post(CHAT, json=asked | {"stream": stream}) for _ in range(20)]
            heard[stream] = len(sent_to(upstream)) - before
    assert min(heard.values()) > 0  # either of the two is drawn first
    assert {(answer.status_code, answer.headers["x-attune-member"]) for answer in answers[False]} == {(200, "detailed")}
    began = [answer for answer in answers[True] if answer.headers["x-attune-member"] == "warm"]
    assert len(began) == heard[True]
    for answer in answers[True]:
        assert ("Hm" in answer.text, '"error":' in answer.text) == (answer in began,) * 2


async def test_thoughts_of_one_member_go_to_no_server_that_has_none(serve, upstream: Upstream):
    upstream.answers(thinks)
    call = {**HISTORY[1], "reasoning_content": "I need the time.", "thinking_blocks": [{"signature": "c2ln"}]}
    for passes, kept in ((["tools"], False), (["tools", "reasoning"], True)):
        async with serve(passes) as service:
            asked = chat(model="warm", tools=TOOLS, messages=[ASKED, call, HISTORY[2]], stream=True)
            assert (await service.client.post(CHAT, json=asked)).status_code == 200
        (sent,) = [message for message in sent_to(upstream)[-1]["messages"] if message["role"] == "assistant"]
        assert sent == (call if kept else HISTORY[1]) | {"content": None}


@pytest.mark.parametrize("stream", [True, False])
async def test_an_item_of_thoughts_comes_first_and_goes_back_as_its_server_said_it(serve, upstream: Upstream, stream: bool):
    async def whole(turn: Turn) -> None:
        said = SIGNED | {"reasoning_content": "I need the time.", "reasoning_details": DETAILS, "reasoning_rank": 3}
        await turn.whole("", "tool_calls", tool_calls=[CALL], content=None, **said)

    upstream.answers(thinks if stream else whole)
    async with serve(["tools", "reasoning"]) as service:
        events: list[dict[str, Any]] = []
        if stream:
            async with service.client.stream("POST", RESPONSES, json=response()) as answer:
                events = [event async for event in told(answer)]
            output = events[-1]["response"]["output"]
        else:
            output = (await service.post(RESPONSES, response(stream=False)))["output"]
        thought, call = output
        ResponseReasoningItem.model_validate(thought, strict=True)
        assert thought["content"] == [{"type": "reasoning_text", "text": "I need the time."}]
        assert (thought["reasoning_details"], thought["status"], call["type"]) == (DETAILS, "completed", "function_call")
        result = {"type": "function_call_output", "call_id": "call_7", "output": "noon"}
        bare = {name: thought[name] for name in ("id", "type", "summary", "content")}
        for item, goes_back in ((thought, thought), (bare, {"reasoning_content": "I need the time."})):
            upstream.answers(thinks)
            told_next = await service.client.post(RESPONSES, json=response(input=[ASKED, item, call, result]))
            assert told_next.status_code == 200
            (sent,) = [message for message in sent_to(upstream)[-1]["messages"] if message["role"] == "assistant"]
            names = ("reasoning_content", "reasoning_details", "reasoning_rank")
            assert {name: sent[name] for name in names if name in sent} == {name: goes_back[name] for name in names if name in goes_back}
    if stream:
        kinds = [event["type"] for event in events if event.get("output_index") == 0]
        assert kinds == [
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            *(["response.reasoning_text.delta"] if kinds.count("response.reasoning_text.delta") == 2 else []),
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
        ]
        assert "".join(event["delta"] for event in events if event["type"] == "response.reasoning_text.delta") == "I need the time."
