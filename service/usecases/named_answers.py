"""The answers that feedback names, as rows of the scorer, whatever way they were named.

Texts go through the scorer. Stored candidates bring their rows with them; what is missing is computed from their texts: where an answer
was sent unscored, where nothing needed the prompt's row, and where another basis serves by now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from attune.models.seam.counts import counted
from attune.models.seam.family import Row
from attune.models.seam.printable import printable
from attune.service.errors import (
    ExpiredCandidate,
    FieldError,
    NotScoredYet,
    NotYourCandidate,
    UnknownCandidate,
    UnknownDecision,
    invalid,
)
from attune.service.ids import as_decision_id, split_candidate
from attune.service.live.runtime import Call
from attune.service.state.store import UserKey, UserRead
from attune.service.usecases.decision_record import DecisionRecord, KeptCandidate, RecordUnreadable, digest_of, unpack
from attune.service.usecases.text_scores import both, encode, submit, submit_judged, submit_with_prompt

AWAITED_S = 120.0
"""Age of a decision up to which its answers may still be scored, here or elsewhere: they were written, and then that takes a minute."""
WAIT_S = 10.0
"""How long feedback waits for answers that are still to be scored: in another process spare time comes after five seconds at most."""
FIRST_LOOK_S = 0.1
RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class ById:
    """Candidate ids, which may be of several decisions on one prompt; `fields` of the request named them."""

    ids: tuple[str, ...]
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ByText:
    """Texts with their prompt, or with the decision that knows it (and then prompt and context may be None)."""

    texts: tuple[str, ...]
    fields: tuple[str, ...]
    prompt: str | None
    context: str | None
    decision_id: str | None


@dataclass(frozen=True, slots=True)
class EditedFrom:
    """A text that a user made out of a candidate, and that candidate's id."""

    text: str
    candidate: str
    fields: tuple[str, str]


Named = ById | ByText | EditedFrom


@dataclass(frozen=True, slots=True)
class FoundAnswers:
    """Rows of the answers, in their order, and of their prompt, with what the log keeps; texts are None where none are kept.

    `members` wrote them; None where texts came with the request.
    """

    rows: tuple[Row, ...]
    prompt: Row
    decisions: tuple[str, ...]
    members: tuple[str, ...] | None
    prompt_text: str | None
    context: str | None
    texts: tuple[str | None, ...]


async def find_answers(call: Call, key: UserKey, named: Named) -> tuple[UserRead, FoundAnswers]:
    """Returns the user as they stood, and the answers.

    Raises:
        UnknownCandidate: an id that no decision of this tenant has.
        NotYourCandidate: its decision is another user's.
        ExpiredCandidate: its decision has gone, or its rows are missing or of another basis and its texts were not kept.
        NotScoredYet: likewise, and they are still to be scored.
        UnknownDecision: likewise for `decision_id`.
        InvalidRequest: the candidates answer different prompts, or the texts another prompt than the decision.
        StoreUnavailable: the store is away; nothing was read.
    """
    match named:
        case ById():
            return await _by_ids(call, key, named)
        case ByText():
            return await _by_texts(call, key, named)
        case EditedFrom():
            return await _edited(call, key, named)


# --- by ids -------------------------------------------------------------------------------------------------------


async def _by_ids(call: Call, key: UserKey, named: ById) -> tuple[UserRead, FoundAnswers]:
    places = [_split(field, candidate) for field, candidate in zip(named.fields, named.ids, strict=True)]
    wanted: dict[str, str] = {}
    for field, (decision_id, _) in zip(named.fields, places, strict=True):
        wanted.setdefault(decision_id, field)
    seen, records = await _scored_elsewhere(call, key, wanted)
    if any(_is_awaited(call, name, record) for name, record in records.items()):
        raise NotScoredYet("the candidates are still to be scored, and no texts are kept; send it again, or send them as texts", RETRY_S)
    found = [_candidate(records[decision], index, field) for field, (decision, index) in zip(named.fields, places, strict=True)]
    first = records[places[0][0]]
    for field, (decision, _) in zip(named.fields, places, strict=True):
        if records[decision].prompt_digest != first.prompt_digest:
            told = f"answers another prompt than {named.fields[0]}; a comparison is of answers to one prompt"
            raise invalid([FieldError(field, told)])
    texts = tuple(candidate.text for candidate in found)
    kept = [(records[decision], candidate) for (decision, _), candidate in zip(places, found, strict=True)]
    rows, prompt = await _rows_of_kept(call, kept)
    members = tuple(candidate.member for candidate in found)
    return seen, FoundAnswers(rows, prompt, tuple(records), members, first.prompt, first.context, texts)


