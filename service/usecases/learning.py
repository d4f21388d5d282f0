"""One piece of feedback, learned once: found by ids or scored from texts, predicted by every family, and added to the user's sum.

    ids ─> decision records ┐
    texts ─> scorer ────────┴─> rows of answers and prompt ─> weighted comparisons ─> predict ─> evidence ─> one atomic add

The prediction uses the sum as it stood before (prequential), and so do the two losses that say how far a user is trusted; all
other evidence uses nothing but the feedback, and for one answer alone what the members give. The add runs to its end even if the
caller leaves. What went wrong is raised; nothing is ever answered as applied that is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.weighted import Compared, agrees, tells_order
from attune.service.errors import EventConflict, ExpiredCandidate, NotYourCandidate, ScorerFailed, UnknownCandidate, UnknownDecision
from attune.service.live.runtime import Call
from attune.service.state.store import Added, NewComparison, UserKey, UserSum
from attune.service.usecases.authors import Everyone, add_for_everybody, for_everybody, take_back_for_everybody, told_everybody
from attune.service.usecases.forms_of_feedback import (
    Form,
    PayloadUnreadable,
    comparisons_of,
    content_of,
    pack_payload,
    read_payload,
)
from attune.service.usecases.named_answers import FoundAnswers, Named, find_answers
from attune.service.usecases.people import Person, key_of, person, weights_under

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Told:
    """What somebody said about answers.

    Attributes:
        event_id: whatever comes under it again is the same event.
        digest: 16 bytes, equal for two tellings that say the same.
        observed_s: Unix seconds, not in the future.
        named: the answers, in the order that `form` gives a meaning to.
    """

    user: str
    event_id: str
    digest: bytes
    observed_s: float
    named: Named
    form: Form


@dataclass(frozen=True, slots=True)
class Learned:
    """What it changed: the person afterwards with their weights, and who had predicted it (nobody where no order was told)."""

    result: Literal["applied", "duplicate"]
    person: Person
    weights: Mapping[str, float]
    agreement: Mapping[str, bool]


async def learn(call: Call, told: Told) -> Learned:
    """Returns what one piece of feedback changed.

    Raises:
        InvalidRequest: the candidates are of different prompts, the texts of another prompt than the decision, or one answer alone was
            graded where there are no members.
        UnknownCandidate, NotYourCandidate, ExpiredCandidate, UnknownDecision: see `named_answers.find_answers`; never for the repeat of
            an event that was applied.
        EventConflict: the event id was used with another body; nothing was applied.
        UserDeleted: the user was deleted since this began, or since the event was first sent; nothing was applied.
        UserMerged: the user was merged into another one since this began; nothing was applied.
        ScorerFailed: the scorer gave numbers that are not finite; nothing was applied.
        StoreUnavailable: it may or may not be applied; sending it again with the same event id is safe.
    """
    key = key_of(call, told.user)
    try:
        seen, found = await find_answers(call, key, told.named)
    except (ExpiredCandidate, NotYourCandidate, UnknownCandidate, UnknownDecision):
        # A repeat may come when its decisions have gone, by their age or to the user into whom this one was merged: what was applied is
        # known for longer than what it was applied from.
        known, total = await _repeated(call, key, told)
        if not known:
            raise
        return _learned(call, told, key, "duplicate", total, {})

    comparisons = await comparisons_of(call, told.form, found.rows, found.prompt, (found.prompt_text, found.context), found.members)
    before = person(call, told.user, key, seen.sum).evidence
    studied, everyone = study(call, before, comparisons), await for_everybody(call, before, comparisons)

    vector, epoch = call.runtime.decay.stamp(studied.evidence, told.observed_s)
    payload = _payload(call, told, found, comparisons, studied, everyone)
    comparison = NewComparison(told.event_id, told.digest, call.kept_under, epoch, told.observed_s, vector, payload)

    async def add_and_tell() -> Added:
        added = await call.runtime.store.add_comparison(key, comparison, era=seen.era)
        if added.result == "applied":
            _measure(call, studied)
            add_for_everybody(call, key.tenant, everyone, studied.evidence)
        return added

    with call.timings.measure("redis"):
        added = await call.runtime.finish(add_and_tell())
    return _learned(call, told, key, added.result, added.sum, studied.agreement)


async def take_back(call: Call, user: str, event_id: str) -> Person:
    """Returns the person after one comparison was subtracted, exactly; its event id stays used.

    Raises:
        UnknownEvent: there is no such event, or it was taken back before; nothing changed.
        ExpiredEvent: it was learned, and its log entry has gone; nothing changed.
    """
    key, store = key_of(call, user), call.runtime.store

    async def take_back_of_all() -> UserSum | None:
        logged = None if call.serving.bundle.families.effects is None else await store.logged(key, event_id, call.kept_under)
        total = await store.take_back(key, call.kept_under, event_id)
        if logged is not None:
            with suppress(PayloadUnreadable):  # of the user it is taken back; what it told everybody was in what is damaged
                take_back_for_everybody(call, key.tenant, logged, read_payload(logged.payload))
        return total

    with call.timings.measure("redis"):
        total = await call.runtime.finish(take_back_of_all())
    call.runtime.metrics.compared("taken-back")
    return person(call, user, key, total)


@dataclass(frozen=True, slots=True)
class Studied:
    """What feedback is worth before it is added.

    Attributes:
        evidence: `[E]`, what it adds to the user's sum.
        predicted: by family, the probability that it had given to what was told; of several comparisons their weighted geometric mean.
        agreement: by family, whether it had predicted most of it; empty where no order was told.
    """

    evidence: Array
    predicted: Mapping[str, float]
    agreement: Mapping[str, bool]


def study(call: Call, known: Array, comparisons: Sequence[Compared]) -> Studied:
    """Returns how each family predicted what was told together, and what it adds to the user's sum.

    Args:
        call: the request.
        known: `[E]`, the user's sum as it stood, read as of now.
        comparisons: one or more.

    Raises:
        ScorerFailed: a row is not finite.
    """
    try:
        evidence, told = call.serving.bundle.families.study_all(known, comparisons)
    except ValueError as error:
        raise ScorerFailed("the scorer gave numbers that are not finite for these answers; nothing was learned") from error
    if len(comparisons) == 1:
        predicted = {name: each[0] for name, each in told.items()}
    else:
        weights = np.array([one.weight for one in comparisons])
        with np.errstate(divide="ignore"):  # a probability of 0 has an infinite loss
            predicted = {name: float(np.exp(weights @ np.log(each) / weights.sum())) for name, each in told.items()}
    # A sum has at least one number, and families that learn nothing (the global head alone) have none.
    return Studied(
        evidence if evidence.size else np.zeros(1),
        predicted,
        {name: agrees(comparisons, each) for name, each in told.items()} if tells_order(comparisons) else {},
    )


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


def _measure(call: Call, studied: Studied) -> None:
    for family in (call.serving.family, *call.serving.shadows):
        if family in studied.agreement:
            probability = studied.predicted[family]
            log_loss = -math.log(probability) if probability > 0 else math.inf
            call.runtime.metrics.predicted(family, agreed=studied.agreement[family], log_loss_nats=log_loss)


def _payload(
    call: Call, told: Told, found: FoundAnswers, comparisons: Sequence[Compared], studied: Studied, everyone: Everyone | None
) -> bytes:
    """Returns what export and a later replay need of the feedback; without its texts if they are too long to keep."""
    predicted = {family: round(probability, 4) for family, probability in studied.predicted.items()}
    for texts in (True, False) if call.runtime.keeping.keep_text else (False,):
        content = content_of(told.form, told.named, found, comparisons, texts=texts)
        shared = {} if everyone is None else told_everybody(everyone)
        payload = pack_payload({**content, **shared, "predicted": predicted})
        if len(payload) <= call.runtime.bounds.max_payload_bytes:
            return payload
    return b""
