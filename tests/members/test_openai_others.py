"""Where others can stand in nobody is waited for: cooldowns, shared limits, refused habits, and answers in one piece."""

from __future__ import annotations

import logging

import pytest

from attune.service.members.member import OneMemberFailed, PassedFieldRefused, PromptFiltered
from attune.service.members.openai import OpenAIMember
from attune.service.members.patience import MemberPace, late_after_s
from attune.service.members.roster import AnotherMember, Roster
from attune.service.members.spec import OpenAISpec
from loadtest.upstream import running_upstream
from loadtest.upstream_modes import (
    comments_only,
    good,
    never_answers,
    only_streams,
    refusing,
    repeats_the_prompt,
    says,
    stalls,
    stream_of,
    thinks,
)
from tests.members.asking import ask, collect, soon
from tests.members.upstream_scripts import fails


def limited(**headers):
    return refusing(429, {"error": {"message": "rate limited"}}, **headers)


async def answer(roster, order, **changes):
    events = [event async for event in roster.stream(order, ask(**changes), soon())]
    fallback = events.pop(0) if isinstance(events[0], AnotherMember) else None
    return fallback, "".join(event.event.text for event in events[:-1])


@pytest.mark.parametrize("headers", [{"retry_after": "8"}, {"retry_after_ms": "8000"}, {"x_ratelimit_reset_requests": "8s"}])
async def test_a_member_that_asked_to_wait_is_not_asked_again_before_its_time(upstream, member_with, headers):
    now = [0.0]
    member = member_with(clock=lambda: now[0])
    upstream.answers(limited(**headers))
    assert "it asks to wait 8.0 s" in str(await fails(member, ask(stand_ins=1)))
    now[0] = 3.0
    error = await fails(member, ask(stand_ins=1))
    assert (error.reason, len(upstream.turns)) == ("cooling-down", 1)
    assert "left alone for another 5.0 s" in str(error)
    with pytest.raises(OneMemberFailed, match="left alone"):
        await member.check()
    now[0] = 8.0
    upstream.answers(good)
    assert (await collect(member, ask(stand_ins=1)))[0] == "Hello there!"


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize("streamed", [True, False])
async def test_whoever_can_stand_in_does_so_at_once(upstream, connections, streamed, status):
    async with running_upstream() as other:
        upstream.answers(refusing(status, retry_after="3600"))
        other.answers(good)
        specs = {"one": upstream.base_url, "two": other.base_url}
        members = {name: OpenAIMember(name, OpenAISpec(base_url=url, model="m"), connections) for name, url in specs.items()}
        roster = Roster(members)
        for _ in range(3):
            fallback, text = await answer(roster, ["one", "two"], streamed=streamed)
            assert (fallback.served, text) == ("two", "Hello there!")
    assert len(upstream.turns) == 1


async def test_a_forced_member_is_waited_for_within_its_limit(upstream, member_with):
    upstream.answers(limited(retry_after="0.05"), good)
    assert (await collect(member_with(), ask()))[0] == "Hello there!"
    upstream.answers(limited(retry_after="3600"))
    await fails(member_with())
    assert len(upstream.turns) == 3


async def test_members_that_hang_do_not_use_up_the_time_of_the_one_that_is_well(upstream, connections):
    async with running_upstream() as hung:
        hung.answers(never_answers)
        upstream.answers(good)
        spec = {"model": "m", "first_event_s": 1.2}
        members = {f"h{i}": OpenAIMember(f"h{i}", OpenAISpec(base_url=hung.base_url, **spec), connections) for i in range(5)}
        members["well"] = OpenAIMember("well", OpenAISpec(base_url=upstream.base_url, **spec), connections)
        fallback, text = await answer(Roster(members), [*members])
    assert (fallback.served, text) == ("well", "Hello there!")
    limits_s = [float(reason.removeprefix("no first event came within ").removesuffix(" s")) for reason in fallback.attempts.values()]
    assert limits_s == [0.5] * 5


def test_a_first_sign_is_late_early_where_others_can_stand_in_and_a_usual_answer_keeps_its_time():
    assert late_after_s(30.0, 1.0, 0, 120.0) == 30.0
    assert late_after_s(30.0, None, 1, 120.0) == 3.75
    assert late_after_s(30.0, 0.2, 5, 120.0) == 3.75
    assert late_after_s(30.0, 3.0, 5, 120.0) == 12.0
    assert late_after_s(30.0, 60.0, 5, 120.0) == 20.0  # the deadline is shared out
    assert late_after_s(30.0, 60.0, 1, 120.0) == 30.0
    assert late_after_s(1.0, None, 1, 120.0) == 0.5  # nothing is late at once


