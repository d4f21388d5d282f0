"""OpenAI's Responses API, as its own client reads it: whole and streamed, with calls of tools, and errors by the client's names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError
from openai.types.responses import Response as TheirResponse
from pydantic import BaseModel

from attune.service.members.member import OneMemberFailed
from attune.service.members.openai import OpenAIMember
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.settings import Settings
from loadtest.upstream import Turn, Upstream
from tests.endpoints.conftest import PROMPT, Service, running
from tests.endpoints.test_chat_beyond_text import CALL, calls, sent_to, upstream
from tests.endpoints.voices import voices
from tests.stores import FreshStore

__all__ = ["upstream"]  # a fixture of the tests of chats

PATH = "/v1/responses"
FUNCTION = {"type": "function", "name": "clock", "description": "the time", "parameters": {"type": "object"}, "strict": False}
AS_CHAT = {"type": "function", "function": {name: value for name, value in FUNCTION.items() if name != "type"}}
CALLED = {"type": "function_call", "call_id": "call_7", "name": "clock", "arguments": '{"zone": "UTC"}'}
RESULT = {"type": "function_call_output", "call_id": "call_7", "output": "noon"}
SAID = {"role": "assistant", "content": "Let me look."}
PICTURED = {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "auto", "user": "u1", "input": PROMPT, **more}


def client_of(service: Service) -> AsyncOpenAI:
    return AsyncOpenAI(base_url="http://localhost/v1", api_key="k", http_client=service.client, max_retries=0)


@pytest.fixture
async def serve(settings_of: Callable[..., Settings], upstream: Upstream) -> AsyncIterator[Callable[..., Any]]:
    """Yields a context in which `warm` is a server that passes what is given."""
    async with UpstreamPool(environ={}) as pool:

        def make(passes: Sequence[str] = ()) -> Any:
            members: dict[str, Any] = dict(voices())
            spec = OpenAISpec(base_url=upstream.base_url, model="warm", passes=list(passes))
            members["warm"] = OpenAIMember("warm", spec, pool, environ={})
            return running(settings_of(), FreshStore(), members)

        yield make


async def test_a_text_is_answered_and_can_be_learned_from(service: Service):
    client, chosen = client_of(service), {}
    for name in ("concise", "detailed"):
        told = await client.responses.create(model=name, input=PROMPT, user="u1", instructions="Be kind.", metadata={"a": "b"})
        assert (told.status, told.model, told.output_text) == ("completed", name, "".join(service.members[name].pieces))
        assert (told.instructions, told.metadata, told.error, told.incomplete_details) == ("Be kind.", {"a": "b"}, None, None)
        assert told.usage is not None
        assert told.usage.total_tokens == told.usage.input_tokens + told.usage.output_tokens > 0
        chosen[name] = told.attune["candidate_id"]  # type: ignore[attr-defined]
        assert [(turn.role, turn.content) for turn in service.members[name].asked[-1].messages] == [
            ("system", "Be kind."),
            ("user", PROMPT),
        ]
    body = {"user": "u1", "event_id": "e", "chosen": chosen["concise"], "rejected": chosen["detailed"]}
    assert (await service.post("/feedback", body))["result"] == "applied"


async def test_a_stream_has_the_events_that_the_client_puts_together(service: Service):
    async with client_of(service).responses.stream(model="detailed", input=PROMPT, user="u1") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"]
    assert kinds.count("response.output_text.delta") == len(service.members["detailed"].pieces)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == "".join(service.members["detailed"].pieces)
    assert final.attune["candidate_id"]  # type: ignore[attr-defined]
    (item,) = [event.item for event in events if event.type == "response.output_item.done"]
    assert (item.id, item.status, item.content[0].text) == (final.output[0].id, "completed", final.output_text)  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
async def test_functions_are_called_and_their_results_go_on(serve, upstream: Upstream, stream: bool):
    async def then(turn: Turn) -> None:
        await calls(turn) if len(turn.body.get("messages", ())) == 1 else await turn.whole("It is noon.")

    upstream.answers(then)
    async with serve(["tools"]) as service:
        ask = asked(tools=[FUNCTION], tool_choice={"type": "function", "name": "clock"})
        if stream:
            events = await events_of(service, ask | {"stream": True})
            first = events[-1]["response"]
            deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
            assert "".join(deltas) == CALL["function"]["arguments"]
        else:
            first = await service.post(PATH, ask)
        (item,) = first["output"]
        assert {name: item[name] for name in CALLED} == CALLED
        body = asked(input=[{"role": "user", "content": PROMPT}, item, RESULT], tools=[FUNCTION])
        second = TheirResponse.model_validate(await service.post(PATH, body))
    assert second.output_text == "It is noon."
    opening, going_on = sent_to(upstream)
    assert (opening["tools"], opening["tool_choice"]) == ([AS_CHAT], {"type": "function", "function": {"name": "clock"}})
    assert going_on["messages"] == [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_7", "content": "noon"},
    ]


async def events_of(service: Service, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with service.client.stream("POST", PATH, json=body) as answer:
        assert answer.status_code == 200
        return [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]


class Noon(BaseModel):
    hour: int


async def test_a_form_is_kept_by_a_member_that_passes_it(serve, upstream: Upstream):
    async def says(turn: Turn) -> None:
        await turn.whole('{"hour": 12}')

    upstream.answers(says)
    async with serve(["response_format", "reasoning_effort", "images"]) as service:
        picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
        message = {"role": "user", "content": [{"type": "input_text", "text": PROMPT}, picture]}
        told = await client_of(service).responses.parse(
            model="auto",
            input=[message],
            text_format=Noon,
            reasoning={"effort": "low"},
            user="u",  # type: ignore[list-item]
        )
    assert told.output_parsed == Noon(hour=12)
    (sent,) = sent_to(upstream)
    assert sent["response_format"]["json_schema"]["schema"]["properties"]["hour"]
    assert sent["response_format"]["json_schema"]["name"] == "Noon"
    assert sent["reasoning_effort"] == "low"
    assert sent["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}


async def test_what_was_cut_is_incomplete(serve, upstream: Upstream):
    async def cut(turn: Turn) -> None:
        if turn.body.get("stream"):
            await turn.head()
            await turn.text("Well")
            await turn.finish("length")
        else:
            await turn.whole("Well", "length", (3, 1))

    upstream.answers(cut)
    async with serve() as service:
        whole = await service.post(PATH, asked(model="warm", max_output_tokens=1))
        events = await events_of(service, asked(model="warm", stream=True))
    for told in (whole, events[-1]["response"]):
        assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert told["output"][0]["status"] == "incomplete"
    assert events[-1]["type"] == "response.incomplete"
    assert sent_to(upstream)[0]["max_tokens"] == 1


@pytest.mark.parametrize(
    ("more", "param", "why"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is stored here"),
        ({"conversation": "conv_1"}, "conversation", "nothing is stored here"),
        ({"background": True}, "background", "nothing is stored here"),
        ({"input": []}, "input", "0 items"),
        ({"input": "  "}, "input", "no user's or tool's text"),
        ({"input": [7] * 4097}, "input", "4,097 items"),
        ({"input": [7]}, "input[0]", "an item of input is an object"),
        ({"input": [{"role": "user", "content": "a"}, {"type": "item_reference", "id": "x"}]}, "input[1]", "was stored"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "web_search_call"),
        ({"input": [{"role": "king", "content": "a"}]}, "input[0].role", "none of assistant"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0].file_id", "was stored"),
        ({"input": [{"role": "user", "content": [{"type": "hologram"}]}]}, "input[0].content[0]", "hologram"),
        ({"input": [{"role": "user", "content": 7}]}, "input[0].content", "a string or a list"),
        ({"instructions": "Be.", "input": [{"role": "user", "content": "a\0"}]}, "input[0].content", "NUL"),
        ({"instructions": "B\0"}, "instructions", "NUL"),
        ({"input": "a\0"}, "input", "NUL"),
        ({"input": [{"type": [1]}]}, "input[0].type", "is a list"),
        ({"input": [{"role": "user", "content": ["a"]}]}, "input[0].content[0]", "is a text"),
        ({"input": [{"role": "user", "content": [{"type": [1]}]}]}, "input[0].content[0]", "is a list"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text", "a string is needed"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url", "a string is needed"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]", "neither `file_data`"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0].input_audio", "an object"),
        ({"input": [PICTURED]}, "input[0].content[0].type", "is 'input_image'"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "a string is needed"),
        ({"input": [SAID, CALLED | {"arguments": "a\0"}]}, "input[1].arguments", "NUL"),
        ({"input": [CALLED, {"type": "function_call_output", "output": "a"}]}, "input[1].call_id", "a string is needed"),
        ({"input": [CALLED, RESULT | {"output": "a\0"}]}, "input[1].output", "NUL"),
        ({"input": [CALLED, RESULT | {"output": PICTURED["content"]}]}, "input[1].output[0].type", "is 'input_image'"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "run at OpenAI alone"),
        ({"tools": [{"type": [1]}]}, "tools[0]", "is a list"),
        ({"tools": [AS_CHAT]}, "tools[0].name", "a string is needed"),
        ({"tools": [FUNCTION | {"description": "\ud800"}]}, "tools", "no sound Unicode"),
        ({"tool_choice": {"type": [1]}}, "tool_choice", "is a list"),
        ({"tool_choice": 7}, "tool_choice", "is a number"),
        ({"tool_choice": {"type": "mcp", "server_label": "s"}}, "tool_choice", "is mcp"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name", "a string is needed"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": 7}}, "tool_choice.tools", "a list of tools"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}}, "tool_choice.tools[0]", "is mcp"),
        ({"metadata": {"a": 1}}, "metadata.a", "a valid string"),
        ({"metadata": {"a": "\ud800"}}, "metadata", "no sound Unicode"),
        ({"reasoning": {"summary": "\ud800"}}, "reasoning", "no sound Unicode"),
        ({"max_output_tokens": 10**30}, "max_output_tokens", "a number that is not finite or has more than 64 bits"),
        ({"text": {"format": "json"}}, "text.format", "an object with `type`"),
        ({"include": ["message.output_text.logprobs"]}, "include", "probabilities"),
        ({"attune": {"family": "nobody's"}}, "attune.family", "none of the families"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format", "no member passes `response_format`"),
        ({"tools": [FUNCTION], "tool_choice": "required"}, "tool_choice", "no member passes `tools`"),
        ({"max_output_tokens": 0}, "max_output_tokens", ""),
        ({"top_logprobs": 2}, "top_logprobs", "probabilities"),
    ],
)
async def test_what_is_wrong_has_the_clients_name(service: Service, more: dict[str, Any], param: str, why: str):
    body = json.dumps(asked(**more)).encode()  # the client itself cannot send half of a surrogate pair
    options: Any = {"headers": {"content-type": "application/json"}}
    with pytest.raises(BadRequestError) as refused:
        await client_of(service).post(PATH.removeprefix("/v1"), content=body, options=options, cast_to=TheirResponse)
    assert (refused.value.param, why in str(refused.value)) == (param, True)
    assert not any(voice.asked for voice in service.members.values())


async def test_a_stream_that_fails_says_so(service: Service):
    voice = service.members["warm"]
    voice.failure, voice.fails_after = OneMemberFailed("warm", "timeout", "it was silent"), 1
    events = await events_of(service, asked(model="warm", stream=True))
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["status"] == "failed"
    assert "it was silent" in events[-1]["response"]["error"]["message"]
    voice.fails_after = 0
    await service.post(PATH, asked(model="warm", stream=True), 502)


async def test_a_custom_tool_and_text_beside_calls_are_items_of_their_own(serve, upstream: Upstream):
    async def both(turn: Turn) -> None:
        await turn.head()
        await turn.text("Let me look.")
        await turn.delta(tool_calls=[{"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "select "}}])
        await turn.delta(tool_calls=[{"index": 0, "custom": {"input": "1"}}, {"index": 1, **CALL}])
        await turn.finish("tool_calls")

    upstream.answers(both)
    async with serve(["tools"]) as service:
        events = await events_of(service, asked(tools=[FUNCTION, {"type": "custom", "name": "sql"}], stream=True))
    final = TheirResponse.model_validate(events[-1]["response"])
    assert [item.type for item in final.output] == ["message", "custom_tool_call", "function_call"]
    assert final.output[1].input == "select 1"  # type: ignore[union-attr]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1, 2]
