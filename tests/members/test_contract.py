"""What every member promises, held against each implementation: one in this process, one in the engine's and one on a server."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

pytest.importorskip("peft")

from attune.service.errors import DeadlineExceeded, InvalidRequest, MemberFailed
from attune.service.members.member import ChatTurn, Defaults, Finish, GenerationRequest, Member, TextPiece
from attune.service.members.openai import OpenAIMember
from attune.service.members.spec import OpenAISpec
from tests.members.asking import ask, collect, soon
from tests.members.engine_door import engine_door
from tests.members.gate import Gate, around_each_pass


class Local:
    """A local member whose forward passes the test holds."""

    def __init__(self, engine):
        self.engine, self.gate = engine, Gate(engine)
        around_each_pass(engine, after=self._never_end)
        self.member: Member = engine.member("tested", "concise", Defaults(temperature=1.0, top_p=1.0))

    def _never_end(self, logits):
        logits[..., list(self.engine.model.end_tokens)] = float("-inf")

    def hold(self):
        self.gate.close()

    async def held(self):
        await self.gate.reached()

    def let_go(self):
        self.gate.open()

    def break_it(self):
        around_each_pass(self.engine, before=self._raise)

    def _raise(self, *_):
        raise RuntimeError("broken")

    async def freed(self):
        self.gate.open()
        await self.member.check()
        await self.member.check()
        assert self.engine.load_now().rows == 0


class Engine(Local):
    """The same behind a Unix socket, as the engine's process has it."""

    def behind(self, seen):
        self._local, self.member = self.member, seen.member("tested")

    async def freed(self):
        self.gate.open()
        await self.member.check()  # it comes behind whatever was cancelled: frames keep their order
        await self._local.check()
        await self._local.check()
        assert self.engine.load_now().rows == 0


class Server:
    """A member on a scripted server that echoes the words of the prompt, over and over, one a token."""

    def __init__(self, upstream, connections):
        self.upstream = upstream
        self.going = asyncio.Event()
        self.going.set()
        self._held = asyncio.Event()
        self.broken = False
        upstream.answers(self.script)
        spec = OpenAISpec(base_url=upstream.base_url, model="m", failures_to_open=100)
        self.member: Member = OpenAIMember("tested", spec, connections, backoff_s=0.0)

    async def script(self, turn):
        if self.broken:
            return await turn.refuse(500, {"error": "broken"})
        if turn.method == "GET":
            return await turn.refuse(200, {"data": []})
        await turn.head()
        words = turn.body["messages"][-1]["content"].split()
        for index in range(turn.body["max_tokens"]):
            if not self.going.is_set():
                self._held.set()
                gone = asyncio.create_task(turn.client_left())
                going = asyncio.create_task(self.going.wait())
                await asyncio.wait([gone, going], return_when=asyncio.FIRST_COMPLETED)
                going.cancel()
                if gone.done():
                    return None
                gone.cancel()
            await turn.text(f"{words[index % len(words)]} ")
            await asyncio.sleep(0)  # the loop's turn: a socket with room never waits
        return await turn.finish("length", (len(words), turn.body["max_tokens"]))

    def hold(self):
        self.going.clear()

    async def held(self):
        await self._held.wait()

    def let_go(self):
        self.going.set()

    def break_it(self):
        self.broken = True

    async def freed(self):
        await self.upstream.turns[0].left.wait()


@pytest.fixture(params=["local", "engine", "server"])
async def place(request, engine_with, upstream, connections, tmp_path):
    if request.param == "engine":
        place = Engine(engine_with())
        async with engine_door(tmp_path, tested=place.member) as seen:
            place.behind(seen)
            yield place
            place.let_go()
        return
    place = Local(engine_with()) if request.param == "local" else Server(upstream, connections)
    yield place
    place.let_go()


async def test_an_answer_is_pieces_and_then_one_finish(place):
    events = [event async for event in place.member.stream(ask("one two three", max_tokens=10), soon())]
    *pieces, finish = events
    assert pieces
    assert all(isinstance(piece, TextPiece) and piece.text for piece in pieces)
    assert isinstance(finish, Finish)
    assert finish.prompt_tokens > 0


async def test_an_answer_has_at_most_as_many_tokens_as_asked_for(place):
    for limit in (1, 5):
        _, finish = await collect(place.member, ask("one two three", max_tokens=limit))
        assert finish.completion_tokens <= limit
        assert finish.reason == ("length" if finish.completion_tokens == limit else "stop")


async def test_no_part_of_a_stop_string_is_in_the_answer(place):
    text, _ = await collect(place.member, ask("one two three", max_tokens=20))
    stop = text[len(text) // 2 : len(text) // 2 + 4]
    cut, finish = await collect(place.member, ask("one two three", max_tokens=20, stop=(stop,)))
    assert cut == text[: text.index(stop)]
    assert finish.reason == "stop"


async def test_many_answers_are_written_side_by_side(place):
    alone = [await collect(place.member, ask(f"one two {i}", seed=i, max_tokens=6 + i)) for i in range(6)]
    assert await asyncio.gather(*(collect(place.member, ask(f"one two {i}", seed=i, max_tokens=6 + i)) for i in range(6))) == alone


async def test_closing_the_generator_early_frees_what_it_holds_before_its_time_is_up(place):
    async with aclosing(place.member.stream(ask("one two three", max_tokens=1000), soon())) as events:
        await anext(events)
        place.hold()
        await place.held()
    await place.freed()


async def test_a_caller_who_is_cancelled_while_waiting_frees_what_it_held(place):
    place.hold()
    caller = asyncio.create_task(collect(place.member, ask("one two three", max_tokens=1000)))
    await place.held()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await place.freed()


async def test_a_deadline_in_the_middle_raises_and_frees(place):
    place.hold()
    with pytest.raises(DeadlineExceeded, match="'tested'"):
        await collect(place.member, ask("one two three", max_tokens=1000), soon(0.1))
    await place.freed()


async def test_a_generator_that_was_never_started_holds_nothing(place):
    events = place.member.stream(ask(), soon())
    await events.aclose()
    assert await collect(place.member, ask("one two", max_tokens=3))


async def test_a_failure_names_the_member_and_the_reason(place):
    place.break_it()
    with pytest.raises(MemberFailed, match=r"'tested'.*(broken|HTTP 500)") as caught:
        await collect(place.member, ask())
    assert list(caught.value.attempts) == ["tested"]


async def test_the_check_of_a_member_that_can_serve_raises_nothing_and_asks_for_no_text(place):
    await place.member.check()
    assert await collect(place.member, ask("one two", max_tokens=3))


async def test_closing_twice_raises_nothing(place):
    assert [await asyncio.gather(place.member.aclose(), return_exceptions=True) for _ in range(2)] == [[None], [None]]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"messages": ()}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"stop": ("a", "")}, "stop"),
    ],
)
def test_a_request_out_of_range_names_its_field(changes, field):
    with pytest.raises(InvalidRequest) as caught:
        GenerationRequest(**({"messages": (ChatTurn("user", "Hi"),), "max_tokens": 5} | changes))
    assert [error.field for error in caught.value.errors] == [field]
