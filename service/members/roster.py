"""The members by name, and the rule by which one stands in for another.

    stream(order) ── first member ─✗ before its first piece ──> second member ──> Fallback, then its pieces
                          └─✗ after its first piece ──> the error: a reader has seen half an answer of one voice

A fallback is said in the stream, counted and named with every reason. Knows no users and no metrics library: what is
observed is called back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from attune.service.errors import AttuneError, CallerError, DeadlineExceeded, MemberFailed, Overloaded, UnknownMember
from attune.service.members.breaker import State
from attune.service.members.member import Event, GenerationRequest, Member, OneMemberFailed, Reason, TextPiece

Outcome = Literal["complete", "failed", "left"]


@dataclass(frozen=True, slots=True)
class Fallback:
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
class Served:
    """Something that a member wrote."""

    member: str
    event: Event


RosterEvent = Fallback | Served


def _nothing(*_: object) -> None:
    """Observes nothing."""


@dataclass(frozen=True, slots=True)
class Observers:
    """Functions that are told what happens, each with the member's id first; they may not raise or wait.

    Args:
        request: a member's part in a request ended, and how.
        failure: a member failed, and why; reasons are a closed set.
        tokens: prompt and completion tokens of a complete answer.
        first_token: seconds from asking a member to its first characters.
        breaker: a member's circuit breaker changed.
    """

    request: Callable[[str, Outcome], None] = _nothing
    failure: Callable[[str, Reason], None] = _nothing
    tokens: Callable[[str, int, int], None] = _nothing
    first_token: Callable[[str, float], None] = _nothing
    breaker: Callable[[str, State], None] = _nothing


class Roster:
    """The members of the portfolio.

    Args:
        members: by id.
        fallback_order: who stands in, first to last; None is the order of `members`.
        observers: what is told of each request.
        clock: seconds, for durations.

    Raises:
        UnknownMember: the fallback order names a member that is not there.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        fallback_order: Sequence[str] | None = None,
        observers: Observers | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._members = dict(members)
        self._observers = observers or Observers()
        self._clock = clock
        self._fallback_order = tuple(self._members if fallback_order is None else fallback_order)
        self._known(self._fallback_order)

    @property
    def members(self) -> Mapping[str, Member]:
        """The members by id."""
        return self._members

    def order_from(self, wanted: str) -> tuple[str, ...]:
        """Returns the wanted member, then those that stand in for it.

        Raises:
            UnknownMember: there is none of that name.
        """
        self._known([wanted])
        return (wanted, *(name for name in self._fallback_order if name != wanted))

    async def stream(self, order: Sequence[str], request: GenerationRequest, deadline_s: float) -> AsyncGenerator[RosterEvent, None]:
        """Yields one member's answer: the first of the order that begins one.

        Args:
            order: members to try; of one member, nobody stands in.
            request: what to write.
            deadline_s: when to give up, in seconds of the event loop's clock.

        Raises:
            UnknownMember: the order names a member that is not there; nothing was tried.
            CallerError: every member refuses this request (too long, say); nothing was begun.
            Overloaded: every member's queue is full; nothing was begun.
            MemberFailed: none could begin, or the one that began failed; each is named with its reason.
            DeadlineExceeded: the deadline passed; nobody else is tried, there is no time left for them.
        """
        self._known(order)
        if not order:
            raise UnknownMember("the order of members to try is empty")
        failures: dict[str, AttuneError] = {}
        for name in order:
            begun = False
            try:
                async with aclosing(self._observed(name, request, deadline_s)) as events:
                    async for event in events:
                        if not begun and failures:
                            attempts = {tried: _reason_of(tried, error) for tried, error in failures.items()}
                            yield Fallback(order[0], name, attempts[order[0]], attempts)
                        begun = True
                        yield Served(name, event)
            except (MemberFailed, Overloaded, CallerError) as error:
                if begun:
                    raise
                failures[name] = error
            else:
                return
        raise _all_failed(failures)

    async def check(self) -> Mapping[str, str]:
        """Returns the members that cannot serve now, each with its reason; empty if all can."""

        async def checked(member: Member) -> str | None:
            try:
                await member.check()
            except MemberFailed as error:
                return _reason_of(member.id, error)
            return None

        async with asyncio.TaskGroup() as group:
            checks = {name: group.create_task(checked(member)) for name, member in self._members.items()}
        return {name: reason for name, check in checks.items() if (reason := check.result()) is not None}

    async def aclose(self) -> None:
        """Closes every member."""
        async with asyncio.TaskGroup() as group:
            for member in self._members.values():
                group.create_task(member.aclose())

    async def _observed(self, name: str, request: GenerationRequest, deadline_s: float) -> AsyncGenerator[Event, None]:
        """Yields one member's events, and tells the observers of them."""
        observe = self._observers
        start_s, waiting = self._clock(), True
        outcome: Outcome = "left"
        try:
            async with aclosing(self._members[name].stream(request, deadline_s)) as events:
                async for event in events:
                    if waiting:
                        waiting = False
                        observe.first_token(name, self._clock() - start_s)
                    if not isinstance(event, TextPiece):
                        outcome = "complete"
                        observe.tokens(name, event.prompt_tokens, event.completion_tokens)
                    yield event
        except AttuneError as error:
            outcome = "failed"
            observe.failure(name, _kind_of(error))
            raise
        finally:
            observe.request(name, outcome)

    def _known(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._members:
                raise UnknownMember(f"no member {name!r}; the portfolio has {', '.join(self._members) or 'none'}")


def _all_failed(failures: Mapping[str, AttuneError]) -> AttuneError:
    """Returns the one error that tells a caller what to do: change the request, come back, or nothing."""
    errors = list(failures.values())
    full = [error for error in errors if isinstance(error, Overloaded)]
    if all(isinstance(error, (CallerError, Overloaded)) for error in errors):
        return full[0] if full else errors[0]
    attempts = {name: _reason_of(name, error) for name, error in failures.items()}
    said = "; ".join(f"{name}: {reason}" for name, reason in attempts.items())
    return MemberFailed(f"{len(attempts)} of {len(attempts)} members failed: {said}", attempts)


def _reason_of(name: str, error: AttuneError) -> str:
    """Returns why this member failed, without its name in front."""
    attempts = error.attempts if isinstance(error, MemberFailed) else {}
    return attempts.get(name, error.detail.removeprefix(f"member {name!r}: "))


def _kind_of(error: AttuneError) -> Reason:
    """Returns the reason that a metric is labelled with."""
    if isinstance(error, OneMemberFailed):
        return error.reason
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    return "overloaded" if isinstance(error, Overloaded) else "refused"