@pytest.mark.parametrize("script", [stalls, comments_only])
async def test_a_request_that_nobody_reads_piece_by_piece_falls_back_in_the_middle(upstream, connections, script):
    async with running_upstream() as other:
        upstream.answers(script)
        other.answers(good)
        limits = {"model": "m", "first_event_s": 0.2, "between_events_s": 0.05, "streaming": "always"}
        one = OpenAIMember("one", OpenAISpec(base_url=upstream.base_url, **limits), connections)
        two = OpenAIMember("two", OpenAISpec(base_url=other.base_url, model="m"), connections)
        fallback, text = await answer(Roster({"one": one, "two": two}), ["one", "two"], streamed=False)
    assert (fallback.wanted, fallback.served, text) == ("one", "two", "Hello there!")


# --- signs of life ----------------------------------------------------------------------------------------------------------


async def test_thoughts_are_signs_of_life_for_every_limit_but_that_of_the_text(upstream, member_with):
    upstream.answers(stream_of(thinks("reasoning_content", *["hm"] * 12), says("Hello.")))
    slow = {"first_event_s": 1.0, "between_events_s": 1.0}

    async def paced(turn):
        turn.pause_s = 0.1
        await stream_of(thinks("reasoning_content", *["hm"] * 12), says("Hello."))(turn)

    upstream.answers(paced)
    assert (await collect(member_with(**slow), ask()))[0] == "Hello."
    error = await fails(member_with(**slow, first_text_s=1.0))
    assert "no first text came within 1 s (first_text_s)" in str(error)
    assert not error.lasting
    error = await fails(member_with(**slow, total_s=1.0))
    assert "not complete within 1 s (total_s)" in str(error)


# --- in one piece -----------------------------------------------------------------------------------------------------------


async def test_what_nobody_reads_piece_by_piece_is_asked_for_in_one(upstream, member_with):
    upstream.answers(good)
    member = member_with()
    text, finish = await collect(member, ask(streamed=False))
    assert (text, finish.prompt_tokens, finish.completion_tokens, finish.usage) == ("Hello there!", 7, 3, "reported")
    await collect(member, ask(streamed=True))
    await collect(member_with(streaming="always"), ask(streamed=False))
    assert [turn.body["stream"] for turn in upstream.turns] == [False, True, True]
    assert "stream_options" not in upstream.turns[0].body


async def test_an_upstream_that_answers_in_events_all_the_same_is_read(upstream, member_with):
    upstream.answers(only_streams)
    assert (await collect(member_with(), ask(streamed=False)))[0] == "Hello there!"


def refuses_streaming(value):
    async def script(turn):
        if turn.body["stream"] is value:
            await turn.refuse(400, {"error": {"message": "Unsupported value: 'stream'", "param": "stream"}})
        else:
            await good(turn)

    return script


@pytest.mark.parametrize("value", [True, False])
async def test_an_upstream_that_can_do_only_one_of_both_is_asked_for_it_from_then_on(upstream, member_with, value):
    upstream.answers(refuses_streaming(value))
    member = member_with()
    for _ in range(2):
        assert (await collect(member, ask(streamed=value)))[0] == "Hello there!"
    assert [turn.body["stream"] for turn in upstream.turns] == [value, not value, not value]


async def test_an_upstream_that_refuses_the_question_for_counts_is_not_asked_again(upstream, member_with):
    async def script(turn):
        if "stream_options" in turn.body:
            return await turn.refuse(422, {"detail": "stream_options: Extra inputs are not permitted"})
        return await good(turn)

    upstream.answers(script)
    member = member_with()
    for _ in range(2):
        await collect(member, ask())
    assert ["stream_options" in turn.body for turn in upstream.turns] == [True, False, False]


async def test_only_a_member_that_is_known_to_answer_early_is_asked_for_whole_answers_where_others_can_stand_in(upstream, member_with):
    upstream.answers(good)
    member = member_with()
    for _ in range(2):
        await collect(member, ask(streamed=False, stand_ins=5))
    assert [turn.body["stream"] for turn in upstream.turns] == [True, False]


async def test_a_member_whose_whole_answers_are_slow_is_streamed_where_others_can_stand_in(upstream, member_with):
    async def paced(turn):
        turn.pause_s = 0.05
        await good(turn)

    upstream.answers(paced)
    member = member_with(first_event_s=40.0)
    for _ in range(2):
        await collect(member, ask(streamed=False, stand_ins=799), soon(8000.0))  # each may take a twentieth of a second
    assert [turn.body["stream"] for turn in upstream.turns] == [True, True]


def test_a_whole_answer_that_was_late_makes_the_usual_one_longer():
    pace = MemberPace()
    pace.was_late()
    assert pace.whole_s is None
    pace.answered(None, 2.0)
    pace.was_late()
    assert (pace.first_s, pace.whole_s) == (None, 8.0)


