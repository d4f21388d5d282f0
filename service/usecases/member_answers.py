"""Answers from the members of a decision, written side by side, kept with the decision, and scored for the user where that was asked.

    decision ─> one stream per candidate ─> pieces, merged as they come ─> texts ─> scores, if asked ─> record ─> the rest scored later

A member that cannot begin is replaced by the next in expected value, which the answer says; the draw's propensity is then no longer the
probability of what was served, and becomes null. Leaving early (a caller who has gone) closes every stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from attune.service.errors import DeadlineExceeded, MemberFailed
from attune.service.ids import candidate_id
from attune.service.live.runtime import Call
from attune.service.members.answer_text import is_seen
from attune.service.members.member import Finish, FinishReason, GenerationRequest, Said, TextPiece
from attune.service.members.roster import AnotherMember
from attune.service.members.tool_calls import Part, ToolCalls
from attune.service.usecases.answer_scores import score_later, score_now
from attune.service.usecases.decision_record import KeptCandidate, Routing, StandIn
from attune.service.usecases.member_choice import Decision, keep_decision, write

PIECES_AHEAD = 256
"""How far members may be ahead of a slow reader before they are held."""

PING_S = 15.0
"""A stream that is silent for longer is closed by many proxies."""

LOOK_S = 0.5
"""How often a deadline is looked at again: shutting down brings it forward."""

NO_TEXT = "(no text)"
"""What is kept and scored of an answer that came to its limit before any text: an empty one could be named in no feedback."""

_TOO_LATE = "the members did not finish before the request's deadline"


@dataclass(frozen=True, slots=True)
class Piece:
    """The next characters of one candidate; all but `index` and `member` as in `TextPiece`."""

    index: int
    member: str
    text: str
    said: Mapping[str, Any] | None = None
    calls: tuple[Part, ...] = ()
    refuses: bool = False
    thoughts: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Ping:
    """Nothing was written for a while."""


@dataclass(frozen=True, slots=True)
class GeneratedCandidate:
    """One finished answer as the user sees it.

    Attributes:
        id: None if the decision could not be kept, and then feedback goes by texts.
        score, std, rank: rank is 1 for the best; all three are None where nobody asked for scores.
        unscored_tokens: of the answer's end, for which the scorer had no room.
        said: what else its server said; it is not kept.
        calls: the tools that it calls; of the record they are sentences behind the text.
    """

    id: str | None
    index: int
    member: str
    text: str
    score: float | None
    std: float | None
    rank: int | None
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    unscored_tokens: int
    said: Said
    calls: list[Part]


@dataclass(frozen=True, slots=True)
class Generated:
    """All answers of a decision, and the decision as it was served."""

    decision: Decision
    candidates: tuple[GeneratedCandidate, ...]


@dataclass(slots=True)
class _Draft:
    """One candidate while it is written."""

    index: int
    wanted: str
    member: str
    parts: list[str] = field(default_factory=list)
    finish: Finish | None = None
    fallback: AnotherMember | None = None

    calls: ToolCalls = field(default_factory=ToolCalls)

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def spoken(self) -> str:
        """The text with a sentence for each call of a tool, as it stands in a conversation; this is what is kept and scored."""
        if self.calls:
            return "\n".join(filter(None, [self.text, *self.calls.sentences()]))
        return self.text if is_seen(self.text) else NO_TEXT


Drafts = asyncio.Queue[Piece | _Draft | Exception]


async def generate(
    call: Call, decision: Decision, ask: GenerationRequest, *, score: bool
) -> AsyncGenerator[Piece | Ping | Generated, None]:
    """Yields pieces of the candidates as they are written, and last the whole answer; with scores if they are asked for.

    Raises:
        MemberFailed, MembersBusy, Overloaded, TooLarge, InvalidRequest: see `Roster.stream`; the other candidates are abandoned.
        DeadlineExceeded: the deadline passed; nothing of the unfinished answers is kept.
    """
    routing = decision.record.routing
    drafts = [_Draft(index, member, member) for index, member in enumerate(routing.members)]
    began_s = asyncio.get_running_loop().time()
    try:
        if len(drafts) == 1 and not ask.streamed:  # nobody reads pieces or waits for a sign of life, so there is nothing to merge
            await _whole(call, drafts[0], routing, ask)
        else:
            async with aclosing(_merged(call, drafts, routing, ask)) as pieces:
                async for piece in pieces:
                    yield piece
        for draft in drafts:
            if draft.finish is None:
                raise MemberFailed(f"member {draft.member!r} ended without finishing", {draft.member: "ended without finishing"})
    finally:
        call.timings.add(("member", asyncio.get_running_loop().time() - began_s))
    yield await _kept(call, decision, drafts, score=score)


async def finished(events: AsyncGenerator[Piece | Ping | Generated, None]) -> Generated:
    """Returns what a generation ends with."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Generated):
                return event
    raise MemberFailed("the generation ended without an answer")


def _order(routing: Routing, index: int) -> Sequence[str]:
    """Returns whom to try for a candidate: who was drawn for it, then the others by expected value, those of its siblings last."""
    wanted = routing.members[index]
    if routing.policy == "forced":
        return (wanted,)
    by_value = sorted(routing.expected, key=lambda member: -routing.expected[member][0])
    free = [member for member in by_value if member not in routing.members]
    turn = index % len(free) if free else 0  # two candidates whose members are away shall not both get the same stand-in
    siblings = [member for member in routing.members if member != wanted]
    return (wanted, *free[turn:], *free[:turn], *siblings)


