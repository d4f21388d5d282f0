"""A member on another server: tried again, given up, left, and never half believed."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing

import httpx
import pytest

from service.errors import DeadlineExceeded, TooLarge
from service.members.member import Defaults, Finish, GenerationRequest, Message, OneMemberFailed, TextPiece, UnusableMember
from service.members.openai import OpenAIMember
from service.members.spec import OpenAISpec
from tests.members.asking import ask, collect, soon

KEY = "sk-very-secret-key-0123456789"


@pytest.fixture
def member_with(upstream, client):
    def make(clock=None, observe_breaker=lambda _state: None, environ=None, **spec):
        return OpenAIMember(
            "gpt",
            OpenAISpec(**({"base_url": upstream.base_url, "model": "m"} | spec)),
            client,
            environ=environ or {"KEY": KEY},
            clock=clock or (lambda: 0.0),
            backoff_s=0.0,
            observe_breaker=observe_breaker,
        )

    return make


async def good(turn):
    await turn.head()
    for text in ("Hello", " there", "!"):
        await turn.text(text)
    await turn.finish()


def refusing(status, body=None, **headers):
    async def script(turn):
        await turn.refuse(status, body if body is not None else {"error": {"message": f"status {status}"}}, **headers)

    return script


async def hang_up(turn):
    turn.hang_up()


async def fails(member, request=None, deadline_s=None) -> OneMemberFailed:
    with pytest.raises(OneMemberFailed) as caught:
        await collect(member, request or ask(), deadline_s)
    return caught.value


async def test_an_answer_comes_with_its_counts_and_the_request_says_everything(upstream, member_with):
    upstream.answers(good)
    member = member_with(api_key_env="KEY", defaults=Defaults(temperature=0.3, top_p=0.8, system="Be brief."))
    request = GenerationRequest((Message("system", "In French."), Message("user", "Hi")), 9, stop=("\n",), seed=4)
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


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 504])
async def test_other_statuses_are_not_tried_again(upstream, member_with, status):
    upstream.answers(refusing(status, {"error": {"message": "because", "type": "kind"}}))
    error = await fails(member_with())
    assert f"HTTP {status}: because (kind)" in str(error)
    assert len(upstream.turns) == 1


async def test_the_second_failure_is_the_answer(upstream, member_with):
    upstream.answers(refusing(503), refusing(502))
    assert "HTTP 502" in str(await fails(member_with()))
    assert len(upstream.turns) == 2


async def test_a_wait_longer_than_the_deadline_is_not_begun(upstream, member_with):
    upstream.answers(refusing(429, retry_after="3600"))
    error = await fails(member_with())
    assert error.reason == "overloaded"
    assert len(upstream.turns) == 1


async def test_nobody_there_is_a_failed_connection(member_with):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = await fails(member_with(base_url=f"http://127.0.0.1:{port}/v1"))
    assert error.reason == "connect"
    assert "ConnectError" in str(error)


@pytest.mark.parametrize("body", [{"error": {"message": f"Incorrect API key provided: {KEY}"}}, f"key {KEY} is wrong"])
async def test_a_key_is_never_repeated(upstream, member_with, body):
    upstream.answers(refusing(401, body))
    error = await fails(member_with(api_key_env="KEY"))
    assert KEY not in str(error)
    assert "[redacted]" in str(error)


async def test_a_prompt_that_the_upstream_finds_too_long_is_too_large(upstream, member_with):
    upstream.answers(refusing(400, {"error": {"message": "maximum context length is 10 tokens", "code": "context_length_exceeded"}}))
    with pytest.raises(TooLarge, match="maximum context length is 10 tokens"):
        await collect(member_with(), ask())


async def test_an_error_in_the_middle_ends_the_answer_after_what_came(upstream, member_with):
    async def script(turn):
        await turn.head()
        await turn.text("Hel")
        await turn.event({"error": {"message": "out of memory"}})
        await turn.end()

    upstream.answers(script)
    async with aclosing(member_with().stream(ask(), soon())) as events:
        assert await anext(events) == TextPiece("Hel")
        with pytest.raises(OneMemberFailed, match="out of memory") as caught:
            await anext(events)
    assert caught.value.reason == "upstream"


async def cut_off(turn):
    await turn.head()
    await turn.text("Hel")
    turn.hang_up()


async def ends_early(turn):
    await turn.head()
    await turn.text("Hel")
    await turn.end()


async def says_more_after_the_end(turn):
    await turn.head()
    await turn.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    await turn.text("more")
    await turn.end()


async def sends_a_page(turn):
    await turn.head(200, "text/html")
    await turn.send(b"<html>")
    await turn.end()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (cut_off, "the connection broke"),
        (ends_early, "ended after 1 pieces without a finish_reason"),
        (says_more_after_the_end, "more text came after finish_reason"),
        (sends_a_page, "the body is 'text/html', not text/event-stream"),
    ],
)
async def test_an_answer_that_breaks_the_format_fails_and_is_not_tried_again(upstream, member_with, script, said):
    upstream.answers(script)
    error = await fails(member_with())
    assert said in str(error)
    assert error.reason == "protocol"
    assert len(upstream.turns) == 1


async def test_a_field_that_is_left_out_is_logged_once(upstream, member_with, caplog):
    async def script(turn):
        await turn.head()
        for _ in range(3):
            await turn.event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})
        await turn.text("a")
        await turn.finish()

    upstream.answers(script)
    member = member_with()
    assert (await collect(member, ask()))[0] == "a"
    await collect(member, ask())
    assert [record.getMessage() for record in caplog.records if "not supported" in record.getMessage()] == [
        "member gpt: the upstream sends delta.reasoning_content, which is not supported and left out"
    ]


async def never_answers(turn):
    await turn.client_left()


async def comments_only(turn):
    await turn.head()
    await turn.send(b": still there\n\n")
    await turn.client_left()


async def stalls(turn):
    await turn.head()
    await turn.text("Hel")
    await turn.client_left()


@pytest.mark.parametrize(
    ("script", "spec", "said"),
    [
        (never_answers, {"first_token_s": 0.05}, "no answer began within its limit"),
        (comments_only, {"first_token_s": 0.05}, "no first token came within its limit"),
        (stalls, {"between_tokens_s": 0.05}, "no next token came within its limit"),
    ],
)
async def test_an_upstream_that_is_too_slow_is_left(upstream, member_with, script, spec, said):
    upstream.answers(script)
    error = await fails(member_with(**spec))
    assert error.reason == "timeout"
    assert said in str(error)
    await upstream.turns[0].left.wait()


@pytest.mark.parametrize("script", [never_answers, comments_only, stalls])
async def test_the_deadline_ends_any_wait_and_closes_the_upstream(upstream, member_with, script):
    upstream.answers(script)
    with pytest.raises(DeadlineExceeded, match="'gpt'"):
        await collect(member_with(), ask(), soon(0.05))
    await upstream.turns[0].left.wait()


@pytest.mark.parametrize("script", [never_answers, comments_only, stalls])
async def test_a_caller_who_is_cancelled_at_any_wait_closes_the_upstream(upstream, member_with, script):
    asked = asyncio.Event()

    async def announced(turn):
        asked.set()
        await script(turn)

    upstream.answers(announced)
    caller = asyncio.create_task(collect(member_with(), ask()))
    await asked.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await upstream.turns[0].left.wait()


async def test_a_caller_who_stops_reading_closes_the_upstream(upstream, member_with):
    upstream.answers(stalls)
    async with aclosing(member_with().stream(ask(), soon())) as events:
        assert await anext(events) == TextPiece("Hel")
    await upstream.turns[0].left.wait()


async def test_a_caller_who_is_cancelled_while_waiting_to_try_again_asks_no_more(upstream, client):
    asked = asyncio.Event()

    async def script(turn):
        await turn.refuse(503, {})
        asked.set()

    upstream.answers(script)
    member = OpenAIMember("gpt", OpenAISpec(upstream.base_url, "m"), client, backoff_s=25.0)
    caller = asyncio.create_task(collect(member, ask()))
    await asked.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert len(upstream.turns) == 1


async def test_a_full_pool_is_overloaded(upstream):
    upstream.answers(stalls)
    async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=1)) as client:
        member = OpenAIMember("gpt", OpenAISpec(upstream.base_url, "m", connect_s=0.05), client)
        async with aclosing(member.stream(ask(), soon())) as events:
            await anext(events)
            error = await fails(member)
    assert error.reason == "overloaded"
    assert "no connection of the pool was free for 0.05 s" in str(error)


async def test_the_breaker_opens_keeps_callers_away_and_lets_one_trial_through(upstream, member_with):
    now, states = [0.0], []
    member = member_with(clock=lambda: now[0], observe_breaker=states.append, failures_to_open=2, open_s=10.0)
    upstream.answers(refusing(500))
    await fails(member)
    await fails(member)
    now[0] = 4.0
    error = await fails(member)
    assert (error.reason, len(upstream.turns)) == ("breaker-open", 2)
    assert "not tried for another 6.0 s after 2 failures in a row" in str(error)
    with pytest.raises(OneMemberFailed, match="failed too often"):
        await member.check()
    now[0] = 10.0
    upstream.answers(good)
    await collect(member, ask())
    assert states == ["open", "half-open", "closed"]
    assert member.breaker == "closed"


@pytest.mark.parametrize("script", [refusing(400), refusing(429, retry_after="3600")], ids=["400", "429"])
async def test_refusals_do_not_open_the_breaker(upstream, member_with, script):
    member = member_with(failures_to_open=1)
    upstream.answers(script)
    await fails(member)
    assert member.breaker == "closed"


async def test_an_upstream_that_hangs_past_every_deadline_opens_the_breaker(upstream, member_with):
    member = member_with(failures_to_open=1)
    upstream.answers(never_answers)
    with pytest.raises(DeadlineExceeded):
        await collect(member, ask(), soon(0.05))
    assert member.breaker == "open"


async def test_a_caller_who_leaves_a_trial_gives_it_to_the_next(upstream, member_with):
    now = [0.0]
    member = member_with(clock=lambda: now[0], failures_to_open=1, open_s=1.0)
    upstream.answers(refusing(500))
    await fails(member)
    now[0] = 1.0
    asked = asyncio.Event()

    async def announced(turn):
        asked.set()
        await never_answers(turn)

    upstream.answers(announced)
    caller = asyncio.create_task(collect(member, ask()))
    await asked.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    upstream.answers(good)
    assert await collect(member, ask())


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_a_server_that_answers_anything_of_its_own_is_there(upstream, member_with, status):
    upstream.answers(refusing(status))
    await member_with().check()
    assert upstream.turns[0].path == "/v1/models"


@pytest.mark.parametrize("script", [refusing(401), refusing(503), hang_up], ids=["401", "503", "hang-up"])
async def test_a_server_that_is_away_or_refuses_the_key_cannot_serve(upstream, member_with, script):
    upstream.answers(script)
    with pytest.raises(OneMemberFailed):
        await member_with().check()


@pytest.mark.parametrize("environ", [{"OTHER": "x"}, {"KEY": ""}, {"KEY": "two\nlines"}, {"KEY": " padded "}])
def test_a_key_that_is_missing_or_cannot_be_sent_is_named_by_its_variable(environ):
    with pytest.raises(UnusableMember, match="KEY") as caught:
        OpenAIMember("gpt", OpenAISpec("http://127.0.0.1/v1", "m", api_key_env="KEY"), httpx.AsyncClient(), environ=environ)
    assert "lines" not in str(caught.value)
