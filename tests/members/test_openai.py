"""The server member: answers, counts, retries, errors and broken formats."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import aclosing
from dataclasses import replace

import pytest

from attune.service.errors import TextTooLong
from attune.service.members.member import ChatTurn, Finish, GenerationRequest, OneMemberFailed, TextPiece
from loadtest.upstream import Turn
from loadtest.upstream_modes import cut_off, says, sends, sends_a_page, stream_of
from tests.members.asking import ask, collect, soon
from tests.members.upstream_scripts import KEY, fails, good, hang_up, refusing


async def test_an_answer_comes_with_its_counts_and_the_request_says_everything(upstream, member_with):
    upstream.answers(good)
    member = member_with(api_key_env="KEY", temperature=0.3, top_p=0.8, system="Be brief.")
    request = GenerationRequest((ChatTurn("system", "In French."), ChatTurn("user", "Hi")), 9, stop=("\n",), seed=4)
    assert await collect(member, request) == ("Hello there!", Finish("stop", 7, 3))
    (turn,) = upstream.turns
    assert (turn.method, turn.path, turn.headers["authorization"]) == ("POST", "/v1/chat/completions", f"Bearer {KEY}")
    assert turn.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief.\n\nIn French."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "temperature": 0.3,
        "top_p": 0.8,
        "stop": ["\n"],
        "seed": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_complete_answer_leaves_its_connection_for_the_next(upstream, member_with):
    upstream.answers(good)
    member = member_with()
    for _ in range(3):
        await collect(member, ask())
    assert upstream.connections == 1


async def test_counts_that_nobody_sent_are_estimated_and_called_so(upstream, member_with):
    async def script(turn):
        await turn.head()
        await turn.text("a")
        await turn.text("b")
        await turn.finish("length", usage=None)

    upstream.answers(script)
    assert await collect(member_with(), ask("x" * 40)) == ("ab", Finish("length", 10, 2, "estimated"))


async def test_a_stream_that_ends_without_done_is_complete_if_it_said_why(upstream, member_with):
    async def script(turn):
        await turn.head()
        await turn.event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]})
        await turn.end()

    upstream.answers(script)
    assert (await collect(member_with(), ask()))[0] == "a"


async def test_an_upstream_that_writes_past_a_stop_string_is_cut_and_left(upstream, member_with):
    async def script(turn):
        await turn.head()
        for text in ("one ", "EN", "D two"):
            await turn.text(text)
        await turn.client_left()

    upstream.answers(script)
    text, finish = await collect(member_with(), ask(stop=("END",)))
    assert (text, finish.reason, finish.usage) == ("one ", "stop", "estimated")
    await upstream.turns[0].left.wait()


@pytest.mark.parametrize(
    "first", [refusing(502), refusing(503), refusing(429, retry_after="0"), hang_up], ids=["502", "503", "429", "hang-up"]
)
async def test_one_more_try_if_nothing_was_received(upstream, member_with, first):
    upstream.answers(first, good)
    assert (await collect(member_with(), ask()))[0] == "Hello there!"
    assert len(upstream.turns) == 2


async def reset(turn: Turn) -> None:
    turn.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    turn.hang_up()


@pytest.mark.parametrize("ends", [hang_up, reset])
async def test_a_kept_connection_that_has_ended_is_no_failure_though_others_could_stand_in(upstream, member_with, ends):
    upstream.answers(good, ends, good)
    member = member_with(failures_to_open=1)
    for _ in range(2):
        assert (await collect(member, ask(stand_ins=1)))[0] == "Hello there!"
    assert len(upstream.turns) == 3


async def test_where_one_kept_connection_has_ended_no_other_one_is_tried(upstream, member_with):
    upstream.answers(good, good, hang_up, good)
    member = member_with()
    await asyncio.gather(*(collect(member, ask()) for _ in range(2)))
    assert (await collect(member, ask(stand_ins=1)))[0] == "Hello there!"
    assert (len(upstream.turns), upstream.connections) == (4, 3)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 504])
async def test_other_statuses_are_not_tried_again(upstream, member_with, status):
    upstream.answers(refusing(status, {"error": {"message": "because", "type": "kind"}}))
    error = await fails(member_with())
    assert str(error) == f"member 'gpt': HTTP {status} (kind)"
    assert len(upstream.turns) == 1


async def test_the_second_failure_is_the_answer(upstream, member_with):
    upstream.answers(refusing(503), refusing(502))
    assert "HTTP 502" in str(await fails(member_with()))
    assert len(upstream.turns) == 2


async def test_a_wait_longer_than_the_deadline_is_not_begun(upstream, member_with):
    upstream.answers(refusing(429, retry_after="3600"))
    error = await fails(member_with())
    assert (error.reason, error.retry_after_s) == ("overloaded", 3600.0)
    assert len(upstream.turns) == 1


async def test_nobody_there_is_a_failed_connection(member_with):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = await fails(member_with(base_url=f"http://127.0.0.1:{port}/v1"))
    assert error.reason == "connect"
    assert f"cannot connect to 127.0.0.1:{port}" in str(error)


BODIES = [{"error": {"message": "Incorrect API key provided: KEY", "code": "KEY"}}, "key KEY is wrong", {"error": "KEY", "type": "x_KEY"}]


@pytest.mark.parametrize("body", BODIES, ids=["object", "text", "type"])
@pytest.mark.parametrize("key", [KEY, "f00dfeedf00dfeedf00dfeedf00dfeed"])
async def test_a_key_is_never_repeated_nor_logged(upstream, member_with, caplog, body, key):
    caplog.set_level("DEBUG", "attune")
    upstream.answers(refusing(401, json.loads(json.dumps(body).replace("KEY", key))))
    variables = {"api_key_env": "KEY", "headers": {"x-key": {"env": "KEY"}}, "query": {"key": {"env": "KEY"}}}
    member = member_with(environ={"KEY": key}, **variables)
    assert str(await fails(member)) == "member 'gpt': HTTP 401"
    assert "[redacted]" in caplog.text
    upstream.answers(stream_of(says("Hello"), sends({"choices": [{"delta": {key: 1}, "finish_reason": key}]})))
    await collect(member, ask())
    assert "a name that is not shown" in caplog.text
    assert key not in caplog.text


async def test_a_prompt_that_the_upstream_finds_too_long_is_too_large(upstream, member_with):
    upstream.answers(refusing(400, {"error": {"message": "maximum context length is 10 tokens", "code": "context_length_exceeded"}}))
    with pytest.raises(TextTooLong, match=r"'gpt': the prompt is longer than it reads: HTTP 400 \(context_length_exceeded\)"):
        await collect(member_with(), ask())


async def test_an_error_in_the_middle_ends_the_answer_after_what_came(upstream, member_with):
    async def script(turn):
        await turn.head()
        await turn.text("Hel")
        await turn.event({"error": {"message": "out of memory", "code": "oom"}})
        await turn.end()

    upstream.answers(script)
    async with aclosing(member_with().stream(ask(), soon())) as events:
        assert await anext(events) == TextPiece("Hel")
        with pytest.raises(OneMemberFailed, match=r"'gpt': HTTP 200 \(oom\)") as caught:
            await anext(events)
    assert caught.value.reason == "upstream"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (cut_off, "the connection broke in the answer's body"),
        (sends_a_page, "the body is a page"),
    ],
)
async def test_an_answer_that_breaks_the_format_fails_and_is_not_tried_again(upstream, member_with, script, said):
    upstream.answers(script)
    error = await fails(member_with())
    assert said in str(error)
    assert error.reason == "protocol"
    assert len(upstream.turns) == 1


async def test_a_server_that_thinks_aloud_and_never_answers_has_failed(upstream, member_with):
    async def script(turn):
        await turn.head()
        await turn.delta(reasoning_content="Hm")
        turn.hang_up()

    upstream.answers(script)
    member = member_with(passes=["reasoning"], failures_to_open=2)
    request = replace(ask(), thinks_aloud=True)
    for reason in ("protocol", "protocol", "breaker-open"):
        with pytest.raises(OneMemberFailed) as caught:
            await collect(member, request)
        assert caught.value.reason == reason
