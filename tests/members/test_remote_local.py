"""Local members behind a socket: what crosses it, and what happens when the process on the other side ends."""

from __future__ import annotations

import asyncio
from typing import get_args

import pytest

pytest.importorskip("peft")

from attune.service.errors import AttuneError, DeadlineExceeded, FieldError, InvalidRequest, MemberFailed, NotReady, Overloaded, TextTooLong
from attune.service.framing import FrameKind
from attune.service.members.engine_frames import AskedOfEngine, pack_event, unpack_event
from attune.service.members.member import ChatTurn, Finish, GenerationRequest, OneMemberFailed, Reason, TextPiece
from attune.service.members.remote_local import EngineLink, RemoteLocalMember
from attune.service.members.roster import AnotherMember, MemberEvent, Roster
from tests.batching.serving import until
from tests.members.asking import ask, collect, soon
from tests.members.engine_door import GENERATION, engine_door
from tests.members.gate import Gate
from tests.members.local_asking import requests


@pytest.fixture
async def seen(shared_engine, tmp_path):
    members = {name: shared_engine.member(f"of-{name}", name) for name in ("concise", "playful")}
    async with engine_door(tmp_path, **members) as seen:
        yield seen


def crossed(event):
    kind, payload = pack_event(event)
    return unpack_event(kind, memoryview(payload))


@pytest.mark.parametrize("text", ["words", "🙂 東京", "\x00", "\ud800 alone", "a" * 100_000])
def test_pieces_cross_as_they_are(text):
    assert crossed(TextPiece(text)) == TextPiece(text)


@pytest.mark.parametrize("finish", [Finish("stop", 0, 1), Finish("length", 2**31, 7)])
def test_a_finish_crosses(finish):
    assert crossed(finish) == finish


@pytest.mark.parametrize("reason", get_args(Reason))
@pytest.mark.parametrize("lasting", [True, False])
def test_every_failure_of_a_member_crosses_with_its_reason(reason, lasting):
    there = OneMemberFailed("gpt", reason, "it has 3 of 4", lasting=lasting)
    here = crossed(there)
    assert isinstance(here, OneMemberFailed)
    told = [(error.member, error.reason, error.lasting, error.detail, error.attempts) for error in (there, here)]
    assert told[0] == told[1]


def test_other_refusals_cross_with_what_their_callers_read():
    here = crossed(Overloaded("64 of 64 wait", 3.5))
    assert (type(here), here.detail, here.retry_after_s) == (Overloaded, "64 of 64 wait", 3.5)
    assert type(crossed(TextTooLong("200 of 128 tokens"))) is TextTooLong
    here = crossed(InvalidRequest("no", [FieldError("messages", "is odd")]))
    assert isinstance(here, InvalidRequest)
    assert [(error.field, error.message) for error in here.errors] == [("messages", "is odd")]


def test_a_request_crosses_with_every_choice():
    turns = (ChatTurn("system", "be 'brief'\n"), ChatTurn("user", "naïve \ud83d alone"))
    request = GenerationRequest(turns, 9, temperature=0.0, top_p=0.5, stop=("\n\n", "END"), seed=2**60, streamed=False)
    asked = AskedOfEngine(3, "bold", request, 1.25)
    assert AskedOfEngine.unpack(memoryview(asked.pack())) == asked
    nothing_chosen = AskedOfEngine(3, "bold", GenerationRequest(turns, 1), 1.25)
    assert AskedOfEngine.unpack(memoryview(nothing_chosen.pack())) == nothing_chosen


async def test_sixteen_answers_at_once_are_those_of_the_member_itself(seen):
    here, there = seen.member("playful"), seen.behind.members["playful"]
    found = await asyncio.gather(*(collect(here, request) for request in requests()))
    assert found == await asyncio.gather(*(collect(there, request) for request in requests()))


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_answer_crosses_in_the_pieces_in_which_it_is_written(seen, streamed):
    request, members = ask(max_tokens=12, streamed=streamed), (seen.member("concise"), seen.behind.members["concise"])
    here, there = [[event async for event in member.stream(request, soon())] for member in members]
    assert here == there
    assert streamed or len(here) <= 3  # nobody reads them as they come: one for the beginning, one for the rest, and the end


async def test_a_prompt_that_the_model_has_no_room_for_is_the_callers_error(seen):
    with pytest.raises(TextTooLong):
        await collect(seen.member("concise"), ask("word " * 500))


async def test_a_full_queue_is_overloaded_and_a_deadline_passes_in_it(engine_with, tmp_path):
    engine = engine_with(max_batch=1, max_waiting=1)
    gate = Gate(engine)
    async with engine_door(tmp_path, concise=engine.member("concise", "concise")) as seen:
        member = seen.member("concise")
        gate.close()
        running = asyncio.create_task(collect(member, ask()))
        await gate.reached()
        waiting = asyncio.create_task(collect(member, ask(), soon(0.2)))
        await until(lambda: engine.load_now().waiting == 1)
        with pytest.raises(Overloaded, match="its queue holds 1 of 1"):
            await collect(member, ask())
        with pytest.raises(DeadlineExceeded):
            await waiting
        await until(lambda: engine.load_now().waiting == 0)  # it left the queue over there too
        gate.open()
        assert (await running)[0]


