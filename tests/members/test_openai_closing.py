"""Every upstream connection is given back on every way out, also where the caller is cancelled twice, at every await."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from attune.service.members.openai import OpenAIMember
from attune.service.members.roster import Roster
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from loadtest.upstream_modes import comments_only, endless, good, never_answers, stalls
from tests.members.asking import ask, collect, soon


async def read(roster, request):
    async for _ in roster.stream(["gpt"], request, soon()):
        pass


@pytest.fixture
async def one_connection(upstream):
    """A member whose pool has a single connection: one that leaks is missed by the next request."""
    async with UpstreamPool(1, environ={}) as connections:
        spec = OpenAISpec(base_url=upstream.base_url, model="m", failures_to_open=1000)
        yield OpenAIMember("gpt", spec, connections, backoff_s=0.0)


@pytest.mark.parametrize("script", [never_answers, comments_only, stalls, endless])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("steps", range(0, 16, 3))
async def test_a_caller_who_is_cancelled_twice_leaves_no_connection_open(upstream, one_connection, script, streamed, steps):
    upstream.answers(script)
    roster = Roster({"gpt": one_connection})
    caller = asyncio.create_task(read(roster, ask(max_tokens=100_000, streamed=streamed)))
    for _ in range(steps):  # another await of its way each time
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await upstream.all_left()
    upstream.answers(good)
    assert (await collect(one_connection, ask()))[0] == "Hello there!"


async def test_a_caller_who_is_cancelled_twice_while_pieces_come_leaves_no_connection_open(upstream, one_connection):
    upstream.answers(endless)
    for pieces in range(1, 6):
        read_so_far = asyncio.Event()

        async def reading(wanted=pieces, done=read_so_far):
            async with aclosing(one_connection.stream(ask(max_tokens=100_000), soon())) as events:
                count = 0
                async for _ in events:
                    count += 1
                    if count == wanted:
                        done.set()

        caller = asyncio.create_task(reading())
        await read_so_far.wait()
        caller.cancel()
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await upstream.all_left()
    assert upstream.connections == 5


async def test_a_generator_that_is_left_at_a_piece_closes_at_once_without_awaiting(upstream, one_connection):
    upstream.answers(stalls)
    events = one_connection.stream(ask(), soon())
    await anext(events)
    closing = events.aclose()
    with pytest.raises(StopIteration):
        closing.send(None)  # it ends in one step: there is no await that a cancellation could break off
    await upstream.all_left()


async def test_what_follows_a_complete_answer_is_read_by_nobody_who_waits(upstream, one_connection):
    going = asyncio.Event()

    async def script(turn):
        await turn.head()
        await turn.text("Hello")
        await turn.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        await turn.event(b"[DONE]")
        await going.wait()  # the end of the body comes late
        await turn.end()

    upstream.answers(script)
    assert (await collect(one_connection, ask()))[0] == "Hello"
    going.set()
    upstream.answers(good)
    assert (await collect(one_connection, ask()))[0] == "Hello there!"
    assert upstream.connections == 1


async def test_an_upstream_that_never_ends_a_complete_answer_keeps_neither_caller_nor_connection(upstream, one_connection):
    async def script(turn):
        await turn.head()
        await turn.text("Hello")
        await turn.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        await turn.client_left()

    upstream.answers(script)
    assert (await collect(one_connection, ask()))[0] == "Hello"
    await upstream.all_left()


async def test_closing_the_pool_closes_what_is_kept(upstream, member_with, connections):
    upstream.answers(good)
    await collect(member_with(), ask())
    assert upstream.open_now == 1
    await connections.aclose()
    await upstream.all_left()
