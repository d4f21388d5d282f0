"""Answers that somebody's own gateway got after `/route`: kept with the decision, scored, and counted for the members who wrote them.

    decision without candidates + (member, text) ... ─> the decision as `/generate` would have kept it ─> candidate ids

Afterwards feedback by candidate id works as everywhere, so it knows the authors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from attune.models.seam.counts import counted
from attune.models.seam.printable import printable
from attune.service.errors import (
    EventConflict,
    ExpiredCandidate,
    FieldError,
    NotYourCandidate,
    UnknownDecision,
    UserDeleted,
    invalid,
)
from attune.service.ids import as_decision_id
from attune.service.live.runtime import Call
from attune.service.state.store import UserKey
from attune.service.usecases.answer_scores import score_uncounted
from attune.service.usecases.decision_record import DecisionRecord, KeptCandidate, RecordUnreadable, Routing, StandIn, digest_of, unpack
from attune.service.usecases.member_choice import Decision, write_or_raise
from attune.service.usecases.named_answers import read_records
from attune.service.usecases.people import Person, key_of, person
from attune.service.usecases.text_scores import encode

OTHER_GATEWAY = "another member answered than the one drawn"


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """What a member said."""

    member: str
    text: str


@dataclass(frozen=True, slots=True)
class Attached:
    """The decision as it is kept now; `duplicate` where it had these answers already, and nothing was counted again."""

    result: Literal["applied", "duplicate"]
    decision_id: str
    record: DecisionRecord


async def attach(call: Call, user: str, decision_id: str, answers: Sequence[GivenAnswer], prompt: str | None) -> Attached:
    """Returns the decision with its answers, scored for the user.

    Args:
        call: the request.
        user: whose decision.
        decision_id: of `/route`.
        answers: in the order in which they are to be numbered; their members serve.
        prompt: of the decision, where the deployment keeps no texts.

    Raises:
        UnknownDecision, ExpiredCandidate, NotYourCandidate: see `named_answers.find_answers`; nothing was kept.
        EventConflict: the decision has other answers, also where they came while these were scored.
        InvalidRequest: the prompt is missing, or is not the decision's.
        UserDeleted: the user was deleted meanwhile.
        StoreUnavailable: it may or may not be kept; sending it again is safe.
        Overloaded: nothing was kept.
    """
    key, known = key_of(call, user), as_decision_id(decision_id)
    if known is None:
        raise UnknownDecision(f"{printable(decision_id, 64)!r} is not a decision id of this service")
    try:
        seen, records = await read_records(call, key, {known: "decision_id"})
    except NotYourCandidate:
        record = await _moved(call, key, known, answers)
        if record is None:
            raise
        return Attached("duplicate", known, record)
    if records[known].candidates:
        return _repeated(known, records[known], answers)
    who = replace(person(call, user, key, seen.sum), era=seen.era)
    decision, count = await _scored(call, who, known, records[known], answers, prompt)

    async def write_and_count() -> bool:
        kept = await write_or_raise(call, decision, instead_of=seen.decisions[known])
        if kept:
            count()
        return kept

    try:
        kept = await call.runtime.finish(write_and_count())
    except EventConflict:  # another request was faster, or this one was, and its answer was lost
        _, records = await read_records(call, key, {known: "decision_id"})
        return _repeated(known, records[known], answers)
    if not kept:
        raise UserDeleted("the decision has gone since this began, with its user, by a merge or by its age; nothing was kept")
    return Attached("applied", known, decision.record)


async def _scored(
    call: Call, who: Person, decision_id: str, record: DecisionRecord, answers: Sequence[GivenAnswer], prompt: str | None
) -> tuple[Decision, Callable[[], None]]:
    """Returns the decision with these answers, and what counts them for their members; see `attach` for what is raised."""
    if record.basis != call.serving.bundle.basis:
        raise ExpiredCandidate(f"decision {decision_id} was made under basis {record.basis}; {call.serving.bundle.basis} serves now")
    if prompt is not None and digest_of(prompt) != record.prompt_digest:
        raise invalid([FieldError("prompt", "is another one than the decision was made for; leave it out or send the same")])
    text = record.prompt if prompt is None else prompt
    if text is None:
        raise invalid([FieldError("prompt", "is missing, and this deployment keeps no texts; send the prompt of the decision again")])
    candidates = tuple(
        KeptCandidate(one.member, one.text if call.runtime.keeping.keep_text else None, "stop", None, None, 0, 0, {}) for one in answers
    )
    record = replace(record, candidates=candidates, routing=_as_answered(record.routing, [one.member for one in answers]))
    (tokens,) = await encode(call, text, [], context=record.context, with_prompt=True, fields=())
    decision = Decision(decision_id, who, text, tokens, None, record, written=True)
    return await score_uncounted(call, decision, [one.text for one in answers])


def _repeated(decision_id: str, record: DecisionRecord, answers: Sequence[GivenAnswer]) -> Attached:
    if not _same(record.candidates, answers):
        raise EventConflict(f"decision {decision_id} has {counted(len(record.candidates), 'answer')} already, and others than these")
    return Attached("duplicate", decision_id, record)


async def _moved(call: Call, key: UserKey, decision_id: str, answers: Sequence[GivenAnswer]) -> DecisionRecord | None:
    """Returns the decision if it was this user's before a merge and has these answers: then this repeats what was kept."""
    store = call.runtime.store
    with call.timings.measure("redis"):
        if await store.locate_decision(key, decision_id) != "moved":
            return None
        _, content = await store.read_decision(key.tenant, decision_id)
    try:
        record = unpack(content)
    except RecordUnreadable as error:
        raise ExpiredCandidate(f"decision_id: {error}") from error
    return record if _same(record.candidates, answers) else None


def _same(kept: Sequence[KeptCandidate], given: Sequence[GivenAnswer]) -> bool:
    return len(kept) == len(given) and all(
        one.member == other.member and one.text in {None, other.text} for one, other in zip(kept, given, strict=True)
    )


def _as_answered(routing: Routing, members: Sequence[str]) -> Routing:
    """Returns the routing as it was carried out: where other members answered than were drawn, its probabilities do not hold any more."""
    if tuple(members) == routing.members[: len(members)] and len(members) == len(routing.members):
        return routing
    if members[0] == routing.members[0] and len(members) < len(routing.members):
        return replace(routing, joint=None)
    wanted, served = next(((a, b) for a, b in zip(routing.members, members, strict=False) if a != b), (routing.members[0], members[-1]))
    return replace(routing, propensity=None, joint=None, fallback=StandIn(wanted, served, OTHER_GATEWAY))
