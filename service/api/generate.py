"""`POST /generate`: answers from the members that suit the user, as JSON or as server-sent events.

Events of a stream: `decision` (the body of `/route`), `token` (`{index, member, text}`), then `done` (the whole answer) or `error`
(a problem document). Comments keep a silent connection open.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from fastapi import APIRouter, Request
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import Response

from attune.service.api.answers import GenerateAnswer, also, json_response, problems, to_json
from attune.service.api.checks import check_generate
from attune.service.api.wire import GenerateRequest
from attune.service.http.problems import document
from attune.service.http.streaming import EventStream, failed_in_stream
from attune.service.live.runtime import Call
from attune.service.members.member import GenerationRequest, Message
from attune.service.usecases.deciding import Decision, decide, route_answer
from attune.service.usecases.generating import Piece, Ping, answer_of, generate

router = APIRouter()
_STREAM = also("text/event-stream", "JSON, or events with `stream: true`")


@router.post("/generate", response_model=GenerateAnswer, responses=_STREAM | problems(404, 413, 502), summary="Generate for a user")
async def generate_answers(body: GenerateRequest, request: Request) -> Response:
    """Generates one or more answers by the members that suit this user; `stream: true` answers with server-sent events.

    Several candidates come from different members, unless `member` names one, which then writes them all.
    """
    call: Call = request.state.call
    bundle = call.serving.bundle
    check_generate(body, call.runtime.limits, bundle.families, bundle.portfolio.names)
    decision = await decide(call, body, body.user)
    events = generate(call, decision, asked(body))
    if not body.stream:
        return json_response(await answer_of(events))
    call.headers["x-attune-member"] = decision.record.routing.members[0]
    return EventStream(_as_events(call, decision, events))


def asked(body: GenerateRequest) -> GenerationRequest:
    """Returns what the members are asked to write."""
    messages = tuple(Message(turn.role, turn.content) for turn in body.messages or ()) or (Message("user", body.prompt or ""),)
    return GenerationRequest(messages, body.max_tokens, body.temperature, body.top_p, tuple(body.stop), body.seed)


async def _as_events(
    call: Call, decision: Decision, events: AsyncGenerator[Piece | Ping | GenerateAnswer, None]
) -> AsyncGenerator[bytes, None]:
    yield _event("decision", to_json(route_answer(decision)))
    try:
        async with aclosing(events):
            async for event in events:
                yield _rendered(event)
    except Exception as error:  # noqa: BLE001  the status is sent already: what went wrong is the last event
        yield _event("error", orjson.dumps(document(failed_in_stream(call, error), call.request_id)))


def _rendered(event: Piece | Ping | GenerateAnswer) -> bytes:
    match event:
        case Piece():
            return _event("token", orjson.dumps({"index": event.index, "member": event.member, "text": event.text}))
        case Ping():
            return KEEPALIVE_COMMENT
        case GenerateAnswer():
            return _event("done", to_json(event))


def _event(name: str, data: bytes) -> bytes:
    return format_sse_event(event=name, data_str=data.decode())
