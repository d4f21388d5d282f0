"""The server member: slow upstreams, callers who leave, the breaker and checks."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from attune.service.errors import DeadlineExceeded
from attune.service.members.member import OneMemberFailed, TextPiece, UnusableMember
from attune.service.members.openai import OpenAIMember
from attune.service.members.patience import Patience
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from loadtest.upstream_modes import comments_only, never_answers, stalls
from tests.members.asking import ask, collect, soon
from tests.members.upstream_scripts import fails, good, hang_up, refusing

LONGER = (1, 10, 100)
"""Limits are tried as they are and then longer: on a busy machine one can pass before the upstream was reached at all."""


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
    assert [record.getMessage() for record in caplog.records if "left out" in record.getMessage()] == [
        "member gpt: the upstream sends the field reasoning_content, which is left out"
    ]


@pytest.mark.parametrize(
    ("script", "spec", "said"),
    [
        (never_answers, {"first_event_s": 0.05}, "no first event came within {:g} s"),
        (comments_only, {"first_event_s": 0.05}, "no first event came within {:g} s"),
        (stalls, {"between_events_s": 0.05}, "no next event came within {:g} s (between_events_s)"),
    ],
)
async def test_an_upstream_that_is_too_slow_is_left(upstream, member_with, script, spec, said):
    upstream.answers(script)
    [(limit, limit_s)] = spec.items()
    for times in LONGER:
        error = await fails(member_with(**{limit: times * limit_s}))
        assert error.reason == "timeout"
        assert said.format(times * limit_s) in str(error)
        if upstream.turns:
            break
    await upstream.turns[0].left.wait()


@pytest.mark.parametrize("finishing", [False, True])
async def test_after_a_first_event_a_shorter_limit_holds_at_once(finishing):
    rang, spec = asyncio.Event(), OpenAISpec(base_url="http://127.0.0.1:9/v1", model="m", first_event_s=600.0, between_events_s=0.05)
    patience = Patience(spec, soon(600.0), spec.first_event_s, whole=False)
    patience.arm(rang.set)
    patience.heard(begun=True, finishing=finishing)
    await asyncio.wait_for(rang.wait(), 60.0)
    assert patience.rang
    assert patience.is_complete is finishing


@pytest.mark.parametrize("script", [never_answers, comments_only, stalls])
async def test_the_deadline_ends_any_wait_and_closes_the_upstream(upstream, member_with, script):
    upstream.answers(script)
    for times in LONGER:
        with pytest.raises(DeadlineExceeded, match="'gpt'"):
            await collect(member_with(), ask(), soon(times * 0.05))
        if upstream.turns:
            break
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


async def test_a_caller_who_is_cancelled_while_waiting_to_try_again_asks_no_more(upstream, connections):
    asked = asyncio.Event()

    async def script(turn):
        await turn.refuse(503, {})
        asked.set()

    upstream.answers(script)
    member = OpenAIMember("gpt", OpenAISpec(base_url=upstream.base_url, model="m"), connections, backoff_s=25.0)
    caller = asyncio.create_task(collect(member, ask()))
    await asked.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert len(upstream.turns) == 1


async def test_a_full_pool_is_overloaded(upstream):
    upstream.answers(stalls)
    async with UpstreamPool(1, environ={}) as connections:
        member = OpenAIMember("gpt", OpenAISpec(base_url=upstream.base_url, model="m", connect_s=0.5), connections)
        async with aclosing(member.stream(ask(), soon())) as events:
            await anext(events)
            error = await fails(member)
    assert error.reason == "overloaded"
    assert "no connection of 1 was free for 0.5 s" in str(error)


async def test_the_breaker_opens_keeps_callers_away_and_lets_one_trial_through(upstream, member_with):
    now, states = [0.0], []
    member = member_with(clock=lambda: now[0], observe_breaker=states.append, failures_to_open=2, open_s=10.0)
    upstream.answers(refusing(500))
    await fails(member)
    await fails(member)
    now[0] = 4.0
    error = await fails(member)
    assert (error.reason, error.retry_after_s, len(upstream.turns)) == ("breaker-open", 6.0, 2)
    assert str(error).endswith("not tried for another 6.0 s after 2 failures in a row, at last: HTTP 500")
    with pytest.raises(OneMemberFailed, match=r"failed too often a moment ago, at last: HTTP 500$"):
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


@pytest.mark.parametrize(
    ("listed", "doubt"),
    [
        (["m"], ""),
        (["other", "m:latest"], ""),
        (["other", "another"], "its server lists no model 'm', but 'other', 'another'"),
        (
            [f"n{number}" for number in range(10)],
            "its server lists no model 'm', but " + ", ".join(f"'n{n}'" for n in range(8)) + " and 2 more",
        ),
        ([], ""),
    ],
)
async def test_a_model_that_its_server_does_not_list_is_a_doubt_and_no_failure_and_the_list_is_read_once(
    upstream, member_with, listed, doubt
):
    member = member_with()
    for names in (listed, ["a list that is not read"]):
        upstream.answers(refusing(200, {"object": "list", "data": [{"id": name} for name in names]}))
        await member.check()
        assert member.doubt == doubt


@pytest.mark.parametrize("body", ["no list", {"data": "none"}, {"data": [{"name": "other"}, 3]}, []])
async def test_what_is_no_list_of_models_raises_no_doubt(upstream, member_with, body):
    upstream.answers(refusing(200, body))
    member = member_with()
    await member.check()
    assert member.doubt == ""


@pytest.mark.parametrize("script", [refusing(401), refusing(503), hang_up], ids=["401", "503", "hang-up"])
async def test_a_server_that_is_away_or_refuses_the_key_cannot_serve(upstream, member_with, script):
    upstream.answers(script)
    with pytest.raises(OneMemberFailed):
        await member_with().check()


@pytest.mark.parametrize("environ", [{"OTHER": "x"}, {"KEY": ""}, {"KEY": "two\nlines"}, {"KEY": " padded "}])
def test_a_key_that_is_missing_or_cannot_be_sent_is_named_by_its_variable(environ):
    with pytest.raises(UnusableMember, match="KEY") as caught:
        OpenAIMember(
            "gpt", OpenAISpec(base_url="http://127.0.0.1/v1", model="m", api_key_env="KEY"), UpstreamPool(environ={}), environ=environ
        )
    assert "lines" not in str(caught.value)
