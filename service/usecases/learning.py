"""One comparison, learned once: found by ids or scored from texts, predicted by every family, and added to the user's sum.

    ids ─> decision records ┐
    texts ─> scorer ────────┴─> rows of chosen, rejected, prompt ─> predict ─> evidence ─> one atomic add

The prediction uses the sum as it stood before (prequential), and so do the two losses that say how far a user is trusted; all
other evidence uses nothing but the comparison. The add runs to its end even if the caller leaves. What went wrong is raised;
nothing is ever answered as applied that is not.
"""

from __future__ import annotations

import math
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from attune.models.seam.family import Row
from attune.service.errors import EventConflict, ExpiredCandidate, ScorerFailed, UnknownCandidate, UnknownDecision
from attune.service.ids import candidate_id, split_candidate
from attune.service.live.runtime import Call
from attune.service.state.store import Comparison, UserKey, UserSum
from attune.service.usecases.pairs import FoundPair, PairById, PairByText, find_pair
from attune.service.usecases.people import Person, key_of, person, weights_under

Array = NDArray[np.float64]

PAYLOAD_WORDS = (
    b'"],"tie":true,"prompt":null,"context":null,"chosen_text":null,"rejected_text":null,"predicted":{"bradley_terry":0.'
    b'null,"rejected":null,"decisions":[],"members":null,"tie":false,"prompt":"","context":null,"chosen_text":"","rejected_text":"'
    b'{"chosen":"0123456789abcdef-019","rejected":"019","decisions":["019"],"members":["concise","detailed"],"tie":false,"prompt":null,'
    b'"context":null,"chosen_text":null,"rejected_text":null,"predicted":{"bradley_terry":0.5,"micro":0.5,"vrf":0.5,"attributes":0.5,'
    b'"sparse_moe":0.5,"additive":0.5,"sparserm":0.5}}'
)
"""What most payloads have in common: the compressor's dictionary, which is part of their format."""

CANDIDATES = 15
"""Two numbers below this fit a byte that is not zero; a decision with more candidates keeps its ids in words."""

_NO_IDS = b"\0"
_IDS = ("chosen", "rejected", "decisions")


@dataclass(frozen=True, slots=True)
class Told:
    """What somebody said about two answers.

    Attributes:
        event_id: whatever comes under it again is the same event.
        digest: 16 bytes, equal for two tellings that say the same.
        observed_s: Unix seconds, not in the future.
        tie: neither was better.
    """

    user: str
    event_id: str
    digest: bytes
    observed_s: float
    pair: PairById | PairByText
    tie: bool


@dataclass(frozen=True, slots=True)
class Learned:
    """What it changed: the person afterwards with their weights, and who had predicted the choice (nobody for ties and duplicates)."""

    result: Literal["applied", "duplicate"]
    person: Person
    weights: Mapping[str, float]
    agreement: Mapping[str, bool]


async def learn(call: Call, told: Told) -> Learned:
    """Returns what one comparison changed.

    Raises:
        InvalidRequest: the candidates are of different prompts, or the texts of another prompt than the decision.
        UnknownCandidate, NotYourCandidate, ExpiredCandidate, UnknownDecision: see `pairs.find_pair`; never for the repeat of an event
            that was applied.
        EventConflict: the event id was used with another body; nothing was applied.
        UserDeleted: the user was deleted since this began, or since the event was first sent; nothing was applied.
        ScorerFailed: the scorer gave numbers that are not finite; nothing was applied.
        StoreUnavailable: it may or may not be applied; sending it again with the same event id is safe.
    """
    key = key_of(call, told.user)
    try:
        seen, pair = await find_pair(call, key, told.pair)
    except (ExpiredCandidate, UnknownCandidate, UnknownDecision):
        # A repeat may come when its decisions have gone: what was applied is known for longer than what it was applied from.
        found, total = await _repeated(call, key, told)
        if not found:
            raise
        return _learned(call, told, key, "duplicate", total, {})

    predicted, evidence = study(call, person(call, told.user, key, seen.sum).evidence, pair.rows, tie=told.tie)

    vector, epoch = call.runtime.decay.stamp(evidence, told.observed_s)
    payload = _payload(call, told, pair, predicted)
    comparison = Comparison(told.event_id, told.digest, call.kept_under, epoch, told.observed_s, vector, payload)
    with call.timings.measure("redis"):
        added = await call.runtime.finish(call.runtime.store.add_comparison(key, comparison, era=seen.era))

    if added.result == "applied" and not told.tie:
        _measure(call, predicted)
    agreement = {} if told.tie else {family: probability > 0.5 for family, probability in predicted.items()}
    return _learned(call, told, key, added.result, added.sum, agreement)


async def take_back(call: Call, user: str, event_id: str) -> Person:
    """Returns the person after one comparison was subtracted, exactly; its event id stays used.

    Raises:
        UnknownEvent: there is no such event, or it was taken back before; nothing changed.
        ExpiredEvent: it was learned, and its log entry has gone; nothing changed.
    """
    key = key_of(call, user)
    with call.timings.measure("redis"):
        total = await call.runtime.finish(call.runtime.store.take_back(key, call.kept_under, event_id))
    call.runtime.metrics.compared("taken-back")
    return person(call, user, key, total)


