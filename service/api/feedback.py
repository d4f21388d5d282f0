"""`POST /feedback`, and `/feedback/batch` for many lines of it: which answers a user liked.

    body ─> feedback_body.told_by ─> usecases.learning.learn ─> answer

A batch is the same for each line: what goes wrong with one is its line of the result, and the others are learned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Request
from pydantic import ValidationError
from starlette.responses import Response

from attune.service.api.answer_json import UserSeen, also, json_response, problems, to_json
from attune.service.api.feedback_body import FeedbackRequest, judged_texts, told_by
from attune.service.errors import (
    AttuneError,
    CallerError,
    ComeBackLater,
    EventConflict,
    ExpiredCandidate,
    FieldError,
    InvalidRequest,
    StoreUnavailable,
    TooLarge,
    UnknownCandidate,
    UnknownDecision,
    invalid,
)
from attune.service.http.documentation import operation_name
from attune.service.http.heads import as_written
from attune.service.http.problems import document, invalid_fields
from attune.service.http.shortcut import refuse_names_twice
from attune.service.http.streaming import problem_in_stream
from attune.service.live.runtime import Call, TextReading
from attune.service.observe.metrics import FeedbackResult
from attune.service.usecases.learning import learn
from attune.service.usecases.reading_ahead import read_ahead

router = APIRouter(tags=["users"], generate_unique_id_function=operation_name)

MOST_LINES = 1000
"""Lines in one batch."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""With which some editors begin a file."""

TOGETHER = 8
"""Lines of a batch that are learned side by side, of different users: while one is written another is reckoned."""

AHEAD = 64
"""Lines whose texts are scored together, while the same number before them is learned."""

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


@dataclass(frozen=True, slots=True)
class FeedbackAnswer:
    """Answer of `POST /feedback`; `agreement` tells who predicted it, and is empty where no order was told and where candidates expired.

    `truncated_tokens` of the texts were not read.

    Attributes:
        event_id: the event's name, with which it can be taken back
        result: `applied`, or `duplicate` where the same event had been learned before
        user: who it was learned for, with the new number of comparisons
        agreement: for each family, whether it had predicted the order before it learned it
        weights: the user's weight of each of the serving family's heads now; shares that sum to 1, or any numbers (kind `attributes`)
        truncated_tokens: tokens of the texts that the scorer had no room for; missing if it read all
        unknown_tokens: tokens of the texts that the trunk's vocabulary does not know; a comparison of such texts teaches little
    """

    event_id: str
    result: Literal["applied", "duplicate"]
    user: UserSeen
    agreement: dict[str, bool]
    weights: dict[str, float]
    truncated_tokens: int | None = None
    unknown_tokens: int | None = None


@router.post(
    "/feedback", response_model=FeedbackAnswer, responses=problems(403, 404, 409, 410, 413), summary="Learn which answer a user liked"
)
async def feedback(
    body: FeedbackRequest,
    request: Request,
    idempotency_key: Annotated[str | None, Header(description="the event id, if the body has none")] = None,
) -> Response:
    """Learns one piece of feedback, once per event id: a pair, a rating of one answer, a ranking, or what the user kept."""
    return json_response(await _applied(request.state.call, body, idempotency_key and as_written(idempotency_key)))


async def _applied(call: Call, body: FeedbackRequest, header: str | None) -> FeedbackAnswer:
    try:
        call.reading.truncate = body.truncate
        told = told_by(body, header, call.runtime.limits, call.runtime.clock())
        learned = await learn(call, told)
    except AttuneError as error:
        call.runtime.metrics.compared(next(result for kind, result in _RESULTS if isinstance(error, kind)))
        raise
    call.runtime.metrics.compared(learned.result)
    seen = UserSeen(learned.person.id, learned.person.comparisons)
    cut, unknown = call.reading.truncated_tokens or None, call.reading.unknown_tokens or None
    return FeedbackAnswer(told.event_id, learned.result, seen, dict(learned.agreement), dict(learned.weights), cut, unknown)


# --- many at once -------------------------------------------------------------------------------------------------

_LINES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"a body of `POST /feedback` a line, at most {MOST_LINES:,} lines",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}


@router.post(
    "/feedback/batch",
    responses=also("application/x-ndjson", "JSON lines, an answer or a problem for each line, in order") | problems(413),
    response_class=Response,
    openapi_extra=_LINES,
    summary="Learn many pieces of feedback",
)
async def feedback_batch(request: Request) -> Response:
    """Learns a piece of feedback a line; the answer has a line for each, in order: its answer, or its problem document.

    Lines of one user are learned in their order. A line that fails holds up no other; the same batch may be sent again where every line
    has an event id.
    """
    call: Call = request.state.call
    lines = [line for line in (await request.body()).removeprefix(BYTE_ORDER_MARK).splitlines() if line.strip()]
    if not lines:
        raise invalid([FieldError("body", "has no lines; send a body of `POST /feedback` a line")])
    if len(lines) > MOST_LINES:
        raise TooLarge(f"body has {len(lines):,} lines; the limit is {MOST_LINES:,}")
    results: list[bytes] = [b""] * len(lines)
    bodies: dict[int, FeedbackRequest] = {}
    for number, line in enumerate(lines):
        try:
            bodies[number] = _body_of(line)
        except InvalidRequest as error:
            call.runtime.metrics.compared("refused")
            results[number] = to_json(document(error, call.request_id, call.runtime.root_path))
    read = list(bodies)
    parts = [read[start : start + AHEAD] for start in range(0, len(read), AHEAD)]

    def score(part: list[int]) -> asyncio.Task[None]:
        told = [judged_texts(bodies[number], call.runtime.limits) for number in part]
        return asyncio.create_task(read_ahead(call, [each for each in told if each is not None]))

    scored = score(parts[0]) if parts else None
    try:
        for place, part in enumerate(parts, 1):
            if scored is not None:
                await scored
            scored = score(parts[place]) if place < len(parts) else None
            await _learn_part(call, {number: bodies[number] for number in part}, results)
    finally:
        if scored is not None:
            scored.cancel()
    return Response(b"".join(result + b"\n" for result in results), media_type="application/x-ndjson")


async def _learn_part(call: Call, bodies: Mapping[int, FeedbackRequest], results: list[bytes]) -> None:
    """Learns lines by their numbers and puts their results in place; those of one user in order."""
    together = asyncio.Semaphore(TOGETHER)
    turns: dict[str, list[int]] = {}
    for number, body in bodies.items():
        turns.setdefault(body.user, []).append(number)

    async def learn_in_turn(numbers: list[int]) -> None:
        async with together:
            for number in numbers:
                results[number] = await _result(call, bodies[number])

    async with asyncio.TaskGroup() as group:
        for numbers in turns.values():
            group.create_task(learn_in_turn(numbers))


def _body_of(line: bytes) -> FeedbackRequest:
    """Returns the body in a line.

    Raises:
        InvalidRequest: it is no JSON, or its fields are wrong.
    """
    try:
        read = orjson.loads(line)
        body = FeedbackRequest.model_validate(read)
    except orjson.JSONDecodeError as error:
        raise invalid([FieldError("body", f"is not JSON: {error.msg} at character {error.pos}")]) from None
    except ValidationError as error:
        raise invalid_fields(error.errors()) from None
    refuse_names_twice(line, read)
    return body


async def _result(call: Call, body: FeedbackRequest) -> bytes:
    """Returns the line of the result for one body."""
    try:
        return to_json(await _applied(replace(call, reading=TextReading()), body, None))
    except Exception as error:  # noqa: BLE001  the others are learned: what is wrong with one line is told in its place
        return to_json(problem_in_stream(call, error))
