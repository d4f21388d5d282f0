"""The members by name, and the rule by which one stands in for another.

    stream(order) ── first member ─✗ before anybody has seen a piece ──> second member ──> AnotherMember, then its pieces
                          └─✗ after that ──> the error: a reader has seen half an answer of one voice

Where nobody reads the pieces, nobody has seen one before the answer's end. A fallback is said in the stream, counted and named with
every reason. Knows no users and no metrics library: what is observed is called back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard

from attune.models.seam.counts import counted
from attune.service.errors import AttuneError, CallerError, DeadlineExceeded, MemberFailed, Overloaded, UnknownMember
from attune.service.members.answer_text import is_seen
from attune.service.members.breaker import State
from attune.service.members.failures import FailureLines
from attune.service.members.member import (
    LATER,
    Event,
    GenerationRequest,
    Member,
    MembersBusy,
    MembersFailed,
    OneMemberFailed,
    PassesOn,
    Reason,
    TextPiece,
)
from attune.service.members.passing import CONTENTS
from attune.service.members.verdicts import MemberVerdict, Verdicts, reason_of

Outcome = Literal["complete", "failed", "left"]


@dataclass(frozen=True, slots=True)
class AnotherMember:
    """The answer comes from another member than the one that was wanted; said before its first piece.

    Args:
        wanted: first of the order.
        served: the member that answers.
        reason: why the wanted one did not, in one sentence.
        attempts: every member that was tried before, with its reason.
    """

    wanted: str
    served: str
    reason: str
    attempts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MemberEvent:
    """Something that a member wrote."""

    member: str
    event: Event


RosterEvent = AnotherMember | MemberEvent


def _nothing(*_: object) -> None:
    """Observes nothing."""


@dataclass(frozen=True, slots=True)
class MemberRun:
    """A member's part in one request, at its end.

    Args:
        member: its id.
        outcome: `complete`, `failed`, or `left` by its caller.
        failure: why it failed, None if it did not.
        seconds: from asking it to the end.
        first_token_s: seconds to its first characters, None if none came.
        prompt_tokens: of a complete answer, else 0.
        completion_tokens: likewise.
    """

    member: str
    outcome: Outcome
    failure: Reason | None
    seconds: float
    first_token_s: float | None
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Observers:
    """Functions that are told what happens; they may not raise or wait.

    Args:
        run: a member's part in a request ended.
        breaker: a member's circuit breaker changed.
    """

    run: Callable[[MemberRun], None] = _nothing
    breaker: Callable[[str, State], None] = _nothing


class Roster:
    """The members of the portfolio.

    Args:
        members: by id.
        observers: what is told of each request.
        clock: seconds, for durations and ages.
    """

    def __init__(
        self, members: Mapping[str, Member], observers: Observers | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._members = dict(members)
        passing = {name: member.passes if isinstance(member, PassesOn) else frozenset() for name, member in members.items()}
        self.passing: Mapping[str, frozenset[str]] = passing
        self.passes_contents = any(not passes.isdisjoint(CONTENTS.values()) for passes in passing.values())
        self._observers = observers or Observers()
        self._clock = clock
        self._verdicts = Verdicts(self._members, clock)
        self._lines = FailureLines(clock)

    @property
    def members(self) -> Mapping[str, Member]:
        """The members by id."""
        return self._members

    async def stream(self, order: Sequence[str], request: GenerationRequest, deadline_s: float) -> AsyncGenerator[RosterEvent, None]:
        """Yields one member's answer: the first of the order that writes one.

        Args:
            order: members to try; of one member, nobody stands in.
            request: what to write; if it is not streamed, another member stands in until the answer's end.
            deadline_s: when to give up, in seconds of the event loop's clock.

        Raises:
            UnknownMember: the order names a member that is not there; nothing was tried.
            CallerError: every member refuses this request (too long, say); nothing was begun.
            Overloaded: every member's queue is full; nothing was begun.
            MembersBusy: the servers of all of them ask to come back later, or have no room here.
            MemberFailed: none could begin, or the one that began failed; each is named with its reason.
            DeadlineExceeded: the deadline passed; nobody else is tried, there is no time left for them.
        """
        self._known(order)
        if not order:
            raise UnknownMember("the order of members to try is empty")
        failures: dict[str, AttuneError] = {}
        for turn, name in enumerate(order):
            seen = False
            asked = replace(request, stand_ins=len(order) - turn - 1)
            try:
                async with aclosing(self._asked(name, asked, deadline_s)) as events:
                    async for event in events:
                        if not seen and failures:
                            attempts = {tried: reason_of(tried, error) for tried, error in failures.items()}
                            yield AnotherMember(order[0], name, attempts[order[0]], attempts)
                        seen = True
                        yield MemberEvent(name, event)
            except (MemberFailed, Overloaded, CallerError) as error:
                if seen:
                    raise
                failures[name] = error
            else:
                return
        raise _all_failed(failures, request.passed.needed if request.passed else ())

    def verdicts(self) -> Mapping[str, MemberVerdict]:
        """Returns what is known of every member, with its age; nobody is asked."""
        return self._verdicts.now()

    async def check(self, *, older_than_s: float = 0.0) -> Mapping[str, str]:
        """Asks the members whose verdict is older; returns all that cannot serve now, each with its reason. Never inside a request."""
        return await self._verdicts.check(older_than_s=older_than_s)

    async def aclose(self) -> None:
        """Closes every member."""
        async with asyncio.TaskGroup() as group:
            for member in self._members.values():
                group.create_task(member.aclose())

    async def _asked(self, name: str, request: GenerationRequest, deadline_s: float) -> AsyncGenerator[Event, None]:
        """Yields one member's events, all at once at its end where nobody reads the pieces; tells the observers how it went.

        Spaces wait for the text that they stand before, so that an answer without text can still be another member's.
        """
        began_s = self._clock()
        held: list[Event] = []
        begun, first_token_s, tokens = False, None, (0, 0)
        outcome: Outcome = "left"
        failure: Reason | None = None
        try:
            async with aclosing(self._members[name].stream(request, deadline_s)) as events:
                async for event in events:
                    if first_token_s is None:
                        first_token_s = self._clock() - began_s
                    if isinstance(event, TextPiece):
                        begun = begun or bool(event.calls or event.thoughts) or is_seen(event.text)
                    elif not begun and (event.reason != "length" or request.stand_ins):
                        raise OneMemberFailed(name, "content", "wrote no text")
                    else:  # one that comes to its limit before any text is what was asked for, if nobody else can write more
                        begun = True
                        outcome, tokens = "complete", (event.prompt_tokens, event.completion_tokens)
                        self._verdicts.found(name, ok=True)
                    if begun and not held and request.streamed:
                        yield event
                        continue
                    held.append(event)
                    if begun and (request.streamed or outcome == "complete"):
                        for kept in held:
                            yield kept
                        held.clear()
        except AttuneError as error:
            outcome, failure = "failed", _kind_of(error)
            if isinstance(error, OneMemberFailed):
                self._failed(name, error)
            raise
        finally:
            self._observers.run(MemberRun(name, outcome, failure, self._clock() - began_s, first_token_s, *tokens))

    def _failed(self, name: str, error: OneMemberFailed) -> None:
        self._lines.failed(name, error)
        if error.lasting:
            self._verdicts.found(name, ok=False, detail=reason_of(name, error))

    def _known(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._members:
                raise UnknownMember(f"no member {name!r}; the portfolio has {', '.join(self._members) or 'none'}")


def _all_failed(failures: Mapping[str, AttuneError], needed: Sequence[str]) -> AttuneError:
    """Returns the one error that tells a caller what to do: change the request, come back, or nothing.

    Where some refuse the request and others fail it may be sent again: those that failed have not refused it.
    """
    errors = list(failures.values())
    full = [error for error in errors if isinstance(error, Overloaded)]
    if all(isinstance(error, (CallerError, Overloaded)) for error in errors):
        return full[0] if full else errors[0]
    attempts = {name: reason_of(name, error) for name, error in failures.items()}
    told = "; ".join(f"{name}: {reason}" for name, reason in attempts.items())
    others = [error for error in errors if not isinstance(error, CallerError)]
    refused = len(errors) - len(others)
    names = ", ".join(f"`{name}`" for name in needed)
    who = counted(len(attempts), f"member that passes {names}", f"members that pass {names}") if names else counted(len(attempts), "member")
    said = (
        f"{refused} of {who} refused the request and {len(others)} failed: {told}" if refused else f"{len(others)} of {who} failed: {told}"
    )
    later = [error.retry_after_s for error in others if isinstance(error, Overloaded) or _asks_for_later(error)]
    if len(later) == len(others):
        return MembersBusy(said, min(later))
    waits = [getattr(error, "retry_after_s", 0.0) for error in others]
    return MembersFailed(said, attempts, min(waits))


def _asks_for_later(error: AttuneError) -> TypeGuard[OneMemberFailed]:
    return isinstance(error, OneMemberFailed) and error.reason in LATER


def _kind_of(error: AttuneError) -> Reason:
    """Returns the reason that a metric is labelled with."""
    if isinstance(error, OneMemberFailed):
        return error.reason
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    return "overloaded" if isinstance(error, Overloaded) else "refused"