def study(call: Call, known: Array, rows: tuple[Row, Row, Row], *, tie: bool) -> tuple[Mapping[str, float], Array]:
    """Returns how each family predicted a comparison from what was `known` `[E]`, and what it adds to the user's sum, `[E]`.

    Args:
        call: the request.
        known: the user's sum as it stood, read as of now.
        rows: outputs of chosen, rejected and prompt.
        tie: the user could not tell.

    Raises:
        ScorerFailed: a row is not finite.
    """
    try:
        evidence, predicted = call.serving.bundle.families.study(known, *rows, tie=tie)
    except ValueError as error:
        raise ScorerFailed("the scorer gave numbers that are not finite for this pair; nothing was learned") from error
    # A sum has at least one number, and families that learn nothing (the global head alone) have none.
    return predicted, evidence if evidence.size else np.zeros(1)


def pack_payload(content: Mapping[str, object]) -> bytes:
    """Returns what is kept beside a comparison's evidence, packed; `read_payload` is its inverse.

    Two candidates of one decision are 17 bytes before the rest, and a zero byte stands there for all other comparisons.
    """
    ids, rest = _packed_ids(content), dict(content)
    if ids != _NO_IDS:
        for name in _IDS:
            del rest[name]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=PAYLOAD_WORDS)
    return ids + packer.compress(orjson.dumps(rest)) + packer.flush()


def read_payload(payload: bytes) -> dict[str, object]:
    """Returns what was kept beside a comparison's evidence."""
    if not payload:
        return {}
    ids, packed = (payload[:17], payload[17:]) if payload[:1] != _NO_IDS else (b"", payload[1:])
    unpacked = zlib.decompressobj(-zlib.MAX_WBITS, zdict=PAYLOAD_WORDS)
    found: dict[str, object] = orjson.loads(unpacked.decompress(packed) + unpacked.flush())
    if not ids:
        return found
    decision = str(uuid.UUID(bytes=ids[1:]))
    first, second = divmod(ids[0] - 1, CANDIDATES)
    return _named(decision, first, second) | found


def _named(decision: str, first: int, second: int) -> dict[str, object]:
    return {"chosen": candidate_id(decision, first), "rejected": candidate_id(decision, second), "decisions": [decision]}


def _packed_ids(content: Mapping[str, object]) -> bytes:
    """Returns both candidates' numbers in a byte and their decision in sixteen; a zero byte where they are not of one decision."""
    chosen, rejected = (split_candidate(str(content.get(name))) for name in ("chosen", "rejected"))
    if chosen is None or rejected is None or chosen[0] != rejected[0] or max(chosen[1], rejected[1]) >= CANDIDATES:
        return _NO_IDS
    if _named(*chosen, rejected[1]) != {**{name: content[name] for name in _IDS}, "decisions": list(cast("Any", content["decisions"]))}:
        return _NO_IDS  # in another spelling, which is kept as it came
    return bytes([1 + CANDIDATES * chosen[1] + rejected[1]]) + uuid.UUID(chosen[0]).bytes


async def _repeated(call: Call, key: UserKey, told: Told) -> tuple[bool, UserSum | None]:
    """Returns whether the event was applied before, and the sum as it is now.

    Raises:
        EventConflict: it was applied with another body, or taken back since.
    """
    with call.timings.measure("redis"):
        known = await call.runtime.store.find_event(key, told.event_id)
        if known is None:
            return False, None
        if known.taken_back or not known.is_of(told.digest):
            happened = "was taken back; a new comparison needs a new event id" if known.taken_back else "was used before with another body"
            raise EventConflict(f"event {told.event_id!r} {happened}")
        return True, (await call.runtime.store.read(key, call.kept_under)).sum


def _learned(
    call: Call,
    told: Told,
    key: UserKey,
    result: Literal["applied", "duplicate"],
    total: UserSum | None,
    agreement: Mapping[str, bool],
) -> Learned:
    after = person(call, told.user, key, total)
    return Learned(result, after, weights_under(call, call.serving.family, after), agreement)


def _measure(call: Call, predicted: Mapping[str, float]) -> None:
    for family in (call.serving.family, *call.serving.shadows):
        probability = predicted[family]
        log_loss = -math.log(probability) if probability > 0 else math.inf
        call.runtime.metrics.predicted(family, agreed=probability > 0.5, log_loss_nats=log_loss)


def _payload(call: Call, told: Told, pair: FoundPair, predicted: Mapping[str, float]) -> bytes:
    """Returns what export and a later replay need of the comparison; without its texts if they are too long to keep."""
    textless = replace(pair, prompt_text=None, context=None, chosen_text=None, rejected_text=None)
    by_id = told.pair if isinstance(told.pair, PairById) else None
    for kept in (pair, textless) if call.runtime.keeping.keep_text else (textless,):
        content = {
            "chosen": by_id and by_id.chosen,
            "rejected": by_id and by_id.rejected,
            "decisions": kept.decisions,
            "members": kept.members,
            "tie": told.tie,
            "prompt": kept.prompt_text,
            "context": kept.context,
            "chosen_text": kept.chosen_text,
            "rejected_text": kept.rejected_text,
            "predicted": {family: round(probability, 4) for family, probability in predicted.items()},
        }
        payload = pack_payload(content)
        if len(payload) <= call.runtime.bounds.max_payload_bytes:
            return payload
    return b""
