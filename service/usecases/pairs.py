"""The two sides of a comparison as rows of the scorer, whatever way they were named.

Stored candidates bring their rows with them; texts go through the scorer. A stored candidate whose rows mean something else by now
(the bundle's basis has changed since) is scored again from its text, if texts are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attune.models.seam.family import Row
from attune.service.errors import ExpiredCandidate, FieldError, NotYourCandidate, UnknownCandidate, UnknownDecision, invalid, printable
from attune.service.ids import as_decision_id, split_candidate
from attune.service.live.runtime import Call
from attune.service.state.store import UserKey, UserRead
from attune.service.usecases.decision_record import DecisionRecord, RecordUnreadable, digest_of, unpack
from attune.service.usecases.scoring import both, encode, submit


@dataclass(frozen=True, slots=True)
class PairById:
    """Two candidate ids; they may be of two decisions."""

    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class PairByText:
    """Two texts with their prompt, or with the decision that knows it (and then prompt and context may be None)."""

    chosen: str
    rejected: str
    prompt: str | None
    context: str | None
    decision_id: str | None


@dataclass(frozen=True, slots=True)
class FoundPair:
    """Rows of both sides and of their prompt, with what the log keeps; texts are None where none are kept."""

    chosen: Row
    rejected: Row
    prompt: Row
    decisions: tuple[str, ...]
    members: tuple[str, str] | None
    prompt_text: str | None
    context: str | None
    chosen_text: str | None
    rejected_text: str | None

    @property
    def rows(self) -> tuple[Row, Row, Row]:
        """Of chosen, rejected and prompt, as the families take them."""
        return self.chosen, self.rejected, self.prompt


async def find_pair(call: Call, key: UserKey, named: PairById | PairByText) -> tuple[UserRead, FoundPair]:
    """Returns the user as they stood, and the pair.

    Raises:
        UnknownCandidate: an id that no decision of this tenant has.
        NotYourCandidate: its decision is another user's.
        ExpiredCandidate: its decision has gone, or is of another basis and its texts were not kept.
        UnknownDecision: likewise for `decision_id`.
        InvalidRequest: the candidates answer different prompts, or the texts another prompt than the decision.
        StoreUnavailable: the store is away; nothing was read.
    """
    return await (_by_ids(call, key, named) if isinstance(named, PairById) else _by_texts(call, key, named))


# --- by ids -------------------------------------------------------------------------------------------------------


async def _by_ids(call: Call, key: UserKey, named: PairById) -> tuple[UserRead, FoundPair]:
    (first, first_index), (second, second_index) = _split("chosen", named.chosen), _split("rejected", named.rejected)
    seen, records = await _read(call, key, {first: "chosen", second: "rejected"})
    left, right = records[first], records[second]
    for field, record, index in (("chosen", left, first_index), ("rejected", right, second_index)):
        if index >= len(record.candidates):
            raise UnknownCandidate(f"{field} is candidate {index} of a decision that has {len(record.candidates)} candidates so far")
    if left.prompt_digest != right.prompt_digest:
        raise invalid([FieldError("rejected", "answers another prompt than chosen; a comparison is of two answers to one prompt")])
    one, two = left.candidates[first_index], right.candidates[second_index]
    basis = call.serving.bundle.basis
    if left.basis == basis and right.basis == basis:
        rows = (one.outputs, two.outputs, left.prompt_outputs)
    elif left.prompt is not None and one.text is not None and two.text is not None:
        rows = await _scored(call, left.prompt, left.context, one.text, two.text)
    else:
        raise ExpiredCandidate(
            f"the candidates were made under basis {left.basis}, basis {basis} serves now, and no texts were kept; send them as texts"
        )
    decisions = tuple(dict.fromkeys((first, second)))
    return seen, FoundPair(*rows, decisions, (one.member, two.member), left.prompt, left.context, one.text, two.text)


def _split(field: str, candidate: str) -> tuple[str, int]:
    found = split_candidate(candidate)
    if found is None:
        raise UnknownCandidate(f"{field} is not a candidate id of this service: {printable(candidate, 64)!r}")
    return found


async def _read(call: Call, key: UserKey, wanted: Mapping[str, str]) -> tuple[UserRead, dict[str, DecisionRecord]]:
    """Returns the user and the records of `wanted` (decision id -> field that named it), all of them."""
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
        case "expired" | "live":  # live: it was written between the two reads, and what is not there yet was never given out
            ttl_s = call.runtime.keeping.decision_ttl_s
            return ExpiredCandidate(f"{field}: decision {decision_id} is older than {ttl_s:,.0f} s and has expired")
        case "unknown":
            kind = UnknownDecision if field == "decision_id" else UnknownCandidate
            return kind(f"{field}: no decision {decision_id} is known")


# --- by texts -----------------------------------------------------------------------------------------------------


async def _by_texts(call: Call, key: UserKey, named: PairByText) -> tuple[UserRead, FoundPair]:
    prompt, context, texts = named.prompt, named.context, (named.chosen, named.rejected)
    if named.decision_id is None:
        seen, rows = await both(call.runtime.store.read(key, call.kept_under), _scored(call, prompt or "", context, *texts))
        return seen, FoundPair(*rows, (), None, prompt, context, *texts)
    decision_id = as_decision_id(named.decision_id)
    if decision_id is None:
        raise UnknownDecision(f"decision_id is not one of this service: {printable(named.decision_id, 64)!r}")
    seen, records = await _read(call, key, {decision_id: "decision_id"})
    record = records[decision_id]
    if prompt is not None and digest_of(prompt) != record.prompt_digest:
        raise invalid([FieldError("prompt", "is another one than the decision was made for; leave it out or send the same")])
    prompt = record.prompt if prompt is None else prompt
    if prompt is None:
        raise invalid([FieldError("prompt", "is missing, and this deployment keeps no texts; send the prompt of the decision again")])
    context = record.context if context is None else context
    rows = await _scored(call, prompt, context, *texts)
    return seen, FoundPair(*rows, (decision_id,), None, prompt, context, *texts)


async def _scored(call: Call, prompt: str, context: str | None, chosen: str, rejected: str) -> tuple[Row, Row, Row]:
    fields = ("chosen_text", "rejected_text")
    encoded = await encode(call, prompt, [chosen, rejected], context=context, with_prompt=True, fields=fields)
    first, second, row = await submit(call, encoded)
    return first, second, row