async def _merged(call: Call, drafts: Sequence[_Draft], routing: Routing, ask: GenerationRequest) -> AsyncGenerator[Piece | Ping, None]:
    """Yields the pieces of drafts that are written side by side, as they come; leaving it ends them all."""
    queue: Drafts = asyncio.Queue(PIECES_AHEAD)
    tasks = [asyncio.ensure_future(_write(call, draft, routing, ask, queue)) for draft in drafts]
    try:
        unfinished = len(drafts)
        while unfinished:
            item = await _next(queue, call)
            if isinstance(item, Exception):
                raise item
            if isinstance(item, _Draft):
                unfinished -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _write(call: Call, draft: _Draft, routing: Routing, ask: GenerationRequest, queue: Drafts) -> None:
    try:
        async with aclosing(_written(call, draft, routing, ask)) as pieces:
            async for piece in pieces:
                await queue.put(piece)
        await queue.put(draft)
    except Exception as error:  # noqa: BLE001  whatever it is, it is raised again where the pieces are read
        await queue.put(error)


async def _whole(call: Call, draft: _Draft, routing: Routing, ask: GenerationRequest) -> None:
    """Writes one draft to its end, without a queue and a task."""
    loop, limit = asyncio.get_running_loop(), asyncio.timeout_at(call.deadline_at_s)
    looking: asyncio.TimerHandle

    def look() -> None:
        nonlocal looking
        if not limit.expired():
            limit.reschedule(call.deadline_at_s)
            looking = loop.call_later(LOOK_S, look)

    looking = loop.call_later(LOOK_S, look)
    try:
        async with limit:
            async for _ in _written(call, draft, routing, ask):
                pass
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(_TOO_LATE) from error
    finally:
        looking.cancel()


async def _written(call: Call, draft: _Draft, routing: Routing, ask: GenerationRequest) -> AsyncGenerator[Piece, None]:
    """Writes one draft to its end; yields its pieces where somebody reads them."""
    if ask.seed is not None:
        ask = replace(ask, seed=ask.seed + draft.index)
    async with aclosing(call.serving.roster.stream(_order(routing, draft.index), ask, call.deadline_at_s)) as events:
        async for event in events:
            if isinstance(event, AnotherMember):
                draft.fallback = event
                call.runtime.metrics.fell_back(event.wanted)
                continue
            draft.member = event.member
            if isinstance(event.event, TextPiece):
                draft.parts.append(event.event.text)
                if event.event.calls:
                    draft.calls.add(event.event.calls)
                if ask.streamed:
                    piece = event.event
                    yield Piece(draft.index, event.member, piece.text, piece.said, piece.calls, piece.refuses, piece.thoughts)
            else:
                draft.finish = event.event


async def _next(queue: Drafts, call: Call) -> Piece | Ping | _Draft | Exception:
    if not queue.empty():
        return queue.get_nowait()
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    ping_at_s = now_s + PING_S
    while True:
        try:
            async with asyncio.timeout_at(min(call.deadline_at_s, ping_at_s, now_s + LOOK_S)):
                return await queue.get()
        except TimeoutError:
            now_s = loop.time()
        if now_s >= call.deadline_at_s:
            raise DeadlineExceeded(_TOO_LATE)
        if now_s >= ping_at_s:
            return Ping()


async def _kept(call: Call, decision: Decision, drafts: Sequence[_Draft], *, score: bool) -> Generated:
    """Returns the finished answer, after its candidates were kept, and scored if that was asked for."""
    record, texts = decision.record, [draft.spoken for draft in drafts]
    written = tuple(
        KeptCandidate(
            member=draft.member,
            text=text if call.runtime.keeping.keep_text else None,
            finish_reason=finish.reason,
            score=None,
            std=None,
            prompt_tokens=finish.prompt_tokens,
            completion_tokens=finish.completion_tokens,
            outputs={},
        )
        for draft, text, finish in zip(drafts, texts, _finishes(drafts), strict=True)
    )
    decision = replace(decision, record=replace(record, routing=_as_served(record.routing, drafts), candidates=written))
    ranks: Sequence[int | None] = [None] * len(drafts)
    unscored: Sequence[int] = [0] * len(drafts)
    telling_nothing = [draft.index for draft in drafts if draft.calls or draft.spoken == NO_TEXT]
    if score:
        decision, ranks, unscored = await score_now(call, decision, texts, telling_nothing)
    if not decision.written:
        decision = await keep_decision(call, decision)
    elif not await write(call, decision, update=True):
        decision = replace(decision, id=None)  # it was told as the stream began, and has gone with its user or cannot be written
    if not score and not decision.dry:
        score_later(call, decision, texts, telling_nothing)
    call.headers["x-attune-member"] = drafts[0].member
    candidates = tuple(
        GeneratedCandidate(
            id=candidate_id(decision.id, draft.index) if decision.id else None,
            index=draft.index,
            member=draft.member,
            text=draft.text,
            score=kept.score,
            std=kept.std,
            rank=rank,
            finish_reason=finish.reason,
            prompt_tokens=finish.prompt_tokens,
            completion_tokens=finish.completion_tokens,
            unscored_tokens=dropped,
            said=finish.said,
            calls=draft.calls.whole(),
        )
        for draft, finish, kept, rank, dropped in zip(drafts, _finishes(drafts), decision.record.candidates, ranks, unscored, strict=True)
    )
    return Generated(decision, candidates)


def _finishes(drafts: Sequence[_Draft]) -> list[Finish]:
    return [draft.finish for draft in drafts if draft.finish is not None]


def _as_served(routing: Routing, drafts: Sequence[_Draft]) -> Routing:
    for draft in drafts:
        if draft.fallback is not None:
            stand_in = StandIn(draft.wanted, draft.member, draft.fallback.reason)
            return replace(routing, propensity=None, joint=None, fallback=stand_in)
    return routing
