"""What a model thinks reaches callers of chats where its member passes `reasoning`, and nobody else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from loadtest.upstream import Turn, Upstream
from tests.endpoints.conftest import Service
from tests.endpoints.test_chat_beyond_text import ASKED, CALL, CHAT, TOOLS, chat, sent_to, serve, upstream

__all__ = ["serve", "upstream"]  # fixtures of the tests of what else is passed


@pytest.mark.parametrize("stream", [False, True])
async def test_a_member_that_passes_its_thoughts_has_them_sent_back_with_the_results_of_tools(serve, upstream: Upstream, stream: bool):
    async def thinks(turn: Turn) -> None:
        if not turn.body.get("stream"):
            await turn.whole("", "tool_calls", tool_calls=[CALL], content=None, reasoning_content="I need the time.")
            return
        await turn.head()
        for piece in ("I need ", "the time."):
            await turn.delta(reasoning_content=piece)
        await turn.delta(tool_calls=[{"index": 0, **CALL}])
        await turn.finish("tool_calls")

    upstream.answers(thinks)
    asked = chat(tools=TOOLS, stream=stream)
    async with serve(["tools", "reasoning"]) as service:
        if stream:
            chunks = [json.loads(line[6:]) async for line in lines_of(service, asked) if line.startswith("data: {")]
            (thought,) = [delta["reasoning_content"] for one in chunks if "reasoning_content" in (delta := one["choices"][0]["delta"])]
            message = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": thought}
        else:
            message = (await service.post(CHAT, asked))["choices"][0]["message"]
        assert message["reasoning_content"] == "I need the time."
        result = {"role": "tool", "tool_call_id": "call_7", "content": "noon"}
        told = await service.post(CHAT, chat(tools=TOOLS, messages=[ASKED, message, result]))
        record = await service.get(f"/decisions/{told['attune']['decision_id']}")
    assert sent_to(upstream)[-1]["messages"][2]["reasoning_content"] == "I need the time."
    assert "I need the time." not in record["prompt"]
    async with serve(["tools"]) as service:
        assert "reasoning_content" not in (await service.post(CHAT, chat(tools=TOOLS)))["choices"][0]["message"]


async def lines_of(service: Service, body: dict[str, Any]) -> AsyncIterator[str]:
    async with service.client.stream("POST", CHAT, json=body) as answer:
        async for line in answer.aiter_lines():
            yield line
