"""`GET /decisions/{id}`: one decision as it is kept: the distribution, who was drawn, what was answered; without the scorer's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.service.api.answers import json_response, problems, rfc3339
from attune.service.api.generate import GenerationUsage
from attune.service.api.route import RoutingAnswer, routing_answer
from attune.service.errors import ExpiredCandidate, UnknownDecision, printable
from attune.service.http.segments import Segment
from attune.service.ids import as_decision_id, candidate_id
from attune.service.live.runtime import Call
from attune.service.usecases.decision_record import DecisionRecord, RecordUnreadable, unpack
from attune.service.usecases.people import Personalization

router = APIRouter(tags=["users"])


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
        finish_reason: `stop` or `length`
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
