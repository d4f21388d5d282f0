"""What a chat asks beyond text goes to members whose roster passes it, as it came, and comes back as their server answered."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from openai import AsyncOpenAI

from attune.service.api.promises import PromisingRequest
from attune.service.members.openai import OpenAIMember
from attune.service.members.passing import PASSES
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.settings import Settings
from loadtest.upstream import Turn, Upstream, running_upstream
from tests.endpoints.conftest import PROMPT, running
from tests.endpoints.voices import voices
from tests.stores import FreshStore

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "clock", "description": "the time", "parameters": {"type": "object"}}}]
CALL = {"id": "call_7", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
ASKED = {"role": "user", "content": PROMPT}
HISTORY = [
    ASKED,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_7", "content": "noon"},
]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "auto", "user": "u1", "messages": [ASKED], **more}


def sent_to(upstream: Upstream) -> list[dict[str, Any]]:
    """Returns the bodies of the chats that the server was asked for; it is also asked for its models."""
    return [turn.body for turn in upstream.turns if turn.method == "POST"]


async def calls(turn: Turn) -> None:
    if not turn.body.get("stream"):
        await turn.whole("", "tool_calls", tool_calls=[CALL], content=None)
        return
    await turn.head()
    await turn.delta(role="assistant", tool_calls=[{"index": 0, "id": "call_7", "type": "function", "function": {"name": "clock"}}])
    for piece in ('{"zone": ', '"UTC"}'):
        await turn.delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}])
    await turn.finish("tool_calls")


async def says(turn: Turn) -> None:
    await turn.whole('{"a": 1}')


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as upstream:
        yield upstream


@pytest.fixture
async def serve(settings_of: Callable[..., Settings], upstream: Upstream) -> AsyncIterator[Callable[..., Any]]:
    """Yields a context: `warm` is a server that passes what is given, `concise` one that passes nothing, and `detailed` no server."""
    async with UpstreamPool(environ={}) as pool:

        def make(passes: Sequence[str], **settings: Any) -> Any:
            members: dict[str, Any] = dict(voices())
            for name, passed in (("warm", passes), ("concise", ())):
                spec = OpenAISpec(base_url=upstream.base_url, model=name, passes=list(passed), system="Be kind.")
                members[name] = OpenAIMember(name, spec, pool, environ={})
            return running(settings_of(**settings), FreshStore(), members)

        yield make


async def test_tools_go_to_a_member_that_passes_them_and_its_calls_come_back(serve, upstream: Upstream):
    upstream.answers(calls)
    asked = chat(tools=TOOLS, tool_choice="auto", parallel_tool_calls=False)
    async with serve(["tools"]) as service:
        for _ in range(4):  # three members could be drawn
            told = await service.post(CHAT, asked)
            (choice,) = told["choices"]
            assert choice["message"] == {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]}
            assert (choice["finish_reason"], choice["member"]) == ("tool_calls", "warm")
            assert told["attune"]["ignored"] == []
        decision = await service.get(f"/decisions/{told['attune']['decision_id']}")
    assert decision["routing"]["propensities"] == {"warm": 1.0}
    assert decision["candidates"][0]["finish_reason"] == "tool_calls"
    sent = sent_to(upstream)[-1]
    assert {name: sent[name] for name in ("tools", "tool_choice", "parallel_tool_calls")} == {
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
    }
    assert sent["messages"] == [{"role": "system", "content": "Be kind."}, ASKED]


async def test_calls_are_streamed_as_openai_streams_them(serve, upstream: Upstream):
    upstream.answers(calls)
    async with serve(["tools"]) as service:
        client = AsyncOpenAI(base_url="http://localhost/v1", api_key="k", http_client=service.client, max_retries=0)
        stream = await client.chat.completions.create(model="auto", messages=HISTORY[:1], tools=TOOLS, user="u1", stream=True)  # type: ignore[call-overload]
        deltas = [chunk.choices[0] async for chunk in stream]
    told = [call for one in deltas for call in one.delta.tool_calls or []]
    assert (told[0].id, told[0].function.name, {call.index for call in told}) == ("call_7", "clock", {0})
    assert "".join(call.function.arguments or "" for call in told) == CALL["function"]["arguments"]
    assert deltas[-1].finish_reason == "tool_calls"


async def test_a_conversation_with_calls_goes_on_as_it_came(serve, upstream: Upstream):
    upstream.answers(says)
    async with serve(["tools"]) as service:
        told = await service.post(CHAT, chat(messages=HISTORY, tools=TOOLS))
        assert told["choices"][0]["message"] == {"role": "assistant", "content": '{"a": 1}', "refusal": None}
        await service.post(CHAT, chat(messages=HISTORY))  # and where none is offered any more
        record = await service.get(f"/decisions/{told['attune']['decision_id']}")
    assert [body["messages"][1:] for body in sent_to(upstream)] == [HISTORY, HISTORY]
    assert ["tools" in body for body in sent_to(upstream)] == [True, False]
    assert "Called clock with" in record["prompt"]
    assert "noon" in record["prompt"]


async def test_fields_that_are_null_are_not_passed_on(serve, upstream: Upstream):
    upstream.answers(calls)
    async with serve(["tools"]) as service:
        answered = (await service.post(CHAT, chat(tools=TOOLS)))["choices"][0]["message"]
        assert answered["refusal"] is None
        turns = [ASKED | {"name": None}, answered, HISTORY[2]]
        await service.post(CHAT, chat(messages=turns, tools=TOOLS))
        told = await service.post(CHAT, chat(messages=[*turns, None], tools=TOOLS), 400)
    assert sent_to(upstream)[-1]["messages"][1:] == HISTORY  # some servers refuse a field that they do not know, whatever it holds
    assert told["error"]["param"] == "messages[3]"


async def test_a_server_that_takes_pictures_and_no_tools_has_turns_of_tools_as_text(serve, upstream: Upstream):
    upstream.answers(says)
    shown = {"role": "user", "content": [{"type": "text", "text": "and here ?"}, PICTURE]}
    async with serve(["images"]) as service:
        await service.post(CHAT, chat(messages=[*HISTORY, shown], tools=TOOLS))
    sent = sent_to(upstream)[-1]
    assert "tools" not in sent
    assert sent["messages"][1:] == [
        ASKED,
        {"role": "assistant", "content": 'Called clock with {"zone": "UTC"}'},
        {"role": "user", "content": "Result of clock: noon"},
        shown,
    ]


@pytest.mark.parametrize("keep_text", [True, False])
async def test_a_call_can_be_told_of_by_its_id_and_says_nothing_of_the_member(serve, upstream: Upstream, keep_text: bool):
    async with serve(["tools"], keep_text=keep_text) as service:
        upstream.answers(calls)
        first = (await service.post(CHAT, chat(tools=TOOLS)))["choices"][0]
        upstream.answers(says)
        second = (await service.post(CHAT, chat(tools=TOOLS)))["choices"][0]
        told = {"user": "u1", "event_id": "e", "chosen": second["candidate_id"], "rejected": first["candidate_id"]}
        learned = await service.post("/feedback", told)
        assert learned["result"] == "applied"
        await service.settle()
        members = (await service.get("/portfolio"))["members"]
    assert [one["evidence"]["answers"] for one in members if one["name"] == "warm"] == [1.0]


async def test_a_picture_and_a_format_are_passed_where_somebody_passes_both(serve, upstream: Upstream):
    upstream.answers(says)
    messages = [{"role": "user", "content": [{"type": "text", "text": PROMPT}, PICTURE]}]
    asked = chat(messages=messages, response_format=FORMAT, frequency_penalty=0.5, top_k=3)
    async with serve(["images", "response_format", "frequency_penalty"]) as service:
        told = await service.post(CHAT, asked)
    assert (told["choices"][0]["member"], told["choices"][0]["message"]["content"]) == ("warm", '{"a": 1}')
    assert told["attune"]["ignored"] == ["top_k"]
    sent = sent_to(upstream)[-1]
    assert (sent["messages"][1:], sent["response_format"], sent["frequency_penalty"]) == (messages, FORMAT, 0.5)
    assert "top_k" not in sent


@pytest.mark.parametrize(
    ("passes", "more", "field", "why"),
    [
        ([], {"tools": TOOLS, "tool_choice": "required"}, "tool_choice", "no member passes `tools` to its server"),
        (["tools"], {"response_format": FORMAT}, "response_format", "no member passes `response_format` to its server"),
        (["tools"], {"messages": [{"role": "user", "content": ["What is it?", PICTURE]}]}, "messages[0].content[1].type", "image_url"),
        ([], {"messages": [{"role": "user", "content": [PICTURE]}]}, "messages[0].content[0].type", "no member passes `images`"),
        (["images"], {"logprobs": True}, "logprobs", "probabilities"),
        (["audio"], {"audio": {"voice": "a", "format": "wav"}}, "audio", "asks for sound"),
        (
            ["images"],
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, ASKED]},
            "messages[0].content[0].type",
            "input_audio",
        ),
        (["tools"], {"tools": TOOLS, "model": "concise", "tool_choice": "required"}, "tool_choice", "no member passes `tools`"),
        (["tools"], {"tools": [{"name": "\ud800"}]}, "tools", "no sound Unicode"),
        (["tools"], {"tools": [{"maximum": float("inf")}]}, "tools", "a number that is not finite or has more than 64 bits"),
        (["tools"], {"tools": [{"maximum": 2**64}]}, "tools", "has more than 64 bits"),
        (["tools"], {"tools": [{"minimum": -(2**63) - 1}]}, "tools", "has more than 64 bits"),
        (["top_k"], {"top_k": float("nan"), "model": "warm"}, "top_k", "a number that is not finite or has more than 64 bits"),
        (["tools"], {"tools": TOOLS, "n": 2}, "n", "is 2, and of warm, who can keep what is asked, each answers once"),
        (["images"], {"messages": [{"role": "system", "content": [PICTURE]}]}, "messages", "no user's or tool's text in 1 turn"),
        (["tools"], {"model": "warm", "attune": {"among": ["warm"]}}, "attune.among", "has no place beside the `model` 'warm'"),
        (["tools"], {"attune": {"family": "x"}}, "attune.family", "attune.family: is none of the families"),
    ],
)
async def test_what_nobody_passes_is_refused_by_its_name(serve, upstream: Upstream, passes, more, field, why):
    upstream.answers(says)
    async with serve(passes) as service:
        answer = await service.client.post(CHAT, content=json.dumps(chat(**more)), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    told = answer.json()["error"]
    assert told["param"] == field
    assert why in told["message"]
    assert not sent_to(upstream)


async def test_what_some_pass_and_nobody_all_of_is_told_as_that(settings_of, upstream: Upstream):
    async with UpstreamPool(environ={}) as pool:
        members: dict[str, Any] = dict(voices())
        for name, passes in (("warm", ["tools"]), ("concise", ["response_format"])):
            members[name] = OpenAIMember(name, OpenAISpec(base_url=upstream.base_url, model=name, passes=passes), pool, environ={})
        async with running(settings_of(), FreshStore(), members) as service:
            told = await service.post(CHAT, chat(tools=TOOLS, tool_choice="required", response_format=FORMAT), 400)
    assert told["error"]["message"].count("(no member passes all of `tools`, `response_format` to its server)") == 2
    assert not sent_to(upstream)


async def test_whole_numbers_of_64_bits_reach_the_server_as_they_are(serve, upstream: Upstream):
    upstream.answers(says)
    tools = [{**TOOLS[0], "limits": [2**64 - 1, -(2**63), 10**18]}]
    async with serve(["tools"]) as service:
        await service.post(CHAT, chat(model="warm", tools=tools))
    assert sent_to(upstream)[-1]["tools"] == tools


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS}, {"response_format": FORMAT}])
@pytest.mark.parametrize("named", [{"model": "nobody"}, {"attune": {"among": ["warm", "nobody"]}}, {"attune": {"among": ["nobody"]}}])
async def test_who_is_not_there_is_not_found_whatever_is_asked(serve, upstream: Upstream, named, more):
    upstream.answers(says)
    async with serve(["tools", "response_format"]) as service:
        told = await service.post(CHAT, chat(**named, **more), 404)
    assert told["error"]["code"] == "model_not_found"
    assert not sent_to(upstream)


@pytest.mark.parametrize("before", [[], [ASKED, {"role": "assistant", "content": "an egg ."}]])
async def test_a_picture_without_a_word_is_a_turn(serve, upstream: Upstream, before: list[Any]):
    upstream.answers(says)
    messages = [*before, {"role": "user", "content": [PICTURE]}]
    async with serve(["images"]) as service:
        told = await service.post(CHAT, chat(messages=messages))
        record = await service.get(f"/decisions/{told['attune']['decision_id']}")
        refused = await service.post(CHAT, chat(messages=messages, model="concise"), 400)
    assert sent_to(upstream)[-1]["messages"][1:] == messages
    assert record["prompt"].strip().endswith("(image)")
    assert refused["error"]["param"] == f"messages[{len(before)}].content[0].type"


async def test_a_wish_of_zero_reaches_whoever_passes_it(serve, upstream: Upstream):
    upstream.answers(says)
    async with serve(["top_k", "presence_penalty", "repetition_penalty", "verbosity"]) as service:
        asked = chat(top_k=0, presence_penalty=0.0, repetition_penalty=1, min_p=0, verbosity="", model="warm")
        told = await service.post(CHAT, asked)
        await service.post(CHAT, asked | {"model": "concise"})
    sent, plain = sent_to(upstream)
    assert [sent[name] for name in ("top_k", "presence_penalty", "repetition_penalty")] == [0, 0.0, 1]
    assert not {"min_p", "verbosity"} & sent.keys()
    assert not {"top_k", "presence_penalty"} & plain.keys()
    assert told["attune"]["ignored"] == []


async def test_tools_that_nobody_passes_are_left_aside_as_ever(serve):
    async with serve([]) as service:
        told = await service.post(CHAT, chat(tools=TOOLS, model="detailed"))
        assert told["attune"]["ignored"] == ["tools"]
        assert "tool_calls" not in told["choices"][0]["message"]


async def test_a_wish_that_may_be_left_aside_does_not_narrow_the_choice(serve, upstream: Upstream):
    upstream.answers(says)
    async with serve(["top_k"]) as service:
        told = [(await service.post(CHAT, chat(top_k=3, user=f"u{n}")), n) for n in range(24)]
        ignored = {(one["choices"][0]["member"], *one["attune"]["ignored"]) for one, _ in told}
    assert ignored == {("warm",), ("concise", "top_k"), ("detailed", "top_k")}
    assert {body["model"]: body.get("top_k") for body in sent_to(upstream)} == {"warm": 3, "concise": None}


async def test_a_server_that_refuses_what_was_passed_is_the_callers_mistake(serve, upstream: Upstream):
    async def refuses(turn: Turn) -> None:
        await turn.refuse(400, {"error": {"message": "no such type", "type": "invalid_request_error", "param": "tools[0]"}})

    upstream.answers(refuses)
    async with serve(["tools"]) as service:
        told = await service.post(CHAT, chat(tools=TOOLS), 400)
        assert "member 'warm': its server refuses the field tools of this request: HTTP 400" in told["error"]["message"]
        again = await service.post(CHAT, chat(model="warm"), 502)  # without tools it is no mistake of the caller's
        assert again["error"]["code"] != told["error"]["code"]


async def test_a_chat_without_a_limit_may_be_as_long_as_the_deployment_allows(serve, upstream: Upstream):
    upstream.answers(says)
    async with serve(["response_format"], max_new_tokens=300) as service:
        await service.post(CHAT, chat(response_format=FORMAT, model="warm"))
        await service.post(CHAT, chat(response_format=FORMAT, model="warm", max_tokens=9))
        await service.post(CHAT, chat(model="warm"))
        await service.post(CHAT, chat(model="warm", max_completion_tokens=4096))
    assert [body["max_tokens"] for body in sent_to(upstream)] == [300, 9, 300, 300]


async def test_a_server_that_refuses_messages_as_they_came_is_asked_again(serve, upstream: Upstream):
    async def refuses(turn: Turn) -> None:  # as Mistral's does
        wrong = {"type": "extra_forbidden", "loc": ["body", "messages", 1, "refusal"], "msg": "Extra inputs are not permitted"}
        await turn.refuse(422, {"object": "error", "message": {"detail": [wrong]}, "type": "invalid_request_error"})

    upstream.answers(refuses)
    async with serve(["tools"]) as service:
        for _ in range(7):  # more than make a breaker open
            told = await service.post(CHAT, chat(messages=HISTORY, tools=TOOLS), 400)
            assert told["error"]["code"] == "passed-field-refused"
        assert len(sent_to(upstream)) == 7


def test_what_a_field_says_of_being_passed_is_so():
    told = {name: field.description or "" for name, field in PromisingRequest.model_fields.items()}
    can = {field for fields in PASSES.values() for field in fields}
    assert {name for name, words in told.items() if re.search("pass(ed)? (it|tools|on with)", words)} == can


async def test_everything_can_be_passed_by_one_word():
    assert OpenAISpec(base_url="http://a/v1", model="m", passes="all").passes == set(PASSES)
    with pytest.raises(ValueError, match="holds 'logprobs', which is not passed on; there are tools, images"):
        OpenAISpec(base_url="http://a/v1", model="m", passes=["logprobs"])
