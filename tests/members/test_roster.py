"""One member stands in for another, visibly, and never in the middle of an answer."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from attune.service.errors import AttuneError, DeadlineExceeded, InvalidRequest, MemberFailed, Overloaded, TooLarge, UnknownMember
from attune.service.members.member import Finish, GenerationRequest, Message, OneMemberFailed, TextPiece
from attune.service.members.roster import Fallback, Observers, Roster, Served

REQUEST = GenerationRequest((Message("user", "Hi"),), 5)
FINISH = Finish("stop", 3, 2)


@dataclass
class Scripted:
    """A member that yields and raises what the test says."""

    id: str
    events: list = field(default_factory=lambda: [TextPiece("Hel"), TextPiece("lo"), FINISH])
    open: int = 0
    asked: int = 0
    closed: bool = False

    async def stream(self, request, deadline_s):
        self.asked += 1
        self.open += 1
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.open -= 1

    async def check(self):
        for event in self.events:
            if isinstance(event, MemberFailed):
                raise event

    async def aclose(self):
        self.closed = True


def broken(name, reason="status", detail="HTTP 500: no"):
    return Scripted(name, [OneMemberFailed(name, reason, detail)])


def roster_of(*members, **more):
    return Roster({member.id: member for member in members}, **more)


async def events_of(roster, order):
    return [event async for event in roster.stream(order, REQUEST, 1e9)]


async def test_the_first_member_that_begins_answers_alone():
    one, two = Scripted("one"), Scripted("two")
    assert await events_of(roster_of(one, two), ["one", "two"]) == [
        Served("one", TextPiece("Hel")),
        Served("one", TextPiece("lo")),
        Served("one", FINISH),
    ]
    assert two.asked == 0


async def test_a_fallback_is_said_before_the_first_piece_with_every_reason():
    roster = roster_of(broken("one"), broken("two", "connect", "refused"), Scripted("three"))
    events = await events_of(roster, ["one", "two", "three"])
    assert events[0] == Fallback("one", "three", "HTTP 500: no", {"one": "HTTP 500: no", "two": "refused"})
    assert {event.member for event in events[1:]} == {"three"}
    assert sum(isinstance(event, Fallback) for event in events) == 1


async def test_an_empty_answer_is_an_answer():
    roster = roster_of(broken("one"), Scripted("two", [FINISH]))
    assert [type(event) for event in await events_of(roster, ["one", "two"])] == [Fallback, Served]


async def test_nobody_stands_in_once_a_piece_was_read():
    two = Scripted("two")
    roster = roster_of(Scripted("one", [TextPiece("Hel"), OneMemberFailed("one", "protocol", "broke")]), two)
    with pytest.raises(MemberFailed, match="broke"):
        await events_of(roster, ["one", "two"])
    assert two.asked == 0


async def test_when_all_fail_each_is_named_with_its_reason():
    with pytest.raises(MemberFailed) as caught:
        await events_of(roster_of(broken("one"), broken("two", "connect", "refused")), ["one", "two"])
    assert caught.value.attempts == {"one": "HTTP 500: no", "two": "refused"}
    assert caught.value.detail == "2 of 2 members failed: one: HTTP 500: no; two: refused"


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([TooLarge("a"), TooLarge("b")], TooLarge),
        ([InvalidRequest("a"), TooLarge("b")], InvalidRequest),
        ([Overloaded("a"), Overloaded("b")], Overloaded),
        ([TooLarge("a"), Overloaded("b")], Overloaded),
        ([Overloaded("a"), OneMemberFailed("m1", "connect", "b")], MemberFailed),
        ([TooLarge("a"), OneMemberFailed("m1", "connect", "b")], MemberFailed),
    ],
)
async def test_what_the_caller_should_do_follows_from_all_failures(errors, kind):
    members = [Scripted(f"m{index}", [error]) for index, error in enumerate(errors)]
    with pytest.raises(AttuneError) as caught:
        await events_of(roster_of(*members), [member.id for member in members])
    assert type(caught.value) is kind


async def test_a_prompt_too_long_for_one_member_goes_to_the_next():
    events = await events_of(roster_of(Scripted("small", [TooLarge("200 of 100 tokens")]), Scripted("large")), ["small", "large"])
    assert events[0] == Fallback("small", "large", "200 of 100 tokens", {"small": "200 of 100 tokens"})


async def test_after_the_deadline_nobody_else_is_tried():
    two = Scripted("two")
    with pytest.raises(DeadlineExceeded):
        await events_of(roster_of(Scripted("one", [DeadlineExceeded("late")]), two), ["one", "two"])
    assert two.asked == 0


async def test_a_member_that_is_not_there_is_refused_before_anybody_is_asked():
    one = Scripted("one")
    with pytest.raises(UnknownMember, match="no member 'two'; the portfolio has one"):
        await events_of(roster_of(one), ["one", "two"])
    with pytest.raises(UnknownMember, match="is empty"):
        await events_of(roster_of(one), [])
    with pytest.raises(UnknownMember):
        Roster({"one": one}, ["two"])
    assert one.asked == 0


def test_the_wanted_member_comes_first_and_the_fallback_order_after_it():
    roster = roster_of(*map(Scripted, "abcd"), fallback_order=["c", "a", "b"])
    assert roster.order_from("a") == ("a", "c", "b")
    assert roster.order_from("d") == ("d", "c", "a", "b")
    assert roster_of(*map(Scripted, "ab")).order_from("b") == ("b", "a")
    with pytest.raises(UnknownMember):
        roster.order_from("x")


async def test_leaving_early_closes_the_members_stream():
    one = Scripted("one")
    async with aclosing(roster_of(one).stream(["one"], REQUEST, 1e9)) as events:
        await anext(events)
        assert one.open == 1
    assert one.open == 0


async def test_everything_is_told_to_the_observers():
    told = []

    def observer(kind):
        return lambda *what: told.append((kind, *what))

    now = iter(range(100))
    roster = roster_of(
        broken("one", "timeout"),
        Scripted("two"),
        observers=Observers(observer("request"), observer("failure"), observer("tokens"), observer("first token")),
        clock=lambda: float(next(now)),
    )
    await events_of(roster, ["one", "two"])
    assert told == [
        ("failure", "one", "timeout"),
        ("request", "one", "failed"),
        ("first token", "two", 1.0),
        ("tokens", "two", 3, 2),
        ("request", "two", "complete"),
    ]
    told.clear()
    async with aclosing(roster.stream(["two"], REQUEST, 1e9)) as events:
        await anext(events)
    assert told[-1] == ("request", "two", "left")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Overloaded("x"), "overloaded"),
        (DeadlineExceeded("x"), "deadline"),
        (TooLarge("x"), "refused"),
        (OneMemberFailed("one", "model", "x"), "model"),
    ],
)
async def test_every_failure_has_a_reason_of_the_closed_set(error, reason):
    reasons = []
    roster = roster_of(Scripted("one", [error]), observers=Observers(failure=lambda _member, why: reasons.append(why)))
    with pytest.raises(AttuneError):
        await events_of(roster, ["one"])
    assert reasons == [reason]


async def test_the_check_names_those_that_cannot_serve():
    assert await roster_of(Scripted("one"), broken("two")).check() == {"two": "HTTP 500: no"}


async def test_closing_the_roster_closes_every_member():
    members = [Scripted("one"), Scripted("two")]
    await roster_of(*members).aclose()
    assert all(member.closed for member in members)
