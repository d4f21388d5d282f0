"""A server that shows no sign: one request waits for it, those beside it leave, later ones do not begin, and a late sign ends it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from attune.service.members.openai import OpenAIMember
from attune.service.members.roster import Roster
from attune.service.members.silence import Silence
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from loadtest.upstream import running_upstream
from loadtest.upstream_modes import comments_only, good, never_answers, stalls
from tests.batching.serving import until
from tests.members.asking import ask, collect
from tests.members.test_openai_others import answer
from tests.members.upstream_scripts import fails

QUICK = {"first_event_s": 1.0, "failures_to_open": 1_000}  # late after half a second
CHOICE = ask(stand_ins=1)


# --- the memory alone -------------------------------------------------------------------------------------------------------


def test_after_its_rest_a_silent_server_is_tried_by_one_request_and_a_sign_to_anybody_ends_it():
    now = [0.0]
    silence = Silence(lambda: now[0], 10.0)
    first = silence.enter()
    assert not silence.lasts
    assert silence.fell(first)
    assert silence.lasts
    now[0] = 10.0
    assert not silence.lasts
    trial = silence.enter()
    assert silence.lasts  # for all others, while one tries
    silence.leave(trial)  # its caller went away: another may try
    assert not silence.lasts
    trial = silence.enter()
    assert silence.fell(trial)
    now[0] = 19.9
    assert silence.lasts
    forced = silence.enter()
    silence.heard(forced)
    assert not silence.lasts


def test_one_slow_answer_of_a_server_that_answers_others_is_no_silence():
    silence = Silence(lambda: 0.0, 10.0)
    slow, quick = silence.enter(), silence.enter()
    silence.heard(quick)
    assert not silence.fell(slow)
    assert not silence.lasts
    assert silence.fell(quick)  # nobody has heard anything since its own last sign


# --- members ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [never_answers, comments_only])
@pytest.mark.parametrize("streamed", [True, False])
async def test_the_wait_for_a_hung_server_is_that_of_one_request(upstream, connections, script, streamed):
    async with running_upstream() as other:
        upstream.answers(script)
        other.answers(good)
        members = {
            name: OpenAIMember(name, OpenAISpec(base_url=url, model="m", **QUICK), connections)
            for name, url in {"hung": upstream.base_url, "well": other.base_url}.items()
        }
        roster = Roster(members)
        reasons = []
        for _ in range(4):
            fallback, text = await answer(roster, ["hung", "well"], streamed=streamed)
            assert (fallback.served, text) == ("well", "Hello there!")
            reasons.append(fallback.reason)
        assert reasons[0] == "no first event came within 0.5 s"
        assert set(reasons[1:]) == {"not tried: another request has waited for a sign of its answer in vain"}
        assert len(upstream.turns) == 1
        await roster.aclose()
        await upstream.all_left()


async def test_requests_that_wait_beside_the_first_leave_with_it_and_one_connection_goes_on_listening(upstream, member_with):
    upstream.answers(never_answers)
    member = member_with(**QUICK | {"first_event_s": 30.0})
    member.pace.answered(0.25, 1.0)  # late after 3.75 s
    errors = await asyncio.gather(*(fails(member, CHOICE) for _ in range(6)))
    assert sorted(error.reason for error in errors) == ["silent"] * 5 + ["timeout"]
    async with upstream.changed:
        await upstream.changed.wait_for(lambda: upstream.open_now == 1)
    await member.aclose()
    await upstream.all_left()


async def test_a_late_sign_ends_the_silence_and_tells_the_pace_of_a_slow_server(upstream):
    ready = asyncio.Event()

    async def slow(turn):
        await ready.wait()
        await good(turn)

    upstream.answers(slow)
    spec = OpenAISpec(base_url=upstream.base_url, model="m", **QUICK | {"first_event_s": 4.0})
    async with UpstreamPool(1, environ={}) as single:  # a connection that leaks is missed by the next request
        member = OpenAIMember("gpt", spec, single, clock=lambda: 0.0, backoff_s=0.0)
        assert (await fails(member, CHOICE)).reason == "timeout"
        assert (await fails(member, CHOICE)).reason == "silent"
        ready.set()
        await until(lambda: member.pace.first_s is not None)
        assert (await collect(member, CHOICE))[0] == "Hello there!"
    assert len(upstream.turns) == 2


@pytest.mark.parametrize("script", [never_answers, comments_only])
async def test_a_server_that_hangs_to_its_limit_rests_before_one_request_tries_again(upstream, member_with, script):
    now = [0.0]
    upstream.answers(script)
    member = member_with(clock=lambda: now[0], open_s=5.0, **QUICK)
    await fails(member, CHOICE)
    await upstream.all_left()  # the limit has passed
    assert (await fails(member, CHOICE)).reason == "silent"
    now[0] = 5.0
    upstream.answers(good)
    assert (await collect(member, CHOICE))[0] == "Hello there!"
    assert len(upstream.turns) == 2


async def test_a_request_that_nobody_can_stand_in_for_tries_a_silent_server_too(upstream, member_with):
    upstream.answers(never_answers, good)
    member = member_with(**QUICK)
    await fails(member, CHOICE)
    assert (await collect(member, ask()))[0] == "Hello there!"
    assert (await collect(member, CHOICE))[0] == "Hello there!"
    await member.aclose()


async def test_a_server_that_falls_silent_in_the_middle_is_remembered_too(upstream, member_with):
    upstream.answers(stalls)
    member = member_with(**QUICK | {"between_events_s": 0.5, "first_event_s": 30.0})
    assert "no next event" in str(await fails(member, CHOICE))
    assert (await fails(member, CHOICE)).reason == "silent"


async def test_a_request_with_little_time_left_says_nothing_about_the_server(upstream, member_with):
    upstream.answers(never_answers, good)
    member = member_with(**QUICK)
    error = await fails(member, CHOICE, asyncio.get_running_loop().time() + 0.1)
    assert (error.reason, error.lasting) == ("timeout", False)
    assert (await collect(member, CHOICE))[0] == "Hello there!"


@pytest.mark.parametrize("script", [never_answers, comments_only, stalls, good])
@pytest.mark.parametrize("steps", range(0, 24, 4))
async def test_a_caller_who_is_cancelled_twice_while_others_could_stand_in_leaves_no_connection_open(upstream, member_with, script, steps):
    upstream.answers(script)
    member = member_with(**QUICK | {"first_event_s": 30.0})
    caller = asyncio.create_task(collect(member, CHOICE))
    for _ in range(steps):  # another await of its way each time
        await asyncio.sleep(0)
    left = caller.done()
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
    with contextlib.suppress(asyncio.CancelledError):
        await caller
    assert left or caller.cancelled()
    await member.aclose()
    if script is not good:
        await upstream.all_left()
    upstream.answers(good)
    assert (await collect(member, CHOICE))[0] == "Hello there!"
