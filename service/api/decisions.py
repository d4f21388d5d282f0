"""`GET /decisions/{id}`: one decision as it is kept: the distribution, who was drawn, what was answered; without the scorer's outputs.

`POST /decisions/{id}/answers`: what members answered to a gateway that asked `/route`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from attune.models.seam.printable import printable
from attune.service.api.answer_json import json_response, problems, rfc3339
from attune.service.api.generate import GenerationUsage
from attune.service.api.prompted import NativeRequest, Prompted, User, Written, check_length, check_prompt_length, refuse
from attune.service.api.route import RoutingAnswer, routing_answer
from attune.service.errors import ExpiredCandidate, FieldError, UnknownDecision, UnknownMember
from attune.service.http.documentation import operation_name
from attune.service.http.segments import Segment
from attune.service.ids import as_decision_id, candidate_id
from attune.service.live.runtime import Call
from attune.service.usecases.attaching import GivenAnswer, attach
from attune.service.usecases.decision_record import DecisionRecord, RecordUnreadable, unpack
from attune.service.usecases.people import Personalization

router = APIRouter(tags=["users"], generate_unique_id_function=operation_name)


@dataclass(frozen=True, slots=True)
class DecisionCandidate:
    """One candidate of a decision; `text` is null where the deployment keeps no texts, and scores until it is scored.

    Attributes:
        candidate_id: names the answer for `/feedback`
        index: place of the candidate, from 0
        member: the member that wrote it
        text: what it wrote
        score: its reward for this user at that time, in logits
        std: standard deviation of the score at that time
        finish_reason: `stop`, `length`, `content_filter` or `tool_calls`
        usage: tokens read and written
    """

    SHOWN_IF_NONE = frozenset({"std"})

    candidate_id: str
    index: int
    member: str
    text: str | None
    score: float | None
    std: float | None
    finish_reason: str
    usage: GenerationUsage


@dataclass(frozen=True, slots=True)
class DecisionAnswer:
    """Answer of `GET /decisions/{id}`; `user_tag` is the user's pseudonym, `seed` draws the same members again.

    Attributes:
        decision_id: as asked for
        user_tag: a keyed hash in the place of the user's id, which is not kept
        made_at: RFC 3339 in UTC
        bundle: the bundle that decided
        basis: the basis under which its sums are kept; bundles of one basis share users
        family: the reward family that decided
        personalization: `applied`, `prior` or `unavailable`, as in the answer of that time
        comparisons: what was known of the user at that time
        prompt: null where the deployment keeps no texts
        context: of the request; null if it had none, or no texts are kept
        seed: 63 bits as text; with `samples` and the sums of that time it draws the same members again
        epsilon: share of decisions that were drawn evenly over the members, from 0 to 1
        samples: draws from the posterior behind the distribution
        routing: the distribution over the members, and the draw from it
        candidates: the answers; empty for a `/route`
    """

    SHOWN_IF_NONE = frozenset({"prompt"})

    decision_id: str
    user_tag: str
    made_at: str
    bundle: str
    basis: str
    family: str
    personalization: Personalization
    comparisons: int
    prompt: str | None
    context: str | None
    seed: str
    epsilon: float
    samples: int
    routing: RoutingAnswer
    candidates: list[DecisionCandidate]


@router.get(
    "/decisions/{decision_id:segment}", response_model=DecisionAnswer, responses=problems(404, 410), summary="One decision as it is kept"
)
async def get_decision(decision_id: Segment, request: Request) -> Response:
    """A decision with its distribution and its candidates."""
    call: Call = request.state.call
    known = as_decision_id(decision_id)
    if known is None:
        raise UnknownDecision(f"{printable(decision_id, 64)!r} is not a decision id of this service")
    with call.timings.measure("redis"):
        tag, content = await call.runtime.store.read_decision(call.caller.tenant, known)
    try:
        record = unpack(content)
    except RecordUnreadable as error:
        raise ExpiredCandidate(str(error)) from error
    return json_response(decision_answer(known, tag, record))


def decision_answer(decision_id: str, tag: str, record: DecisionRecord) -> DecisionAnswer:
    """Returns the wire's view of a decision record; `tag` is the pseudonym of its user."""
    served = record.candidates[0].member if record.candidates else None
    return DecisionAnswer(
        decision_id=decision_id,
        user_tag=tag,
        made_at=rfc3339(record.made_at_s) or "",
        bundle=record.bundle,
        basis=record.basis,
        family=record.family,
        personalization=cast("Personalization", record.personalization),
        comparisons=record.comparisons,
        prompt=record.prompt,
        context=record.context,
        seed=str(record.routing.seed),  # 63 bits: a JSON number would lose the last ones in many readers
        epsilon=record.routing.epsilon,
        samples=record.routing.samples,
        routing=routing_answer(record.routing, served),
        candidates=[
            DecisionCandidate(
                candidate_id=candidate_id(decision_id, index),
                index=index,
                member=candidate.member,
                text=candidate.text,
                score=candidate.score,
                std=candidate.std,
                finish_reason=candidate.finish_reason,
                usage=GenerationUsage(candidate.prompt_tokens, candidate.completion_tokens),
            )
            for index, candidate in enumerate(record.candidates)
        ],
    )