async def _scored_elsewhere(call: Call, key: UserKey, wanted: Mapping[str, str]) -> tuple[UserRead, dict[str, DecisionRecord]]:
    """Returns as `read_records`, once other processes have written what they alone can score: nothing tells this one, so it looks."""
    loop = asyncio.get_running_loop()
    ends_at_s, pause_s = loop.time() + _patience_s(call), FIRST_LOOK_S
    while True:
        seen, records = await read_records(call, key, wanted)
        if loop.time() + pause_s > ends_at_s or not any(_is_awaited(call, name, record) for name, record in records.items()):
            return seen, records
        await asyncio.sleep(pause_s)
        pause_s = min(1.0, 2 * pause_s)


def _patience_s(call: Call) -> float:
    """Returns how long this request waits for answers to be scored; none where the scorer is away, since others would find no permit."""
    return min(WAIT_S, call.left_s / 2) if call.serving.batcher.alive else 0.0


def _is_awaited(call: Call, name: str, record: DecisionRecord) -> bool:
    """Returns whether some process may be about to score the answers of a decision, of which no text is kept."""
    bare = bool(record.candidates) and all(each.text is None and each.score is None and not each.outputs for each in record.candidates)
    young = call.runtime.clock() - record.made_at_s < AWAITED_S
    return bare and young and record.basis == call.serving.bundle.basis and not call.runtime.later.gave_up(name)


async def _edited(call: Call, key: UserKey, named: EditedFrom) -> tuple[UserRead, FoundAnswers]:
    decision_id, index = _split(named.fields[1], named.candidate)
    seen, records = await read_records(call, key, {decision_id: named.fields[1]})
    record = records[decision_id]
    candidate = _candidate(record, index, named.fields[1])
    if record.prompt is None or candidate.text is None:
        told = "its texts were not kept by this deployment; send `prompt` and both texts"
        raise ExpiredCandidate(f"{named.fields[1]} cannot be compared with a text: {told}")
    texts = (named.text, candidate.text)
    rows, prompt = await _scored(call, record.prompt, record.context, texts, named.fields)
    return seen, FoundAnswers(rows, prompt, (decision_id,), None, record.prompt, record.context, texts)


def _candidate(record: DecisionRecord, index: int, field: str) -> KeptCandidate:
    if index >= len(record.candidates):
        raise UnknownCandidate(f"{field} is candidate {index} of a decision that has {counted(len(record.candidates), 'candidate')} so far")
    return record.candidates[index]


def _split(field: str, candidate: str) -> tuple[str, int]:
    found = split_candidate(candidate)
    if found is None:
        raise UnknownCandidate(f"{field} is not a candidate id of this service: {printable(candidate, 64)!r}")
    return found


async def read_records(call: Call, key: UserKey, wanted: Mapping[str, str]) -> tuple[UserRead, dict[str, DecisionRecord]]:
    """Returns the user and the records of `wanted` (decision id -> field that named it), all of them.

    Answers of theirs that this process is still to score are waited for.
    """
    await call.runtime.later.settled(wanted, _patience_s(call))
    with call.timings.measure("redis"):
        seen = await call.runtime.store.read(key, call.kept_under, decisions=tuple(wanted))
    records = {}
    for decision_id, field in wanted.items():
        if decision_id not in seen.decisions:
            raise await _missing(call, key, decision_id, field)
        try:
            records[decision_id] = unpack(seen.decisions[decision_id])
        except RecordUnreadable as error:
            raise ExpiredCandidate(f"{field}: {error}") from error
    return seen, records


