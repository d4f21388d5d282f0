"""Thoughts that are parts of the content, as Mistral's models tell them: told as those that have a field, and given back as parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from attune.service.members.openai import OpenAIMember
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.settings import Settings
from loadtest.upstream import Turn, Upstream
from tests.endpoints.conftest import Service, running
from tests.endpoints.test_chat_beyond_text import ASKED, CALL, CHAT, TOOLS, chat, sent_to, upstream
from tests.endpoints.test_response_events import PATH as RESPONSES
from tests.endpoints.test_thoughts_aloud import deltas, response, told
from tests.stores import FreshStore

__all__ = ["upstream"]  # a fixture of the tests of what else is passed

Serve = Callable[..., AbstractAsyncContextManager[Service]]
AFTER = {"role": "tool", "tool_call_id": "call_7", "content": "noon"}


def thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


async def thinks_in_parts(turn: Turn) -> None:
    if not turn.body.get("stream"):
        await turn.whole([thinking("Hm."), {"type": "text", "text": "It is noon."}])  # type: ignore[arg-type]
        return
    await turn.head()
    await turn.delta(content=[thinking("H")])
    await turn.delta(content=[thinking("m.")])
    await turn.delta(content="It is noon.")
    await turn.finish()


@pytest.fixture
async def serve(settings_of: Callable[..., Settings], upstream: Upstream) -> AsyncIterator[Serve]:
    async with UpstreamPool(environ={}) as pool:

        def make(**said: Any) -> AbstractAsyncContextManager[Service]:
            spec = OpenAISpec(base_url=upstream.base_url, model="warm", passes=["reasoning", "tools"], **said)
            return running(settings_of(), FreshStore(), {"warm": OpenAIMember("warm", spec, pool, environ={})})

        yield make


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("said", "thought"), [({"thoughts_as": "parts"}, "Hm."), ({}, "")])
async def test_a_chat_is_told_them_where_the_roster_says_so(
    serve: Serve, upstream: Upstream, stream: bool, said: dict[str, str], thought: str
):
    upstream.answers(thinks_in_parts)
    async with serve(**said) as service:
        if stream:
            async with service.client.stream("POST", CHAT, json=chat(model="warm", stream=True)) as answer:
                found = deltas([chunk async for chunk in told(answer)])
        else:
            found = [(await service.post(CHAT, chat(model="warm")))["choices"][0]["message"]]
    assert ["".join(delta.get(name) or "" for delta in found) for name in ("reasoning_content", "content")] == [thought, "It is noon."]


async def test_a_response_has_them_as_an_item_and_its_input_gives_them_back(serve: Serve, upstream: Upstream):
    async def calls(turn: Turn) -> None:
        await turn.whole([thinking("Hm.")], "tool_calls", tool_calls=[CALL])  # type: ignore[arg-type]

    upstream.answers(calls)
    noon = {"type": "function_call_output", "call_id": "call_7", "output": "noon"}
    async with serve(thoughts_as="parts") as service:
        output = (await service.post(RESPONSES, response(stream=False)))["output"]
        await service.post(RESPONSES, response(stream=False, input=[ASKED, *output, noon]))
    assert [item["type"] for item in output] == ["reasoning", "function_call"]
    assert output[0]["content"][0]["text"] == "Hm."
    assert sent_to(upstream)[-1]["messages"][1] == {
        "role": "assistant",
        "content": [thinking("Hm.") | {"closed": True}],
        "tool_calls": [CALL],
    }


@pytest.mark.parametrize("text", ["It is noon.", None])
async def test_they_go_back_as_parts_and_in_no_field(serve: Serve, upstream: Upstream, text: str | None):
    upstream.answers(thinks_in_parts)
    turn = {"role": "assistant", "content": text, "reasoning_content": "Hm.", "reasoning_details": [{"text": "Hm."}], "tool_calls": [CALL]}
    async with serve(thoughts_as="parts") as service:
        await service.post(CHAT, chat(model="warm", tools=TOOLS, messages=[ASKED, turn, AFTER]))
    said = [{"type": "text", "text": text}] if text else []
    assert sent_to(upstream)[-1]["messages"][1] == {
        "role": "assistant",
        "content": [thinking("Hm.") | {"closed": True}, *said],
        "tool_calls": [CALL],
    }


async def test_they_stay_in_their_field_for_other_servers(serve: Serve, upstream: Upstream):
    upstream.answers(thinks_in_parts)
    turn = {"role": "assistant", "content": "It is noon.", "reasoning_content": "Hm.", "tool_calls": [CALL]}
    async with serve() as service:
        await service.post(CHAT, chat(model="warm", tools=TOOLS, messages=[ASKED, turn, AFTER]))
    assert sent_to(upstream)[-1]["messages"][1] == turn
