"""Thoughts that stand between tags in the text are told where those are that have a field of their own, and are text for nobody."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.upstream import Turn, Upstream
from tests.endpoints.test_chat_beyond_text import CHAT, chat, serve, upstream
from tests.endpoints.test_response_events import PATH as RESPONSES
from tests.endpoints.test_thoughts_aloud import deltas, response, told

__all__ = ["serve", "upstream"]  # fixtures of the tests of what else is passed

PIECES = ("<thi", "nk>Hm \ud83d", "\ude00. </", "b></thi", "nk>It is ", "<think>no, </think>noon.")
THOUGHT = "Hm \U0001f600. </b>no, "


async def thinks_in_text(turn: Turn) -> None:
    if not turn.body.get("stream"):
        await turn.whole("".join(PIECES))
        return
    await turn.head()
    for piece in PIECES:
        await turn.text(piece)
    await turn.finish()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("passes", [["reasoning"], []])
async def test_a_chat_is_told_thoughts_between_tags_where_its_member_passes_thoughts(
    serve, upstream: Upstream, passes: list[str], stream: bool
):
    upstream.answers(thinks_in_text)
    async with serve(passes) as service:
        if stream:
            async with service.client.stream("POST", CHAT, json=chat(model="warm", stream=True)) as answer:
                found = deltas([chunk async for chunk in told(answer)])
            thought, text = ("".join(delta.get(name, "") for delta in found) for name in ("reasoning_content", "content"))
        else:
            message = (await service.post(CHAT, chat(model="warm")))["choices"][0]["message"]
            thought, text = message.get("reasoning_content", ""), message["content"]
    assert (thought, text) == (THOUGHT if passes else "", "It is noon.")


async def test_a_thought_between_tags_is_told_before_it_ends(serve, upstream: Upstream):
    async def breaks_off(turn: Turn) -> None:
        await turn.head()
        await turn.text("<think>Hm </thi")
        turn.hang_up()

    upstream.answers(breaks_off)
    async with serve(["reasoning"]) as service, service.client.stream("POST", CHAT, json=chat(model="warm", stream=True)) as answer:
        found = deltas([chunk async for chunk in told(answer)])
    assert [delta["reasoning_content"] for delta in found if "reasoning_content" in delta] == ["Hm "]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_has_thoughts_between_tags_as_an_item(serve, upstream: Upstream, stream: bool):
    upstream.answers(thinks_in_text)
    async with serve(["reasoning"]) as service:
        if stream:
            async with service.client.stream("POST", RESPONSES, json=response(tools=[])) as answer:
                output = [event async for event in told(answer)][-1]["response"]["output"]
        else:
            output = (await service.post(RESPONSES, response(stream=False, tools=[])))["output"]
    assert [(item["type"], item["content"][0]["text"]) for item in output] == [("reasoning", THOUGHT), ("message", "It is noon.")]


async def test_a_thought_that_ends_in_half_a_character_has_all_of_it_in_its_pieces(serve, upstream: Upstream):
    async def halved(turn: Turn) -> None:
        await turn.head()
        await turn.delta(reasoning_content="Hm \ud83d")
        await turn.text("It is noon.")
        await turn.finish()

    upstream.answers(halved)
    events: list[dict[str, Any]] = []
    async with serve(["reasoning"]) as service, service.client.stream("POST", RESPONSES, json=response(tools=[])) as answer:
        events = [event async for event in told(answer)]
    pieces = [event["delta"] for event in events if event["type"] == "response.reasoning_text.delta"]
    (whole,) = [event["text"] for event in events if event["type"] == "response.reasoning_text.done"]
    assert "".join(pieces) == whole == "Hm \ufffd"
