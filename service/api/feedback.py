"""`POST /feedback`: which of two answers a user liked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Header, Request
from pydantic import AwareDatetime, Field
from starlette.responses import Response

from attune.service.api.answers import UserSeen, json_response, problems
from attune.service.api.prompted import Context, Id, Prompted, User, Written, check_length, check_prompt_length, refuse, wrong_prompt
from attune.service.errors import (
    AttuneError,
    CallerError,
    ComeBackLater,
    EventConflict,
    ExpiredCandidate,
    FieldError,
    StoreUnavailable,
    UnknownCandidate,
    UnknownDecision,
)
from attune.service.ids import new_id, split_candidate
from attune.service.live.runtime import Call, RequestLimits
from attune.service.observe.metrics import FeedbackResult
from attune.service.state.records import checked_event_id
from attune.service.usecases.learning import Told, learn
from attune.service.usecases.pairs import PairById, PairByText

router = APIRouter()
CLOCK_SKEW_S = 60.0
"""Clocks of clients differ from ours by this much before an observation is said to lie in the future."""

_RESULTS: tuple[tuple[type[AttuneError], FeedbackResult], ...] = (
    (EventConflict, "conflict"),
    (UnknownCandidate, "unknown"),
    (UnknownDecision, "unknown"),
    (ExpiredCandidate, "expired"),
    (StoreUnavailable, "unavailable"),
    (CallerError, "refused"),
    (ComeBackLater, "overloaded"),
    (AttuneError, "failed"),
)
"""The first kind that fits; only what the caller has to change is a refusal."""


class FeedbackRequest(Prompted):
    """Body of `POST /feedback`: a pair of candidate ids, or two texts with their prompt."""

    user: User
    chosen: Id | None = None
    rejected: Id | None = None
    chosen_text: Written | None = None
    rejected_text: Written | None = None
    decision_id: Id | None = None
    context: Context | None = None
    tie: bool = False
    event_id: Id | None = None
    observed_at: Annotated[AwareDatetime, Field(strict=False)] | None = None


@dataclass(frozen=True, slots=True)
class FeedbackAnswer:
    """Answer of `POST /feedback`; `agreement` tells who predicted the choice, and is empty for ties and where candidates expired.

    `truncated_tokens` of the texts were not read.
    """

    event_id: str
    result: Literal["applied", "duplicate"]
    user: UserSeen
    agreement: dict[str, bool]
    weights: dict[str, float]
    truncated_tokens: int | None = None


@router.post(
    "/feedback", response_model=FeedbackAnswer, responses=problems(403, 404, 409, 410, 413), summary="Learn which answer a user liked"
)
async def feedback(
    body: FeedbackRequest,
    request: Request,
    idempotency_key: Annotated[str | None, Header(description="the event id, if the body has none")] = None,
) -> Response:
    """Learns one comparison, once per event id: two candidate ids, or a prompt with two texts."""
    call: Call = request.state.call
    try:
        call.reading.truncate = body.truncate
        told = _told(body, idempotency_key, call.runtime.limits, call.runtime.clock())
        learned = await learn(call, told)
    except AttuneError as error:
        call.runtime.metrics.compared(next(result for kind, result in _RESULTS if isinstance(error, kind)))
        raise
    call.runtime.metrics.compared(learned.result)
    seen = UserSeen(learned.person.id, learned.person.comparisons)
    cut = call.reading.truncated_tokens or None
    return json_response(FeedbackAnswer(told.event_id, learned.result, seen, dict(learned.agreement), dict(learned.weights), cut))


def _told(body: FeedbackRequest, header: str | None, limits: RequestLimits, now_s: float) -> Told:
    """Returns what is said, in one of the two forms, whole.

    Raises:
        InvalidRequest: it is neither form, its two event ids differ, or it was observed in the future.
        TooLarge: a text is over its limit.
    """
    by_ids = body.chosen is not None or body.rejected is not None
    by_texts = body.chosen_text is not None or body.rejected_text is not None
    if by_ids and by_texts:
        wrong = [FieldError("chosen_text", "cannot stand beside candidate ids; send either two ids or two texts")]
    else:
        wrong = _wrong_texts(body) if by_texts else _wrong_ids(body)
    observed_s = now_s if body.observed_at is None else body.observed_at.timestamp()
    refuse(wrong + _wrong_event(body.event_id, header) + _wrong_time(observed_s - now_s))
    given = header if body.event_id is None else body.event_id
    told = Told(
        user=body.user,
        event_id=new_id() if given is None else given,
        digest=digest(body),
        observed_s=min(observed_s, now_s),
        pair=_pair_of(body),
        tie=body.tie,
    )
    if by_texts:
        check_prompt_length(body, limits)
        check_length("chosen_text", body.chosen_text or "", limits.max_response_chars)
        check_length("rejected_text", body.rejected_text or "", limits.max_response_chars)
    return told


def _pair_of(body: FeedbackRequest) -> PairById | PairByText:
    if body.chosen is not None and body.rejected is not None:
        return PairById(body.chosen, body.rejected)
    return PairByText(body.chosen_text or "", body.rejected_text or "", body.prompt_text, body.context, body.decision_id)


def digest(body: FeedbackRequest) -> bytes:
    """Returns 16 bytes that are equal for two bodies that say the same; neither the event id nor how texts are read is part of it."""
    content = orjson.dumps(body.model_dump(mode="json", exclude={"event_id", "truncate"}), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, digest_size=16).digest()


def _wrong_texts(body: FeedbackRequest) -> list[FieldError]:
    wrong = [
        FieldError(name, "is missing; feedback by texts needs both") for name in ("chosen_text", "rejected_text") if not getattr(body, name)
    ]
    if not wrong and body.chosen_text == body.rejected_text:
        wrong.append(FieldError("rejected_text", "equals chosen_text; a comparison needs two different answers"))
    if body.decision_id is None or body.prompt is not None or body.messages is not None:
        wrong += wrong_prompt(body)
    return wrong


def _wrong_ids(body: FeedbackRequest) -> list[FieldError]:
    wrong = [
        FieldError(name, "is missing; send `chosen` and `rejected` (candidate ids), or `prompt`, `chosen_text` and `rejected_text`")
        for name in ("chosen", "rejected")
        if getattr(body, name) is None
    ]
    wrong += [
        FieldError(name, "has no place beside candidate ids; the decision knows it")
        for name in ("prompt", "messages", "context")
        if getattr(body, name) is not None
    ]
    if wrong:
        return wrong
    if body.chosen == body.rejected:
        return [FieldError("rejected", "is the same candidate as chosen; a comparison needs two")]
    if body.decision_id is not None:
        pair = (split_candidate(body.chosen or ""), split_candidate(body.rejected or ""))
        if all(pair) and body.decision_id not in {split[0] for split in pair if split}:
            return [FieldError("decision_id", "is not the decision of either candidate")]
    return []


def _wrong_event(in_body: str | None, in_header: str | None) -> list[FieldError]:
    if in_body is not None and in_header is not None and in_header != in_body:
        return [FieldError("event_id", "differs from the Idempotency-Key header; send one of them, or the same in both")]
    given = in_header if in_body is None else in_body
    if given is None:
        return []
    try:
        checked_event_id(given)
    except ValueError as error:
        return [FieldError("Idempotency-Key" if in_body is None else "event_id", str(error).removeprefix("event id "))]
    return []


def _wrong_time(ahead_s: float) -> list[FieldError]:
    if ahead_s <= CLOCK_SKEW_S:
        return []
    return [FieldError("observed_at", f"is {ahead_s:,.0f} s in the future; at most {CLOCK_SKEW_S:.0f} s are let through")]
