"""`POST /feedback`: which of two answers a user liked."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from attune.service.api.answers import FeedbackAnswer, json_response, problems
from attune.service.api.checks import check_feedback
from attune.service.api.wire import FeedbackRequest
from attune.service.errors import AttuneError
from attune.service.live.runtime import Call
from attune.service.observe.metrics import FeedbackResult
from attune.service.usecases.learning import learn

router = APIRouter()
_RESULTS: dict[str, FeedbackResult] = {
    "event-conflict": "conflict",
    "unknown-candidate": "unknown",
    "unknown-decision": "unknown",
    "expired-candidate": "expired",
    "store-unavailable": "unavailable",
}


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
        check_feedback(body, call.runtime.limits, idempotency_key)
        answer = await learn(call, body, idempotency_key)
    except AttuneError as error:
        call.runtime.metrics.compared(_RESULTS.get(error.code, "refused"))
        raise
    call.runtime.metrics.compared(answer.result)
    return json_response(answer)
