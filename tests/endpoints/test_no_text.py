"""A model that thinks up to its limit has answered with nothing but that: no failure, where nobody else can answer in its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attune.service.usecases.member_answers import NO_TEXT
from loadtest.upstream import Turn, Upstream
from tests.endpoints.test_chat_beyond_text import ASKED, CHAT, chat, says, sent_to, serve, upstream
from tests.endpoints.test_response_events import PATH as RESPONSES
from tests.endpoints.test_thoughts_aloud import deltas, response, told

__all__ = ["serve", "upstream"]  # fixtures of the tests of what else is passed


async def thinks_only(turn: Turn) -> None:
    if not turn.body.get("stream"):
        await turn.whole("", "length", reasoning_content="Hm")
        return
    await turn.head()
    await turn.delta(reasoning_content="Hm")
    await turn.finish("length")


async def thinks_in_tags(turn: Turn) -> None:
    if not turn.body.get("stream"):
        await turn.whole("<think>Hm", "length")
        return
    await turn.head()
    await turn.text("<think>Hm")
    await turn.finish("length")


@pytest.mark.parametrize("script", [thinks_only, thinks_in_tags])
@pytest.mark.parametrize("passes", [["reasoning"], []])
async def test_a_chat_that_is_thought_up_to_its_limit_ends_with_length(serve, upstream: Upstream, passes: list[str], script: Any):
    upstream.answers(script)
    async with serve(passes) as service:
        (choice,) = (await service.post(CHAT, chat(model="warm")))["choices"]
        async with service.client.stream("POST", CHAT, json=chat(model="warm", stream=True)) as answer:
            chunks = [chunk async for chunk in told(answer)]
    thought = "Hm" if passes else None
    assert (choice["message"]["content"], choice["finish_reason"], choice["message"].get("reasoning_content")) == ("", "length", thought)
    found = deltas(chunks)
    assert found[0] == {"role": "assistant", "content": ""}
    assert [delta["reasoning_content"] for delta in found if "reasoning_content" in delta] == (["Hm"] if passes else [])
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
async def test_such_a_response_is_incomplete_and_its_events_are_whole(serve, upstream: Upstream, stream: bool):
    upstream.answers(thinks_only)
    kinds = []
    async with serve(["reasoning"]) as service:
        if stream:
            async with service.client.stream("POST", RESPONSES, json=response(tools=[])) as answer:
                events = [event async for event in told(answer)]
            whole, kinds = events[-1]["response"], [event["type"] for event in events if event.get("output_index") == 1]
        else:
            whole = await service.post(RESPONSES, response(stream=False, tools=[]))
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [(item["type"], item["content"][0]["text"]) for item in whole["output"]] == [("reasoning", "Hm"), ("message", "")]
    assert kinds == [
        *(["response.output_item.added", "response.content_part.added"] if stream else []),
        *(["response.output_text.done", "response.content_part.done", "response.output_item.done"] if stream else []),
    ]


async def test_another_member_stands_in_before_a_thought_was_told(serve, upstream: Upstream):
    upstream.answers(thinks_only)
    async with serve(["reasoning"]) as service:
        answers = [await service.post(CHAT, chat(attune={"among": ["warm", "detailed"]})) for _ in range(20)]
    assert sent_to(upstream)  # it was drawn first now and then
    assert {answer["choices"][0]["member"] for answer in answers} == {"detailed"}


async def test_an_answer_without_text_can_be_named_in_feedback_that_is_exported_and_read_again(serve, upstream: Upstream):
    ids = []
    async with serve(["reasoning"]) as service:
        for script in (says, thinks_only):
            upstream.answers(script)
            ids.append((await service.post(CHAT, chat(model="warm")))["choices"][0]["candidate_id"])
        named = {"user": "u1", "event_id": "cut", "chosen": ids[0], "rejected": ids[1]}
        assert (await service.post("/feedback", named))["result"] == "applied"
        lines = [json.loads(line) for line in (await service.client.get("/users/u1/export")).text.splitlines()]
        (line,) = [line for line in lines if line["type"] == "comparison"]
        assert line["rejected_text"] == NO_TEXT
        texts = {name: line[name] for name in ("prompt", "chosen_text", "rejected_text")}
        assert (await service.post("/feedback", {"user": "u2", "event_id": "again", **texts}))["result"] == "applied"
        upstream.answers(says)
        turns = [ASKED, {"role": "assistant", "content": ""}, ASKED]
        assert (await service.post(CHAT, chat(model="warm", messages=turns)))["choices"][0]["message"]["content"]
