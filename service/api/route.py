"""`POST /route`: the decision alone, for people who keep their gateway; `/feedback` may name it with texts later."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.service.api.answers import RouteAnswer, json_response, problems
from attune.service.api.checks import check_route
from attune.service.api.wire import RouteRequest
from attune.service.live.runtime import Call
from attune.service.usecases.deciding import decide, route_answer

router = APIRouter()


@router.post("/route", response_model=RouteAnswer, responses=problems(404, 413), summary="Choose a member without generating")
async def route(body: RouteRequest, request: Request) -> Response:
    """Draws members for this user and prompt and keeps the decision; nothing is generated."""
    call: Call = request.state.call
    bundle = call.serving.bundle
    check_route(body, call.runtime.limits, bundle.families, bundle.portfolio.names)
    decision = await decide(call, body, body.user)
    call.headers["x-attune-member"] = decision.record.routing.members[0]
    return json_response(route_answer(decision))
