"""One comparison: found by ids or scored from texts, predicted by every family, learned, and added to the user's sum once.

    ids ─> decision records ┐
    texts ─> scorer ────────┴─> rows of chosen, rejected, prompt ─> predict ─> learn ─> stamp ─> one atomic add

The prediction uses the sum as it stood before (prequential); the evidence uses nothing but the comparison. The add runs to its end even if
the caller leaves. What went wrong is raised; nothing is ever answered as applied that is not.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import orjson
from numpy.typing import NDArray

from attune.models.seam.family import Row
from attune.service.api.answers import FeedbackAnswer
from attune.service.api.wire import FeedbackRequest
from attune.service.errors import EventConflict, ExpiredCandidate, FieldError, ScorerFailed, UnknownCandidate, UnknownDecision
from attune.service.http.problems import invalid
from attune.service.ids import new_id
from attune.service.live.runtime import Call
from attune.service.state.records import checked_event_id
from attune.service.state.store import Added, Comparison
from attune.service.usecases.comparing import Pair, find_pair
from attune.service.usecases.people import Person, key_of, person, weights_by_head

Array = NDArray[np.float64]

CLOCK_SKEW_S = 60.0
"""Clocks of clients differ from ours by this much before an observation is said to lie in the future."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What every family thought of the comparison before it was learned: the probability of the choice that was made."""

    chosen: Mapping[str, float]

    @property
    def agreement(self) -> dict[str, bool]:
        return {family: probability > 0.5 for family, probability in self.chosen.items()}


async def learn(call: Call, request: FeedbackRequest, header_event_id: str | None) -> FeedbackAnswer:
    """Returns what one comparison changed.

    Raises:
        InvalidRequest: see `checks.check_feedback`; also an `observed_at` in the future, and candidates of different prompts.
        UnknownCandidate, NotYourCandidate, ExpiredCandidate, UnknownDecision: see `comparing.find_pair`; never for the repeat of an
            event that was applied.
        EventConflict: the event id was used with another body; nothing was applied.
        StoreUnavailable: it may or may not be applied; sending it again with the same event id is safe.
    """
    event_id = _event_id(request, header_event_id)
    observed_s = _observed_s(call, request)
    try:
        total, pair = await find_pair(call, request)
    except (ExpiredCandidate, UnknownCandidate, UnknownDecision):
        # A repeat may come when its decisions have gone: what was applied is known for longer than what it was applied from.
        repeated = await _repeated(call, request, event_id)
        if repeated is None:
            raise
        return repeated
    before = person(call, request.user, total)
    prediction, evidence = _studied(call, before, pair, tie=request.tie)
    vector, epoch = call.runtime.decay.stamp(evidence, observed_s)
    comparison = Comparison(
        event_id, digest(request), call.kept_under, epoch, observed_s, vector, _payload(call, request, pair, prediction)
    )
    with call.timings.measure("redis"):
        added: Added = await call.runtime.finish(call.runtime.store.add_comparison(key_of(call, request.user), comparison))
    if added.result == "applied" and not request.tie:
        _measure(call, prediction)
    return _answer(call, request, event_id, added, {} if request.tie else prediction.agreement)


