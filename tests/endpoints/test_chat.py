"""`POST /v1/chat/completions` and `GET /v1/models`, as the real `openai` client sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import openai
import pytest

from attune.service.errors import TextTooLong
from attune.service.ids import split_candidate
from attune.service.members.member import OneMemberFailed
from attune.service.settings import Settings
from tests.endpoints.conftest import PROMPT, Service, running
from tests.endpoints.test_streaming import listening
from tests.endpoints.voices import SAYINGS, Voice, voices
from tests.stores import FreshStore
from tests.tiny_bundle import MEMBERS

TURNS: list[Any] = [{"role": "user", "content": PROMPT}]
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def client_of(base_url: Any, key: str = "unused") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key=key, max_retries=0)


@pytest.fixture
async def client(service: Service):
    async with listening(service) as wired, client_of(str(wired.base_url).rstrip("/")) as client:
        yield client


async def test_models_are_auto_and_the_members(client: openai.AsyncOpenAI):
    assert [model.id async for model in client.models.list()] == ["auto", *MEMBERS]


async def test_auto_routes_and_each_choice_can_be_given_to_feedback(service: Service, client: openai.AsyncOpenAI):
    raw = await client.chat.completions.with_raw_response.create(model="auto", messages=TURNS, user="u1", n=2)
    completion = raw.parse()
    first, second = completion.choices
    assert raw.headers["x-attune-member"] == completion.model == first.model_extra["member"]
    assert first.message.content == "".join(SAYINGS[completion.model])
    assert first.finish_reason == "stop"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    chosen, rejected = first.model_extra["candidate_id"], second.model_extra["candidate_id"]
    assert split_candidate(chosen) == (raw.headers["x-decision-id"], 0)
    assert completion.id == f"chatcmpl-{raw.headers['x-decision-id']}"
    told = await service.post("/feedback", {"user": "u1", "chosen": chosen, "rejected": rejected})
    assert told["user"]["comparisons"] == 1


async def test_a_members_name_pins_it(client: openai.AsyncOpenAI):
    completion = await client.chat.completions.create(model="detailed", messages=TURNS, user="u1")
    assert completion.model == "detailed"
    assert completion.choices[0].message.content == "".join(SAYINGS["detailed"])


async def test_a_stream_brings_pieces_ends_and_usage(service: Service, client: openai.AsyncOpenAI):
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="warm", messages=TURNS, user="u1", stream=True, stream_options={"include_usage": True}
        )
    ]
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert tuple(pieces) == SAYINGS["warm"]
    (end,) = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert end.finish_reason == "stop"
    decision, _ = split_candidate(end.model_extra["candidate_id"])
    assert (await service.get(f"/decisions/{decision}"))["candidates"][0]["text"] == "".join(pieces)
    assert chunks[-1].usage.completion_tokens == 11
    assert len({chunk.id for chunk in chunks}) == 1


async def test_without_a_user_the_prior_decides_and_nothing_is_kept(client: openai.AsyncOpenAI):
    raw = await client.chat.completions.with_raw_response.create(model="auto", messages=TURNS)
    assert "x-decision-id" not in raw.headers
    assert raw.parse().choices[0].model_extra["candidate_id"] is None


async def test_parts_of_text_developer_turns_and_unknown_fields_are_understood(service: Service, client: openai.AsyncOpenAI):
    await client.chat.completions.create(
        model="warm",
        messages=[{"role": "developer", "content": "be short"}, {"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
        max_completion_tokens=7,
        stop="egg",
        seed=-1,
        logit_bias={},
        extra_body={"surprise": True},
    )
    (asked,) = service.members["warm"].asked
    assert [(message.role, message.content) for message in asked.messages] == [("system", "be short"), ("user", PROMPT)]
    assert (asked.max_tokens, asked.stop) == (7, ("egg",))
    assert asked.seed is not None


@pytest.mark.parametrize(
    ("given", "error", "param"),
    [
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, openai.BadRequestError, "messages"),
        (
            {"messages": [*TURNS, {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {}}]}]},
            openai.BadRequestError,
            "messages[1].content[1].type",
        ),
        ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, openai.BadRequestError, "messages[0].content"),
        ({"messages": ["hello"]}, openai.BadRequestError, "messages[0]"),
        ({"tools": [TOOL], "tool_choice": "required"}, openai.BadRequestError, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}}, openai.BadRequestError, "tool_choice"),
        ({"functions": [TOOL["function"]], "function_call": {"name": "weather"}}, openai.BadRequestError, "function_call"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
            openai.BadRequestError,
            "response_format",
        ),
        ({"response_format": {"type": []}}, openai.BadRequestError, "response_format"),
        ({"logprobs": True}, openai.BadRequestError, "logprobs"),
        ({"extra_body": {"top_logprobs": 3}}, openai.BadRequestError, "top_logprobs"),
        ({"logit_bias": {"1": -100}}, openai.BadRequestError, "logit_bias"),
        ({"extra_body": {"guided_choice": ["yes", "no"]}}, openai.BadRequestError, "guided_choice"),
        ({"extra_body": {"structured_outputs": {"regex": "a+"}}}, openai.BadRequestError, "structured_outputs"),
        ({"extra_body": {"min_tokens": 5}}, openai.BadRequestError, "min_tokens"),
        ({"extra_body": {"ignore_eos": True}}, openai.BadRequestError, "ignore_eos"),
        ({"extra_body": {"bad_words": ["egg"]}}, openai.BadRequestError, "bad_words"),
        ({"extra_body": {"continue_final_message": True}}, openai.BadRequestError, "continue_final_message"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "wav"}}, openai.BadRequestError, "modalities"),
        ({"n": 99}, openai.BadRequestError, "n"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"stop": ["x" * 65]}, openai.BadRequestError, "stop[0]"),
        ({"stop": ["x", 5]}, openai.BadRequestError, "stop[1]"),
        ({"user": "x" * 257}, openai.BadRequestError, "user"),
        ({"model": "nobody"}, openai.NotFoundError, None),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_bad_requests_are_the_clients_own_errors(
    client: openai.AsyncOpenAI, given: Any, error: type[openai.APIStatusError], param: Any
):
    with pytest.raises(error) as refused:
        await client.chat.completions.create(**({"model": "auto", "messages": TURNS, "user": "u1"} | given))
    body: Any = refused.value.body
    assert body["message"]
    if param:
        assert body["param"] == param


async def test_a_wrong_key_is_the_clients_authentication_error(settings_of: Callable[..., Settings]):
    async with running(settings_of(api_keys="key-of-acme:acme"), FreshStore()) as service, listening(service) as wired:
        async with client_of(str(wired.base_url).rstrip("/"), "another-key") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with client_of(str(wired.base_url).rstrip("/"), "key-of-acme") as client:
            assert [model.id async for model in client.models.list()]


async def test_a_member_that_breaks_off_in_a_stream_is_the_clients_error(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].failure, members["warm"].fails_after = OneMemberFailed("warm", "upstream", "broke off"), 1
    async with (
        running(settings_of(), FreshStore(), members) as service,
        listening(service) as wired,
        client_of(str(wired.base_url).rstrip("/")) as client,
    ):
        stream = await client.chat.completions.create(model="warm", messages=TURNS, stream=True)
        with pytest.raises(openai.APIError, match="broke off"):
            [chunk async for chunk in stream]


async def test_the_history_of_an_agent_is_read(service: Service, client: openai.AsyncOpenAI):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns: list[Any] = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I would rather not."}]},
        {"role": "assistant"},
        {"role": "assistant", "content": None, "refusal": "Nor will I."},
        {"role": "user", "content": "  "},
    ]
    completion = await client.chat.completions.create(model="warm", messages=turns, tools=[TOOL], tool_choice="auto", user="u1")
    (asked,) = service.members["warm"].asked
    assert [(message.role, message.content) for message in asked.messages] == [
        ("user", "Weather?"),
        ("assistant", 'Called weather with {"city": "Oslo"}'),
        ("user", "Result of weather: sunny"),
        ("assistant", "I would rather not."),
        ("assistant", "Nor will I."),
    ]
    assert completion.model_extra["attune"]["ignored"] == ["tools"]


async def test_an_answer_may_be_no_longer_than_the_deployment_allows_and_a_wish_for_more_is_cut(
    service: Service, client: openai.AsyncOpenAI
):
    await client.chat.completions.create(model="warm", messages=TURNS, max_tokens=100_000)
    await client.chat.completions.create(model="warm", messages=TURNS, max_completion_tokens=4096)
    most = service.app.state.live.runtime.limits.max_new_tokens
    assert [asked.max_tokens for asked in service.members["warm"].asked] == [most, most]


async def test_empty_values_stand_for_none(client: openai.AsyncOpenAI):
    nothing = {
        "tools": [],
        "tool_choice": "none",
        "stop": "",
        "user": "",
        "response_format": {"type": "text"},
        "logprobs": False,
        "seed": None,
    }
    raw = await client.chat.completions.with_raw_response.create(model="warm", messages=TURNS, extra_body=nothing)
    assert raw.parse().choices[0].model_extra["candidate_id"] is None


async def test_a_text_without_room_is_what_clients_take_for_a_context_that_is_too_small(service: Service, client: openai.AsyncOpenAI):
    for name, voice in service.members.items():
        voice.failure = TextTooLong(f"member {name!r}: the prompt is longer than it reads")
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "word " * 8000}])
    assert refused.value.code == "context_length_exceeded"
    assert "This model's maximum context length is exceeded: " in str(refused.value)  # LiteLLM goes by the words


async def test_a_body_without_room_is_something_else(service: Service):
    answer = await service.client.post("/v1/chat/completions", content=b" " * 3_000_000, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("name", ["ada", "josé", "佐藤"])
async def test_a_user_is_known_by_user_else_by_safety_identifier_else_by_the_operators_header(
    settings_of: Callable[..., Settings], name: str
):
    async with running(settings_of(user_header="x-chat-user"), FreshStore()) as service:
        named: list[dict[str, Any]] = [
            {"extra": {"user": name, "safety_identifier": "x"}, "headers": {"x-chat-user": "y"}},
            {"extra": {"safety_identifier": name}, "headers": {"x-chat-user": "y"}},
            {"extra": {}, "headers": {b"X-Chat-User": name.encode()}},
        ]
        for one in named:
            body = {"model": "auto", "messages": TURNS, "n": 2, **one["extra"]}
            made = await service.post("/v1/chat/completions", body, headers=one["headers"])
            chosen, rejected = (choice["candidate_id"] for choice in made["choices"])
            await service.post("/feedback", {"user": name, "chosen": chosen, "rejected": rejected})
        assert (await service.get(f"/users/{quote(name)}"))["user"]["comparisons"] == 3
        assert await service.metric("attune_requests_without_user_total") == 0
        nobody = await service.post("/v1/chat/completions", {"model": "auto", "messages": TURNS})
        assert nobody["choices"][0]["candidate_id"] is None
        assert nobody["attune"]["personalization"] == "prior"
        assert await service.metric("attune_requests_without_user_total") == 1
        too_long = await service.post("/v1/chat/completions", {"model": "auto", "messages": TURNS, "user": "x" * 257}, status=400)
        assert too_long["error"]["param"] == "user"


async def test_a_base_url_that_ends_too_early_is_told_where_it_should_end(service: Service):
    async with listening(service) as wired, openai.AsyncOpenAI(base_url=str(wired.base_url), api_key="none", max_retries=0) as early:
        with pytest.raises(openai.NotFoundError, match="let the client's base URL end in /v1"):
            await early.chat.completions.create(model="auto", messages=TURNS)
        with pytest.raises(openai.NotFoundError, match="/models here; OpenAI's paths are below /v1"):
            await early.models.list()


async def test_a_model_can_be_looked_up(client: openai.AsyncOpenAI):
    assert (await client.models.retrieve("auto")).id == "auto"
    assert (await client.models.retrieve("warm")).owned_by == "attune"
    with pytest.raises(openai.NotFoundError, match="nobody"):
        await client.models.retrieve("nobody")


async def test_a_model_whose_name_has_slashes_can_be_looked_up_and_asked(settings_of: Callable[..., Settings]):
    name = "org/model:free"
    members = voices() | {name: Voice(name, ("hello",))}
    async with (
        running(settings_of(), FreshStore(), members) as service,
        listening(service) as wired,
        client_of(str(wired.base_url).rstrip("/")) as client,
    ):
        assert (await client.models.retrieve(name)).id == name
        assert (await service.get(f"/v1/models/{name}"))["id"] == name
        assert (await client.chat.completions.create(model=name, messages=TURNS)).choices[0].message.content == "hello"


async def test_a_stream_names_nobody_but_who_answers(settings_of: Callable[..., Settings]):
    members = voices()
    async with (
        running(settings_of(), FreshStore(), members) as service,
        listening(service) as wired,
        client_of(str(wired.base_url).rstrip("/")) as client,
    ):
        for name in MEMBERS:  # of three, at least two were not drawn
            for member in members.values():
                member.failure = None if member.id == name else OneMemberFailed(member.id, "connect", "away")
            stream = await client.chat.completions.create(model="auto", messages=TURNS, stream=True)
            chunks = [chunk async for chunk in stream]
            assert chunks[0].choices[0].delta.role == "assistant"
            assert {chunk.model for chunk in chunks} == {name}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "x"}]},
        {"messages": 3},
        {"messages": TURNS, "temperature": "hot"},
        {"messages": TURNS, "stop": [1]},
        {"messages": TURNS, "n": 0},
        {"messages": TURNS, "stream_options": {"include_usage": 4}},
        {"messages": TURNS, "attune": {"colour": 1}},
    ],
    ids=str,
)
async def test_no_refusal_speaks_of_the_inside(service: Service, body: dict[str, Any]):
    error = (await service.post("/v1/chat/completions", {"model": "auto"} | body, status=400))["error"]
    assert error["param"].split(".")[0].split("[")[0] in body
    assert not any(
        word in error["message"] + error["param"] for word in ("function-", "pydantic", "list[", "StreamOptions", "Input should")
    )
