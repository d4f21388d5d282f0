"""Responses are what OpenAI's own types say, every event of a stream too, whatever the member's server sends."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response as TheirResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from attune.service.api.response_output import ResponseAnswer
from attune.service.members.member import NOTHING_SAID, MembersBusy, OneMemberFailed
from attune.service.members.openai import OpenAIMember
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.settings import Settings
from attune.service.usecases.member_answers import Generated, GeneratedCandidate, Piece, Ping
from loadtest.upstream import Turn, Upstream, running_upstream
from tests.endpoints.conftest import PROMPT, Service, running
from tests.endpoints.voices import voices
from tests.stores import FreshStore

PATH = "/v1/responses"
TOOLS = [
    {"type": "function", "name": "clock", "parameters": {"type": "object"}, "strict": False},
    {"type": "custom", "name": "sql"},
]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
Deltas = Sequence[dict[str, Any]]


def calls(index: int, kind: str, told: dict[str, str], **more: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **more, kind: told}]}


TEXT: Deltas = [{"content": "It is "}, {"content": "noon."}]
NO: Deltas = [{"refusal": "I will "}, {"refusal": "not."}]
TEXT_BEHIND_A_CALL: Deltas = [calls(0, "function", {"name": "clock", "arguments": "{}"}, id="a", type="function"), *TEXT]
TEXT_BETWEEN_CALLS: Deltas = [*TEXT_BEHIND_A_CALL, calls(1, "custom", {"name": "sql", "input": "select 1"}, id="b", type="custom")]
A_NAME_THAT_IS_LATE: Deltas = [
    {"tool_calls": [{"index": 0, "id": "a", "type": "function"}]},
    calls(0, "function", {"name": "clock"}),
    calls(0, "function", {"arguments": '{"zone"'}),
    calls(0, "function", {"arguments": ": 1}"}),
]
A_CUSTOM_NAME_THAT_IS_LATE: Deltas = [
    {"tool_calls": [{"index": 0, "id": "a", "type": "custom"}]},
    calls(0, "custom", {"name": "sql", "input": "select"}),
    calls(0, "custom", {"input": " 1"}),
]
A_SIGNED_CALL: Deltas = [
    calls(0, "function", {"name": "clock", "arguments": "{}"}, id="a", type="function"),
    {"tool_calls": [{"index": 0, "extra_content": {"signature": "c2ln"}}]},
]
NO_ARGUMENTS: Deltas = [calls(0, "function", {"name": "clock"}, id="a", type="function")]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as upstream:
        yield upstream


@pytest.fixture
async def service(settings_of: Callable[..., Settings], upstream: Upstream) -> AsyncIterator[Service]:
    members: dict[str, Any] = dict(voices())
    async with UpstreamPool(environ={}) as pool:
        spec = OpenAISpec(base_url=upstream.base_url, model="m", passes=["tools", "response_format", "reasoning_effort"])
        members["warm"] = OpenAIMember("warm", spec, pool, environ={})
        async with running(settings_of(), FreshStore(), members) as service:
            yield service


def says(deltas: Deltas, usage: dict[str, Any] | None = None) -> Callable[[Turn], Any]:
    async def script(turn: Turn) -> None:
        await turn.head()
        for delta in deltas:
            await turn.delta(**delta)
        await turn.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
        await turn.event(b"[DONE]")
        await turn.end()

    return script


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "warm", "user": "u1", "input": PROMPT, "tools": TOOLS, **more}


async def events_of(service: Service, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with service.client.stream("POST", PATH, json=body) as answer:
        assert answer.status_code == 200
        events = [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]
    for event in events:
        EVENT.validate_python(event, strict=True)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    return events


@pytest.mark.parametrize(
    ("deltas", "kinds"),
    [
        (TEXT, ["message"]),
        (NO, ["message"]),
        ([*TEXT, *NO], ["message"]),
        (TEXT_BEHIND_A_CALL, ["function_call", "message"]),
        (TEXT_BETWEEN_CALLS, ["function_call", "message", "custom_tool_call"]),
        (A_NAME_THAT_IS_LATE, ["function_call"]),
        (A_CUSTOM_NAME_THAT_IS_LATE, ["custom_tool_call"]),
        (A_SIGNED_CALL, ["function_call"]),
        (NO_ARGUMENTS, ["function_call"]),
    ],
)
async def test_the_items_of_a_stream_are_those_of_the_response_that_ends_it(
    service: Service, upstream: Upstream, deltas: Deltas, kinds: list[str]
):
    upstream.answers(says(deltas))
    events = await events_of(service, asked(stream=True))
    output = events[-1]["response"]["output"]
    assert sorted(item["type"] for item in output) == sorted(kinds)
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [(event["output_index"], event["item"]["id"]) for event in added] == [(at, item["id"]) for at, item in enumerate(output)]
    assert all(event["item"].get("name") != "" for event in added)
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [(event["output_index"], event["item"]) for event in done] == list(enumerate(output))
    for at, item in enumerate(output):
        deltas_of = "".join(event["delta"] for event in events if event["type"].endswith(".delta") and event["output_index"] == at)
        parts = item.get("content", [item])
        texts = [part.get(name, "") for part in parts for name in ("text", "refusal", "arguments", "input")]
        assert "".join(texts) == deltas_of


@pytest.mark.parametrize("details", [None, {"cached_tokens": None, "audio_tokens": 4}, ["?"], "?"])
@pytest.mark.parametrize("stream", [False, True])
async def test_counts_are_numbers_whatever_the_server_says_of_them(service: Service, upstream: Upstream, details: Any, stream: bool):
    counts = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": details, "completion_tokens_details": details}

    async def whole(turn: Turn) -> None:
        await turn.refuse(200, {"choices": [{"message": {"content": "It is noon."}, "finish_reason": "stop"}], "usage": counts})

    upstream.answers(says(TEXT, counts) if stream else whole)
    told = (await events_of(service, asked(stream=True)))[-1]["response"] if stream else await service.post(PATH, asked())
    usage = TheirResponse.model_validate(told, strict=True).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (7, 3, 10)
    assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_signature_of_a_call_comes_to_the_client_and_goes_back(service: Service, upstream: Upstream, stream: bool):
    async def whole(turn: Turn) -> None:
        call = {"id": "a", "type": "function", "function": {"name": "clock", "arguments": "{}"}, "extra_content": {"signature": "c2ln"}}
        await turn.whole(None, "tool_calls", tool_calls=[call])  # type: ignore[arg-type]

    upstream.answers(says(A_SIGNED_CALL) if stream else whole, says(TEXT))
    told = (await events_of(service, asked(stream=True)))[-1]["response"] if stream else await service.post(PATH, asked())
    (call,) = TheirResponse.model_validate(told, strict=True).output
    result = {"type": "function_call_output", "call_id": "a", "output": "noon"}
    items = [{"role": "user", "content": PROMPT}, call.model_dump(exclude_none=True), result]
    await events_of(service, asked(input=items, stream=True))
    (sent,) = [message for message in upstream.turns[-1].body["messages"] if message["role"] == "assistant"]
    assert sent["tool_calls"][0]["extra_content"] == {"signature": "c2ln"}


@pytest.mark.parametrize("stream", [False, True])
async def test_citations_and_the_tier_of_a_server_come_through(service: Service, upstream: Upstream, stream: bool):
    cited = {"start_index": 0, "end_index": 5, "url": "https://time.example", "title": "Time"}
    notes = [{"type": "url_citation", "url_citation": cited}, {"type": "url_citation", "url_citation": {"url": "no title"}}, "?"]

    async def whole(turn: Turn) -> None:
        message = {"content": "It is noon.", "annotations": notes}
        await turn.refuse(200, {"choices": [{"message": message, "finish_reason": "stop"}], "service_tier": "flex"})

    async def streams(turn: Turn) -> None:
        await turn.head()
        await turn.event({"service_tier": "flex", "choices": [{"index": 0, "delta": {"content": "It is noon.", "annotations": notes}}]})
        await turn.finish()

    upstream.answers(streams if stream else whole)
    events = await events_of(service, asked(stream=True)) if stream else []
    told = TheirResponse.model_validate(events[-1]["response"] if stream else await service.post(PATH, asked()), strict=True)
    (message,) = told.output
    (part,) = message.content  # type: ignore[union-attr]
    assert ([note.model_dump() for note in part.annotations], told.service_tier) == ([{"type": "url_citation", **cited}], "flex")  # type: ignore[union-attr]
    added = [event["annotation"] for event in events if event["type"] == "response.output_text.annotation.added"]
    assert added == ([{"type": "url_citation", **cited}] if stream else [])


async def test_a_refusal_that_was_cut_is_one_all_the_same(service: Service, upstream: Upstream):
    async def whole(turn: Turn) -> None:
        await turn.whole(None, refusal="No. " * 100)  # type: ignore[arg-type]

    upstream.answers(whole)
    told = await service.post(PATH, asked(max_output_tokens=1))
    (part,) = told["output"][0]["content"]
    assert (told["status"], part["type"]) == ("incomplete", "refusal")
    assert "No. " * 100 != part["refusal"] != ""


class Noon(BaseModel):
    hour: int


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_no_text_that_a_client_would_parse(service: Service, upstream: Upstream, stream: bool):
    async def whole(turn: Turn) -> None:
        await turn.whole(None, refusal="I will not.")  # type: ignore[arg-type]

    upstream.answers(says(NO) if stream else whole)
    client = AsyncOpenAI(base_url="http://localhost/v1", api_key="k", http_client=service.client, max_retries=0)
    if stream:
        async with client.responses.stream(model="warm", input=PROMPT, text_format=Noon) as streamed:
            told = await streamed.get_final_response()
    else:
        told = await client.responses.parse(model="warm", input=PROMPT, text_format=Noon)
    (message,) = told.output
    (part,) = message.content  # type: ignore[union-attr]
    assert (told.output_parsed, told.output_text, part.type, part.refusal) == (None, "", "refusal", "I will not.")  # type: ignore[union-attr]


async def test_what_was_not_used_and_what_was_refused_have_the_clients_names(service: Service, upstream: Upstream):
    async def refuses(turn: Turn) -> None:
        await turn.refuse(400, {"error": {"message": "no"}})

    more = {"reasoning": {"effort": "low"}, "text": {"format": {"type": "json_object"}, "verbosity": "low"}}
    upstream.answers(refuses)
    told = await service.post(PATH, asked(**more), 400)
    assert told["error"]["code"] == "passed-field-refused"
    assert (
        "names no field; passed on as the caller wrote it: tools, text.format, reasoning.effort, input: HTTP 400"
        in told["error"]["message"]
    )
    upstream.answers(says(TEXT))
    events = await events_of(service, asked(**more, stream=True))
    assert events[-1]["response"]["attune"]["ignored"] == ["text.verbosity"]
    told = await service.post(PATH, asked(model="concise", reasoning={"effort": "low"}))
    assert told["attune"]["ignored"] == ["tools", "reasoning.effort"]


async def test_a_stream_that_fails_is_a_failed_response(service: Service):
    voice = service.members["concise"]
    voice.failure, voice.fails_after = OneMemberFailed("concise", "timeout", "it was silent"), 1
    events = await events_of(service, asked(model="concise", stream=True))
    error = TheirResponse.model_validate(events[-1]["response"], strict=True).error
    assert error is not None
    assert (error.code, error.type, "it was silent" in error.message) == ("server_error", "member-failed", True)


def unserved() -> ResponseAnswer:
    """Returns a response without a server, so that a test says when each piece comes."""
    person = SimpleNamespace(personalization="prior", comparisons=0)
    record = SimpleNamespace(routing=SimpleNamespace(members=("warm",)), bundle="b")
    decision: Any = SimpleNamespace(id=None, record=record, person=person)
    call: Any = SimpleNamespace(request_id="r", runtime=SimpleNamespace(metrics=SimpleNamespace(refused=lambda code: None)))
    return ResponseAnswer(call, decision, lambda members: [], {})


async def test_text_behind_a_call_keeps_its_place():
    answer = unserved()
    called = {"id": "a", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    one = {"id": None, "index": 0, "member": "warm", "score": None, "std": None, "rank": None, "prompt_tokens": 7, "completion_tokens": 3}
    candidate = GeneratedCandidate(**one, text="Wait.", finish_reason="tool_calls", unscored_tokens=0, said=NOTHING_SAID, calls=[called])  # type: ignore[arg-type]

    async def rest() -> AsyncGenerator[Piece | Generated, None]:
        yield Piece(0, "warm", "Wait.")
        yield Generated(answer._decision, (candidate,))

    told = [said async for said in answer.events(Piece(0, "warm", "", calls=({"index": 0, **called},)), rest())]
    events = [json.loads(said.split(b"data: ")[1]) for said in told]
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["function_call", "message"]
    assert [item["id"] for item in events[-1]["response"]["output"]] == added


async def test_a_stream_that_fails_before_its_first_piece_begins_all_the_same():
    async def fails() -> AsyncGenerator[Ping, None]:
        yield Ping()
        raise MembersBusy("all ask for time", 7.0)

    told = [said async for said in unserved().events(Ping(), fails())]
    pings = [said for said in told if said.startswith(b":")]
    events = [json.loads(said.split(b"data: ")[1]) for said in told[len(pings) :]]
    assert (len(pings), [event["type"] for event in events]) == (2, ["response.created", "response.in_progress", "response.failed"])
    assert events[-1]["response"]["error"]["code"] == "rate_limit_exceeded"
