"""`POST /generate`: answers from the members that suit the user, as JSON or as server-sent events.

Events of a stream: `decision` (the body of `/route`), `token` (`{index, member, text}`), then `done` (the whole answer) or `error`
(a problem document). Comments keep a silent connection open. The status waits for the first piece or the first comment (`begun`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Annotated

import orjson
from fastapi import APIRouter, Request
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import AfterValidator, Field
from starlette.responses import Response

from attune.service.api.answer_json import UserSeen, also, json_response, problems, to_json
from attune.service.api.prompted import Message, refuse, sound_unicode
from attune.service.api.route import RouteRequest, RoutingAnswer, check_route, route_answer, routing_answer, wish_of
from attune.service.errors import FieldError
from attune.service.http.documentation import operation_name
from attune.service.http.streaming import EventStream, problem_in_stream
from attune.service.live.runtime import Call
from attune.service.members.member import ChatTurn, FinishReason, GenerationRequest
from attune.service.members.passing import Passed
from attune.service.usecases.member_answers import Generated, Piece, Ping, finished, generate
from attune.service.usecases.member_choice import Decision, decide
from attune.service.usecases.people import Personalization

router = APIRouter(tags=["users"], generate_unique_id_function=operation_name)
_STREAM = also("text/event-stream", "JSON, or events with `stream: true`")

MAX_STOPS = 8
MAX_STOP_CHARS = 64
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS), AfterValidator(sound_unicode)]


class GenerateRequest(RouteRequest):
    """Body of `POST /generate`; sampling that is not named is the member's own.

    Attributes:
        stream: true answers with server-sent events: `decision`, `token` for each piece of text, then `done` or `error`
        max_tokens: of each answer; at most `max_new_tokens` (a setting), which is also the default where it is lower
        temperature: of the member's sampling, 0 to 2; null is the member's own
        top_p: share of probability that the member samples from, above 0 and at most 1; null is the member's own
        stop: the answer ends before the first of these; at most 8, each of at most 64 characters
        seed: of the members that can be seeded; the draw of members does not depend on it
    """

    stream: bool = False
    max_tokens: Annotated[int, Field(ge=1)] = 128
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: Annotated[list[Stop], Field(max_length=MAX_STOPS)] = Field(default_factory=list)
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    score: Annotated[bool, Field(description="false answers without scores, and does not wait for them")] = True


@dataclass(frozen=True, slots=True)
class GenerationUsage:
    """Tokens read and written by the member, and those of the answer's end that the scorer had no room for.

    Attributes:
        prompt_tokens: tokens that the member read, as it counts them
        completion_tokens: tokens that the member wrote
        unscored_tokens: tokens at the end of the answer that the scorer had no room for; missing if it read all
    """

    prompt_tokens: int
    completion_tokens: int
    unscored_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class CandidateAnswer:
    """One generated answer; `candidate_id` is null if the decision could not be kept, and then feedback goes by texts.

    `score`, `std` and `rank` are null where the request asked for no scores.

    Attributes:
        candidate_id: names the answer for `/feedback`, for as long as decisions are kept (`decision_ttl_s`, a day by default)
        index: place of the candidate, from 0, as in the events of a stream
        member: the member that wrote it
        text: what it wrote
        score: its reward for this user, in logits
        std: standard deviation of the score over what is not yet known of the user
        rank: 1 for the candidate with the highest score
        finish_reason: `stop`: the member had finished, or met a stop text; `length`: it was cut at `max_tokens`; `content_filter`: its
            server's filter cut it; `tool_calls`: it waits for results of tools, which no native request offers
        usage: tokens read and written
    """

    SHOWN_IF_NONE = frozenset({"std"})

    candidate_id: str | None
    index: int
    member: str
    text: str
    score: float | None
    std: float | None
    rank: int | None
    finish_reason: FinishReason
    usage: GenerationUsage


@dataclass(frozen=True, slots=True)
class GenerateAnswer:
    """Answer of `POST /generate`, and the last event of a stream; `truncated_tokens` of the prompt's beginning were not read.

    Attributes:
        decision_id: names the decision for `/feedback` and `GET /decisions/{decision_id}`; null if it could not be kept
        bundle: the bundle that decided and scored
        family: the reward family that decided and scored
        personalization: `applied`: the user's own comparisons counted; `prior`: there are none yet; `unavailable`: the store
            did not answer in time, and the prior decided
        user: for whom it was generated
        candidates: the answers, in the order in which their members were drawn
        routing: how the members were chosen
        truncated_tokens: tokens at the beginning of the prompt that the scorer had no room for; missing if it read all
    """

    decision_id: str | None
    bundle: str
    family: str
    personalization: Personalization
    user: UserSeen
    candidates: list[CandidateAnswer]
    routing: RoutingAnswer
    truncated_tokens: int | None = None


Happened = Piece | Ping | Generated
Events = AsyncGenerator[Happened, None]


@router.post(
    "/generate", response_model=GenerateAnswer, responses=_STREAM | problems(400, 404, 409, 413, 502), summary="Generate for a user"
)
async def generate_answers(body: GenerateRequest, request: Request) -> Response:
    """Generates one or more answers by the members that suit this user; `stream: true` answers with server-sent events.

    Several candidates come from different members, unless `member` names one, which then writes them all.
    """
    call: Call = request.state.call
    decision, events = await begin(call, body, body.user)
    if not body.stream:
        return json_response(generate_answer(await finished(events)))
    first = await begun(call, decision, events)
    return EventStream(_as_events(call, decision, first, events), begun=events)


async def begin(
    call: Call,
    body: GenerateRequest,
    user: str | None,
    *,
    tells_cut: bool = True,
    turns: Sequence[Message] | None = None,
    passed: Passed | None = None,
    thinks_aloud: bool = False,
) -> tuple[Decision, Events]:
    """Returns the decision, written down, and the generation that carries it out; `user` is in place of the body's.

    `tells_cut`: see `RoutingWish`; `turns`: the conversation for the members, where the body has its end alone; `passed`: what is asked
    beyond text; `thinks_aloud`: see `GenerationRequest`.

    Raises:
        InvalidRequest, TooLarge, UnknownMember: the request is over a limit or names what is not there; nothing was decided.
    """
    limit = call.runtime.limits.max_new_tokens
    most = body.max_tokens if "max_tokens" in body.model_fields_set else min(body.max_tokens, limit)
    refuse([FieldError("max_tokens", f"is {most}; at most {limit} are generated")] if most > limit else [])
    check_route(body, call)
    # What is streamed names the decision at once; else one write after the generation is enough.
    decision = await decide(call, wish_of(body, user, at_once=body.stream, tells_cut=tells_cut))
    messages = tuple(ChatTurn(turn.role, turn.content) for turn in turns or body.messages or ()) or (ChatTurn("user", decision.prompt),)
    ask = GenerationRequest(
        messages,
        most,
        body.temperature,
        body.top_p,
        tuple(body.stop),
        body.seed,
        streamed=body.stream,
        thinks_aloud=thinks_aloud and body.stream,
        passed=passed,
    )
    return decision, generate(call, decision, ask, score=body.score)


async def begun(call: Call, decision: Decision, events: Events) -> Happened:
    """Returns the first of a stream's events, after which its status may be sent: what fails until then is answered as without a stream.

    A member that is silent for long enough to be pinged is waited for no more: proxies would end a connection without headers. The header
    `x-attune-member` then names who was drawn, as it does where another choice than the first begins.

    Raises:
        MemberFailed, MembersBusy, Overloaded, TooLarge, InvalidRequest, DeadlineExceeded: see `generate`; nothing was sent.
    """
    first = await anext(events)
    match first:
        case Piece(index=0):
            call.headers["x-attune-member"] = first.member
        case Piece() | Ping():
            call.headers["x-attune-member"] = decision.record.routing.members[0]
        case Generated():  # which has named its member itself
            pass
    return first


def generate_answer(generated: Generated) -> GenerateAnswer:
    """Returns the whole answer."""
    decision, record = generated.decision, generated.decision.record
    return GenerateAnswer(
        decision_id=decision.id,
        bundle=record.bundle,
        family=record.family,
        personalization=decision.person.personalization,
        user=UserSeen(decision.person.id, decision.person.comparisons),
        candidates=[
            CandidateAnswer(
                candidate_id=candidate.id,
                index=candidate.index,
                member=candidate.member,
                text=candidate.text,
                score=candidate.score,
                std=candidate.std,
                rank=candidate.rank,
                finish_reason=candidate.finish_reason,
                usage=GenerationUsage(candidate.prompt_tokens, candidate.completion_tokens, candidate.unscored_tokens or None),
            )
            for candidate in generated.candidates
        ],
        routing=routing_answer(record.routing, generated.candidates[0].member),
        truncated_tokens=decision.truncated_tokens or None,
    )


async def _as_events(call: Call, decision: Decision, first: Happened, events: Events) -> AsyncGenerator[bytes, None]:
    yield _event("decision", to_json(route_answer(decision)))
    try:
        yield _rendered(first)
        async for event in events:
            yield _rendered(event)
    except Exception as error:  # noqa: BLE001  the status is sent already: what went wrong is the last event
        yield _event("error", orjson.dumps(problem_in_stream(call, error)))


def _rendered(event: Happened) -> bytes:
    match event:
        case Piece():
            return _event("token", orjson.dumps({"index": event.index, "member": event.member, "text": event.text}))
        case Ping():
            return KEEPALIVE_COMMENT
        case Generated():
            return _event("done", to_json(generate_answer(event)))


def _event(name: str, data: bytes) -> bytes:
    return format_sse_event(event=name, data_str=data.decode())