# --- answers of somebody's own gateway ----------------------------------------------------------------------------


class AnswerOfMember(NativeRequest):
    """What one member answered."""

    member: Annotated[str, Field(min_length=1, max_length=64, description="who answered, one of `GET /portfolio`")]
    text: Annotated[Written, Field(description="the whole answer")]


class AnswersRequest(Prompted):
    """Body of `POST /decisions/{id}/answers`; the prompt is needed where the deployment keeps no texts, and then must be the decision's."""

    user: User
    answers: Annotated[list[AnswerOfMember], Field(min_length=1, max_length=16, description="in the order of their candidate ids")]


@dataclass(frozen=True, slots=True)
class AnswersAnswer:
    """Answer of `POST /decisions/{id}/answers`: candidate ids for `/feedback`, in order.

    Attributes:
        decision_id: as in the path
        result: `duplicate` where the decision had these answers already
        candidates: the answers as they are kept, scored for the user
        routing: how members were drawn; `propensity` is null where another one answered
    """

    decision_id: str
    result: Literal["applied", "duplicate"]
    candidates: list[DecisionCandidate]
    routing: RoutingAnswer


@router.post(
    "/decisions/{decision_id:segment}/answers",
    response_model=AnswersAnswer,
    responses=problems(403, 404, 409, 410, 413),
    summary="Tell what members answered to your own gateway",
)
async def add_answers(decision_id: Segment, body: AnswersRequest, request: Request) -> Response:
    """Keeps the answers that a gateway got after `/route` with their decision: scored, and counted for the members who wrote them.

    Where another member answered than was drawn, the decision's propensity is null from then on. The same answers again change nothing.
    """
    call: Call = request.state.call
    limits, members = call.runtime.limits, call.serving.bundle.portfolio.names
    call.reading.truncate = body.truncate
    wrong = [FieldError("prompt", "and `messages` are both there; send one of them")] if body.prompt and body.messages else []
    if len(body.answers) > limits.max_generate_candidates:
        wrong.append(FieldError("answers", f"has {len(body.answers)} items; at most {limits.max_generate_candidates} are kept"))
    refuse(wrong)
    check_prompt_length(body, limits)
    for index, answer in enumerate(body.answers):
        check_length(f"answers[{index}].text", answer.text, limits.max_response_chars)
        if answer.member not in members:
            raise UnknownMember(f"member {printable(answer.member)!r} is not in the portfolio, which has {', '.join(members) or 'nobody'}")
    given = [GivenAnswer(answer.member, answer.text) for answer in body.answers]
    attached = await attach(call, body.user, decision_id, given, body.prompt_text)
    shown = decision_answer(attached.decision_id, "", attached.record)
    return json_response(AnswersAnswer(attached.decision_id, attached.result, shown.candidates, shown.routing))