async def _missing(call: Call, key: UserKey, decision_id: str, field: str) -> Exception:
    match await call.runtime.store.locate_decision(key, decision_id):
        case "foreign":
            return NotYourCandidate(f"{field} belongs to a decision of another user")
        case "moved":
            told = "is of a decision that went with this user, when they were merged, to the one who is left; send it for that one"
            return NotYourCandidate(f"{field} {told}")
        case "expired" | "live":  # live: it was written between the two reads, and what is not there yet was never given out
            ttl_s = call.runtime.keeping.decision_ttl_s
            return ExpiredCandidate(f"{field}: decision {decision_id} is older than {ttl_s:,.0f} s and has expired")
        case "unknown":
            kind = UnknownDecision if field == "decision_id" else UnknownCandidate
            return kind(f"{field}: no decision {decision_id} is known")


async def _rows_of_kept(call: Call, kept: Sequence[tuple[DecisionRecord, KeptCandidate]]) -> tuple[tuple[Row, ...], Row]:
    """Returns the rows of these candidates, in their order, and the row of the prompt that all of them answer.

    Raises:
        ExpiredCandidate: rows are missing, and so are the texts to compute them from.
        Overloaded, DeadlineExceeded, ScorerFailed, NotReady: see `Batcher.submit`.
    """
    serving = call.serving
    rows = [_known(record, serving.bundle.basis, candidate.outputs, serving.candidate_outputs) for record, candidate in kept]
    prompts = (_known(record, serving.bundle.basis, record.prompt_outputs, serving.prompt_outputs) for record, _ in kept)
    prompt_row = next((row for row in prompts if row is not None), None)
    if None not in rows and prompt_row is not None:
        return tuple(row for row in rows if row is not None), prompt_row
    first, missing = kept[0][0], [candidate.text for (_, candidate), row in zip(kept, rows, strict=True) if row is None]
    texts = [text for text in missing if text is not None]
    if first.prompt is None or len(texts) < len(missing):
        basis = serving.bundle.basis
        made = "were sent before they were scored" if first.basis == basis else f"were made under basis {first.basis}, {basis} serves now"
        raise ExpiredCandidate(f"the candidates {made}, and no texts were kept; send them as texts")
    with_prompt = prompt_row is None
    encoded = await encode(call, first.prompt, texts, context=first.context, with_prompt=with_prompt)
    found = await (submit_with_prompt if with_prompt else submit)(call, encoded)
    if prompt_row is None:
        prompt_row = found.pop()
    computed = iter(found)
    return tuple(next(computed) if row is None else row for row in rows), prompt_row


def _known(record: DecisionRecord, basis: str, outputs: Row, wanted: Collection[str]) -> Row | None:
    """Returns what a record has of a row; None if it means something else under this basis, or is not whole."""
    return outputs if record.basis == basis and outputs.keys() >= set(wanted) else None


# --- by texts -----------------------------------------------------------------------------------------------------


async def _by_texts(call: Call, key: UserKey, named: ByText) -> tuple[UserRead, FoundAnswers]:
    prompt, context, texts = named.prompt, named.context, named.texts
    if named.decision_id is None:
        scored = _scored(call, prompt or "", context, texts, named.fields)
        seen, (rows, row) = await both(call.runtime.store.read(key, call.kept_under), scored)
        return seen, FoundAnswers(rows, row, (), None, prompt, context, texts)
    decision_id = as_decision_id(named.decision_id)
    if decision_id is None:
        raise UnknownDecision(f"decision_id is not one of this service: {printable(named.decision_id, 64)!r}")
    seen, records = await read_records(call, key, {decision_id: "decision_id"})
    record = records[decision_id]
    if prompt is not None and digest_of(prompt) != record.prompt_digest:
        raise invalid([FieldError("prompt", "is another one than the decision was made for; leave it out or send the same")])
    prompt = record.prompt if prompt is None else prompt
    if prompt is None:
        raise invalid([FieldError("prompt", "is missing, and this deployment keeps no texts; send the prompt of the decision again")])
    context = record.context if context is None else context
    rows, row = await _scored(call, prompt, context, texts, named.fields)
    return seen, FoundAnswers(rows, row, (decision_id,), None, prompt, context, texts)


async def _scored(call: Call, prompt: str, context: str | None, texts: Sequence[str], fields: Sequence[str]) -> tuple[tuple[Row, ...], Row]:
    encoded = await encode(call, prompt, texts, context=context, with_prompt=True, fields=fields)
    *rows, row = await submit_judged(call, encoded)
    return tuple(rows), row