# --- refusals ---------------------------------------------------------------------------------------------------------------

UNSUPPORTED = refusing(400, {"error": {"message": "Unsupported value", "param": "temperature", "code": "unsupported_value"}})


async def test_a_field_of_the_rosters_that_is_always_refused_is_told_at_once_and_opens_the_breaker(upstream, member_with, caplog):
    upstream.answers(UNSUPPORTED)
    member = member_with(failures_to_open=2)
    for _ in range(2):
        error = await fails(member, ask(temperature=None))
        assert "it refuses the field temperature" in str(error)
    assert member.breaker == "open"
    assert [record.getMessage() for record in caplog.records] == [
        "member gpt: the upstream refuses the field temperature of every request; the roster can leave it out"
    ]


@pytest.mark.parametrize("status", [400, 422])
async def test_a_field_that_the_caller_chose_is_the_callers_and_is_named(upstream, member_with, caplog, status):
    refused = refusing(status, {"error": {"message": "Unsupported value: 'temperature'", "code": "unsupported_value"}})
    upstream.answers(refused, refused, good)
    member = member_with(failures_to_open=1)
    with pytest.raises(PassedFieldRefused, match=f"refuses the field temperature of this request: HTTP {status} .unsupported_value.$"):
        await answer(Roster({"gpt": member}), ["gpt"], temperature=0.3)
    assert member.breaker == "closed"
    fallback, text = await answer(Roster({"gpt": member, "other": member}), ["gpt", "other"], temperature=0.3)
    assert (fallback.served, text) == ("other", "Hello there!")
    assert [record.getMessage() for record in caplog.records if "upstream" in record.getMessage()] == [
        "member gpt: the upstream refuses the field temperature where a request names it"
    ]


FILTERED = {"error": {"message": "triggering the content management policy", "code": "content_filter", "param": "prompt", "status": 400}}


@pytest.mark.parametrize("status", [400, 200])
@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation", "invalid_prompt", "data_inspection_failed"])
async def test_a_prompt_that_a_filter_refuses_is_the_callers_unless_another_member_takes_it(upstream, member_with, code, status):
    upstream.answers(refusing(status, {"error": {"message": "flagged", "code": code, "type": "invalid_request_error"}}))
    member = member_with(failures_to_open=1)
    with pytest.raises(PromptFiltered, match=f"its server's filter refuses the conversation: HTTP {status} .{code}.$"):
        await answer(Roster({"gpt": member}), ["gpt"])
    assert (member.breaker, len(upstream.turns)) == ("closed", 1)
    upstream.answers(refusing(400, FILTERED), good)
    fallback, text = await answer(Roster({"gpt": member, "other": member}), ["gpt", "other"])
    assert (fallback.served, text) == ("other", "Hello there!")


async def test_null_in_the_roster_sends_no_field_whoever_asks_for_it(upstream, member_with):
    upstream.answers(good)
    await collect(member_with(temperature=None, top_p=None), ask(temperature=0.3, top_p=0.5))
    assert upstream.turns[0].body.keys().isdisjoint({"temperature", "top_p"})


async def test_a_refusal_by_the_roster_is_that_members_verdict(upstream, member_with):
    upstream.answers(UNSUPPORTED)
    roster = Roster({"gpt": member_with()})
    with pytest.raises(Exception, match="temperature"):
        await answer(roster, ["gpt"], temperature=None)
    assert roster.verdicts()["gpt"].detail == "HTTP 400 (unsupported_value): it refuses the field temperature"


@pytest.mark.parametrize("streamed", [True, False])
async def test_no_word_of_a_prompt_that_an_upstream_repeats_reaches_a_caller_or_any_log(upstream, member_with, caplog, streamed):
    caplog.set_level(logging.DEBUG)
    upstream.answers(repeats_the_prompt)
    roster = Roster({"gpt": member_with()})
    with pytest.raises(Exception, match="HTTP 500") as caught:
        await answer(roster, ["gpt"], text="MARKER my diagnosis", streamed=streamed)
    for said in (str(caught.value), caplog.text):
        assert "MARKER" not in said
        assert "diagnosis" not in said
    assert "invalid input" in caplog.text


async def test_headers_query_and_key_are_sent_as_the_roster_says(upstream, member_with):
    upstream.answers(good)
    environ = {"KEY": "secret", "QUERY": "a b&c"}
    member = member_with(
        environ=environ, headers={"api-key": {"env": "KEY"}, "x-team": "t"}, query={"api-version": "1", "q": {"env": "QUERY"}}
    )
    await collect(member, ask())
    (turn,) = upstream.turns
    assert (turn.headers["api-key"], turn.headers["x-team"]) == ("secret", "t")
    assert "authorization" not in turn.headers
    assert turn.path == "/v1/chat/completions?api-version=1&q=a+b%26c"