def digest(request: FeedbackRequest) -> bytes:
    """Returns 16 bytes that are equal for two bodies that say the same; the event id is the key and no part of it."""
    body = orjson.dumps(request.model_dump(mode="json", exclude={"event_id"}), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(body, digest_size=16).digest()


def evidence_of(call: Call, rows: tuple[Row, Row, Row], *, tie: bool) -> Array:
    """Returns what a comparison adds to the user's sum, `[E]`, from the rows of chosen, rejected and prompt.

    Raises:
        ScorerFailed: a row is not finite.
    """
    try:
        evidence = call.serving.bundle.families.learn(*rows, tie=tie)
    except ValueError as error:
        raise ScorerFailed("the scorer gave numbers that are not finite for this pair; nothing was learned") from error
    # A sum has at least one number, and families that learn nothing (the global head alone) have none.
    return evidence if evidence.size else np.zeros(1)


def read_payload(payload: bytes) -> dict[str, object]:
    """Returns what was kept beside a comparison's evidence."""
    found: dict[str, object] = orjson.loads(zlib.decompress(payload)) if payload else {}
    return found


async def _repeated(call: Call, request: FeedbackRequest, event_id: str) -> FeedbackAnswer | None:
    """Returns the answer to the repeat of an event that was applied; None if it was not.

    Raises:
        EventConflict: it was applied with another body, or taken back since.
    """
    store, key = call.runtime.store, key_of(call, request.user)
    with call.timings.measure("redis"):
        known = await store.find_event(key, event_id)
        if known is None:
            return None
        if known.taken_back or known.digest != digest(request):
            happened = "was taken back; a new comparison needs a new event id" if known.taken_back else "was used before with another body"
            raise EventConflict(f"event {event_id!r} {happened}")
        total = await store.read_user(key, call.kept_under)
    return _answer(call, request, event_id, Added("duplicate", total), {})


def _answer(call: Call, request: FeedbackRequest, event_id: str, added: Added, agreement: dict[str, bool]) -> FeedbackAnswer:
    after = person(call, request.user, added.sum)
    families, name = call.serving.bundle.families, call.serving.family
    return FeedbackAnswer(event_id, added.result, after.seen, agreement, weights_by_head(families, name, after.evidence))


def _event_id(request: FeedbackRequest, header: str | None) -> str:
    given = request.event_id if request.event_id is not None else header
    if given is None:
        return new_id()
    try:
        return checked_event_id(given)
    except ValueError as error:
        field = "event_id" if request.event_id is not None else "Idempotency-Key"
        raise invalid([FieldError(field, str(error).removeprefix("event id "))]) from None


def _observed_s(call: Call, request: FeedbackRequest) -> float:
    now_s = call.runtime.clock()
    if request.observed_at is None:
        return now_s
    observed_s = request.observed_at.timestamp()
    if observed_s > now_s + CLOCK_SKEW_S:
        raise invalid(
            [FieldError("observed_at", f"is {observed_s - now_s:,.0f} s in the future; at most {CLOCK_SKEW_S:.0f} s are let through")]
        )
    return min(observed_s, now_s)


def _studied(call: Call, before: Person, pair: Pair, *, tie: bool) -> tuple[Prediction, Array]:
    rows: tuple[Row, Row, Row] = (pair.chosen, pair.rejected, pair.prompt)
    evidence = evidence_of(call, rows, tie=tie)
    return Prediction(call.serving.bundle.families.predict(before.evidence, *rows)), evidence


def _measure(call: Call, prediction: Prediction) -> None:
    for family in (call.serving.family, *call.serving.shadows):
        probability = prediction.chosen[family]
        log_loss = -math.log(probability) if probability > 0 else math.inf
        call.runtime.metrics.predicted(family, agreed=probability > 0.5, log_loss_nats=log_loss)


def _payload(call: Call, request: FeedbackRequest, pair: Pair, prediction: Prediction) -> bytes:
    """Returns what export and a later replay need of the comparison; without its texts if they are too long to keep."""
    kept = pair if call.runtime.keep_text else replace(pair, prompt_text=None, context=None, chosen_text=None, rejected_text=None)
    for candidate in (kept, replace(kept, prompt_text=None, context=None, chosen_text=None, rejected_text=None)):
        content = {
            "chosen": request.chosen,
            "rejected": request.rejected,
            "decisions": candidate.decisions,
            "members": candidate.members,
            "tie": request.tie,
            "prompt": candidate.prompt_text,
            "context": candidate.context,
            "chosen_text": candidate.chosen_text,
            "rejected_text": candidate.rejected_text,
            "predicted": {family: round(probability, 6) for family, probability in prediction.chosen.items()},
        }
        payload = zlib.compress(orjson.dumps(content))
        if len(payload) <= call.runtime.limits.max_payload_bytes:
            return payload
    return b""