async def test_answers_under_way_fail_when_the_process_ends_and_another_connection_serves(seen, gate):
    member = seen.member("concise")
    gate.close()
    answers = [asyncio.create_task(collect(member, ask(seed=seed))) for seed in range(3)]
    await gate.reached()
    checking = asyncio.create_task(member.check())
    await until(lambda: bool(seen.behind.doors[0]._asked))
    seen.cut()
    for task in (*answers, checking):
        with pytest.raises(OneMemberFailed, match="'concise': the engine's process has ended") as caught:
            await task
        assert caught.value.reason == "closed"
    for asked in (member.check(), collect(member, ask())):
        with pytest.raises(OneMemberFailed, match="the engine's process has ended"):
            await asked
    gate.open()
    await until(lambda: not seen.behind.doors[0]._begun)  # whoever asked is gone, and with it what was begun
    await seen.link.connect(seen.path)
    await member.check()
    assert (await collect(member, ask(max_tokens=3)))[0]


async def test_a_member_elsewhere_stands_in_while_the_process_is_away(seen, shared_engine):
    seen.cut()
    await until(lambda: not seen.link.connected)
    roster = Roster({"concise": seen.member("concise"), "other": shared_engine.member("other", "playful")})
    first, *rest = [event async for event in roster.stream(("concise", "other"), ask(), soon())]
    assert isinstance(first, AnotherMember)
    assert (first.served, list(first.attempts)) == ("other", ["concise"])
    assert {event.member for event in rest if isinstance(event, MemberEvent)} == {"other"}
    assert list(await roster.check()) == ["concise"]


async def test_a_generation_that_is_not_loaded_fails_as_the_members_own_failure(seen):
    member = seen.member("concise", generation=8)
    for asked in (member.check(), collect(member, ask())):
        with pytest.raises(MemberFailed, match="'concise': the engine's process has not loaded this roster yet"):
            await asked


@pytest.mark.parametrize("text", ["\u0439" * 1000, "\ud800 alone", '\x00\u2028"\\'])
def test_a_prompt_crosses_as_it_is_and_takes_no_more_room_than_it_came_in(text):
    asked = AskedOfEngine(7, "of-concise", GenerationRequest((ChatTurn("user", text),), 5), 1.0)
    payload = asked.pack()
    assert AskedOfEngine.unpack(memoryview(payload)) == asked
    assert len(payload) <= len(text.encode("utf-8", "surrogatepass")) + 250


async def test_two_who_connect_at_once_share_one_connection(shared_engine, tmp_path):
    async with engine_door(tmp_path, concise=shared_engine.member("of-concise", "concise")) as seen:
        other = EngineLink()
        await asyncio.gather(other.connect(seen.path), other.connect(seen.path))
        await RemoteLocalMember("concise", GENERATION, other).check()
        assert len(seen.behind.doors) == 2  # the fixture's, and this one
        other.close()


class Deaf(asyncio.Protocol):
    """Takes a connection and reads nothing of it, as a process does that was stopped."""

    def connection_made(self, transport):
        transport.pause_reading()


async def test_a_process_that_does_not_read_is_told_no_more_than_so_much(tmp_path):
    server = await asyncio.get_running_loop().create_unix_server(Deaf, str(tmp_path / "engine"))
    link = EngineLink()
    await link.connect(str(tmp_path / "engine"))
    large = GenerationRequest((ChatTurn("user", "tea " * 2**21),), 5)  # 8 MiB
    refused = []
    for _ in range(16):  # each leaves at once
        with pytest.raises(AttuneError) as error:
            await anext(RemoteLocalMember("concise", GENERATION, link).stream(large, 0.0))
        refused.append(type(error.value))
    assert refused == [DeadlineExceeded] * 9 + [OneMemberFailed] * 7
    link.close()
    server.close()


async def test_nothing_is_kept_of_what_was_asked(seen, gate):
    member = seen.member("concise")
    gate.close()
    asking = asyncio.create_task(collect(member, ask()))
    await gate.reached()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    gate.open()
    for _ in range(3):
        await collect(member, ask(max_tokens=2))
    await member.check()
    assert not seen.link._listening
    assert not seen.behind.doors[0]._begun
    assert not seen.behind.doors[0]._asked


async def test_an_answer_that_crosses_its_cancellation_is_nobodys(seen):
    link, told = seen.link, []
    number = link.ask(FrameKind.GENERATE, AskedOfEngine(7, "concise", ask(max_tokens=1), 30.0).pack(), told.append)
    link.leave(number, answered=False)
    await seen.member("concise").check()
    assert told == []


async def test_what_is_no_request_is_answered_too(seen):
    told = asyncio.Queue()
    seen.link.ask(FrameKind.GENERATE, b"no JSON", told.put_nowait)
    found = unpack_event(*await told.get())
    assert isinstance(found, AttuneError)
    assert isinstance(found, NotReady)
