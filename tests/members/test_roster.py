"""One member stands in for another, visibly, and never in the middle of an answer."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import pytest
from structlog.testing import capture_logs

from attune.service.errors import AttuneError, DeadlineExceeded, InvalidRequest, MemberFailed, Overloaded, TooLarge, UnknownMember
from attune.service.members.member import (
    ChatTurn,
    Finish,
    GenerationRequest,
    MembersBusy,
    MembersFailed,
    OneMemberFailed,
    PassedFieldRefused,
    TextPiece,
)
from attune.service.members.passing import Passed
from attune.service.members.roster import AnotherMember, MemberEvent, Observers, Roster
from attune.service.members.verdicts import MemberVerdict, Verdicts

REQUEST = GenerationRequest((ChatTurn("user", "Hi"),), 5)
FINISH = Finish("stop", 3, 2)


@dataclass
class Scripted:
    """A member that yields and raises what the test says."""

    id: str
    events: list = field(default_factory=lambda: [TextPiece("Hel"), TextPiece("lo"), FINISH])
    open: int = 0
    asked: int = 0
    closed: bool = False
    requests: list = field(default_factory=list)

    async def stream(self, request, deadline_s):
        self.requests.append(request)
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
        MemberEvent("one", TextPiece("Hel")),
        MemberEvent("one", TextPiece("lo")),
        MemberEvent("one", FINISH),
    ]
    assert two.asked == 0


async def test_a_fallback_is_said_before_the_first_piece_with_every_reason():
    roster = roster_of(broken("one"), broken("two", "connect", "refused"), Scripted("three"))
    events = await events_of(roster, ["one", "two", "three"])
    assert events[0] == AnotherMember("one", "three", "HTTP 500: no", {"one": "HTTP 500: no", "two": "refused"})
    assert {event.member for event in events[1:]} == {"three"}
    assert sum(isinstance(event, AnotherMember) for event in events) == 1


@pytest.mark.parametrize("pieces", [[], [TextPiece(" "), TextPiece("\n")], [TextPiece("\u200b"), TextPiece("\ufeff\x01")]])
async def test_an_answer_without_text_is_that_members_failure_and_the_next_stands_in(pieces):
    roster = roster_of(Scripted("one", [*pieces, FINISH]), Scripted("two"))
    first, *rest = await events_of(roster, ["one", "two"])
    assert first == AnotherMember("one", "two", "wrote no text", {"one": "wrote no text"})
    assert {event.member for event in rest} == {"two"}
    with pytest.raises(MemberFailed, match="one: wrote no text"):
        await events_of(roster, ["one"])


@pytest.mark.parametrize("pieces", [[], [TextPiece(" "), TextPiece("\n")]])
async def test_an_answer_that_comes_to_its_limit_before_any_text_is_one_where_nobody_can_stand_in(pieces):
    cut = Finish("length", 3, 2)
    roster = roster_of(Scripted("one", [*pieces, cut]), Scripted("two"))
    assert {event.member for event in (await events_of(roster, ["one", "two"]))[1:]} == {"two"}
    assert await events_of(roster, ["one"]) == [MemberEvent("one", event) for event in [*pieces, cut]]


async def test_spaces_in_front_of_a_text_come_with_it():
    one = Scripted("one", [TextPiece("\n"), TextPiece(" "), TextPiece("Hi"), TextPiece(" "), FINISH])
    events = await events_of(roster_of(one), ["one"])
    assert "".join(event.event.text for event in events[:-1]) == "\n Hi "


async def test_where_nobody_reads_the_pieces_another_stands_in_until_the_end():
    roster = roster_of(Scripted("one", [TextPiece("Hel"), OneMemberFailed("one", "protocol", "broke")]), Scripted("two"))
    asked = replace(REQUEST, streamed=False)
    events = [event async for event in roster.stream(["one", "two"], asked, 1e9)]
    assert events[0] == AnotherMember("one", "two", "broke", {"one": "broke"})
    assert events[-1] == MemberEvent("two", FINISH)


async def test_each_is_told_how_many_may_stand_in_for_it():
    members = [broken("one"), broken("two"), Scripted("three")]
    await events_of(roster_of(*members), ["one", "two", "three"])
    assert [member.requests[0].stand_ins for member in members] == [2, 1, 0]


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
    assert "retry-after" not in caught.value.headers()


async def test_a_request_that_one_refuses_while_the_other_fails_is_told_as_that():
    refusing = Scripted("one", [PassedFieldRefused("member 'one': its server refuses the field tools: HTTP 400")])
    asked = replace(REQUEST, passed=Passed({"tools": {"tools": [1]}}, needed=("tools",)))
    with pytest.raises(MemberFailed) as caught:
        [event async for event in roster_of(refusing, broken("two")).stream(["one", "two"], asked, 1e9)]
    told = "one: its server refuses the field tools: HTTP 400; two: HTTP 500: no"
    assert caught.value.detail == f"1 of 2 members that pass `tools` refused the request and 1 failed: {told}"


async def test_one_that_fails_alone_is_told_with_what_it_passes():
    asked = replace(REQUEST, passed=Passed({"tools": {"tools": [1]}}, needed=("tools", "images")))
    with pytest.raises(MemberFailed, match=r"^1 of 1 member that passes `tools`, `images` failed: two: HTTP 500: no$"):
        [event async for event in roster_of(broken("two")).stream(["two"], asked, 1e9)]


async def test_members_that_are_left_alone_are_told_with_the_time_of_the_first():
    waits = [OneMemberFailed(name, "breaker-open", "not tried", retry_after_s=wait_s) for name, wait_s in (("one", 7.0), ("two", 4.2))]
    with pytest.raises(MemberFailed) as caught:
        await events_of(roster_of(*(Scripted(error.member, [error]) for error in waits)), ["one", "two"])
    assert caught.value.headers() == {"retry-after": "5"}


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([TooLarge("a"), TooLarge("b")], TooLarge),
        ([InvalidRequest("a"), TooLarge("b")], InvalidRequest),
        ([Overloaded("a"), Overloaded("b")], Overloaded),
        ([TooLarge("a"), Overloaded("b")], Overloaded),
        ([Overloaded("a"), OneMemberFailed("m1", "connect", "b")], MembersFailed),
        ([OneMemberFailed("m0", "overloaded", "HTTP 429"), OneMemberFailed("m1", "cooling-down", "b")], MembersBusy),
        ([Overloaded("a"), OneMemberFailed("m1", "overloaded", "b"), TooLarge("c")], MembersBusy),
        ([OneMemberFailed("m0", "overloaded", "HTTP 429"), OneMemberFailed("m1", "connect", "b")], MembersFailed),
        ([TooLarge("a"), OneMemberFailed("m1", "connect", "b")], MembersFailed),
    ],
)
async def test_what_the_caller_should_do_follows_from_all_failures(errors, kind):
    members = [Scripted(f"m{index}", [error]) for index, error in enumerate(errors)]
    with pytest.raises(AttuneError) as caught:
        await events_of(roster_of(*members), [member.id for member in members])
    assert type(caught.value) is kind


async def test_a_prompt_too_long_for_one_member_goes_to_the_next():
    events = await events_of(roster_of(Scripted("small", [TooLarge("200 of 100 tokens")]), Scripted("large")), ["small", "large"])
    assert events[0] == AnotherMember("small", "large", "200 of 100 tokens", {"small": "200 of 100 tokens"})


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
    assert one.asked == 0


async def test_leaving_early_closes_the_members_stream():
    one = Scripted("one")
    async with aclosing(roster_of(one).stream(["one"], REQUEST, 1e9)) as events:
        await anext(events)
        assert one.open == 1
    assert one.open == 0


async def test_every_part_in_a_request_is_told_to_the_observers():
    told, now = [], iter(range(100))
    roster = roster_of(broken("one", "timeout"), Scripted("two"), observers=Observers(run=told.append), clock=lambda: float(next(now)))
    await events_of(roster, ["one", "two"])
    one, two = told
    assert (one.member, one.outcome, one.failure, one.first_token_s, one.completion_tokens) == ("one", "failed", "timeout", None, 0)
    assert (two.member, two.outcome, two.failure, two.first_token_s) == ("two", "complete", None, 1.0)
    assert (two.prompt_tokens, two.completion_tokens) == (3, 2)
    assert two.seconds > two.first_token_s
    async with aclosing(roster.stream(["two"], REQUEST, 1e9)) as events:
        await anext(events)
    assert (told[-1].member, told[-1].outcome) == ("two", "left")


async def test_a_member_that_fails_has_a_line_at_once_and_then_one_a_minute_with_how_often_it_did():
    now = [0.0]
    roster = roster_of(broken("one"), broken("other", "timeout", "nothing in 3.8 s"), Scripted("two"), clock=lambda: now[0])
    with capture_logs() as lines:
        for now[0] in (0.0, 1.0, 59.0, 61.0):
            await events_of(roster, ["one", "two"])
        await events_of(roster, ["other", "two"])
        await events_of(roster, ["two"])
    assert [(line["member"], line["reason"], line["since_last_line"]) for line in lines] == [
        ("one", "HTTP 500: no", 1),
        ("one", "HTTP 500: no", 3),
        ("other", "nothing in 3.8 s", 1),
    ]
    assert {(line["event"], line["log_level"]) for line in lines} == {("a member fails", "warning")}


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
    roster = roster_of(Scripted("one", [error]), observers=Observers(run=lambda run: reasons.append(run.failure)))
    with pytest.raises(AttuneError):
        await events_of(roster, ["one"])
    assert reasons == [reason]


async def test_the_check_names_those_that_cannot_serve():
    assert await roster_of(Scripted("one"), broken("two")).check() == {"two": "HTTP 500: no"}


async def test_closing_the_roster_closes_every_member():
    members = [Scripted("one"), Scripted("two")]
    await roster_of(*members).aclose()
    assert all(member.closed for member in members)


async def test_verdicts_are_those_of_the_last_check_or_of_traffic_since_with_their_age():
    now = [0.0]
    one, two = Scripted("one"), broken("two", "connect", "refused")
    roster = roster_of(one, two, clock=lambda: now[0])
    assert roster.verdicts() == dict.fromkeys(("one", "two"), MemberVerdict(ok=True, detail="not checked yet", checked_s=None))
    await roster.check()
    now[0] = 3.0
    assert roster.verdicts() == {"one": MemberVerdict(True, "ok", 3.0), "two": MemberVerdict(False, "refused", 3.0)}
    two.events = Scripted("two").events
    await events_of(roster, ["two"])
    now[0] = 5.0
    assert roster.verdicts() == {"one": MemberVerdict(True, "ok", 5.0), "two": MemberVerdict(True, "ok", 2.0)}


@pytest.mark.parametrize("reason", ["content", "refused", "overloaded", "cooling-down"])
async def test_what_one_request_meets_alone_says_nothing_of_the_member(reason):
    roster = roster_of(broken("one", reason))
    with pytest.raises(MemberFailed if reason in {"content", "refused"} else MembersBusy):
        await events_of(roster, ["one"])
    assert roster.verdicts()["one"].ok


async def test_a_member_of_whom_traffic_spoke_is_not_asked_again():
    asked = []

    class Checked(Scripted):
        async def check(self):
            asked.append(self.id)

    roster = roster_of(Checked("one"), Checked("two"))
    await events_of(roster, ["one"])
    await roster.check(older_than_s=4.0)
    assert asked == ["two"]


async def test_a_check_that_never_ends_holds_up_no_other_and_is_given_up():
    class Stuck(Scripted):
        async def check(self):
            await asyncio.Event().wait()

    verdicts = Verdicts({"stuck": Stuck("stuck"), "well": Scripted("well")}, lambda: 0.0, limit_s=0.01)
    assert await verdicts.check() == {"stuck": "its check did not end within 0.01 s"}
    assert verdicts.now()["well"].ok
