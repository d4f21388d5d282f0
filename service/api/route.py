"""`POST /route`: the decision alone, for people who keep their gateway; `/feedback` may name it with texts later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from attune.models.seam.counts import counted
from attune.models.seam.printable import printable
from attune.service.api.answer_json import UserSeen, json_response, problems
from attune.service.api.prompted import (
    Context,
    Prompted,
    User,
    Written,
    check_length,
    check_prompt_length,
    refuse,
    wrong_family,
    wrong_prompt,
)
from attune.service.errors import FieldError, NoMembers, UnknownMember
from attune.service.http.documentation import operation_name
from attune.service.live.runtime import Call
from attune.service.usecases.decision_record import CertifiedUser, Routing
from attune.service.usecases.member_choice import Decision, RoutingWish, decide
from attune.service.usecases.people import Personalization

_POLICIES = (
    "`sample` draws by the chance that a member is best for this user (Thompson sampling); `best` takes the highest expected value; "
    "`uniform` draws evenly; `learn` draws the pair whose comparison teaches most"
)

router = APIRouter(tags=["users"], generate_unique_id_function=operation_name)

MOST_PROMPTS = 16
MOST_AMONG = 256
_AMONG = "members of whom one is drawn, of `GET /portfolio`, and of whom one stands in for another; null is all of them"
_RECORD = "false decides and keeps nothing: ids are null, and the probabilities stay the same until something is learned"
_PROMPTS = "in place of `prompt`, with policy `learn`: the prompt and the members that tell most of this user are drawn together"


class RouteRequest(Prompted):
    """Body of `POST /route`."""

    user: User
    context: Context | None = None
    family: Annotated[
        str | None, Field(description="the reward family that decides, one of `GET /bundle`; null is the one that serves")
    ] = None
    candidates: Annotated[
        int, Field(ge=1, description="how many members are drawn, at most `max_generate_candidates`; each answers once")
    ] = 1
    policy: Annotated[Literal["sample", "best", "uniform", "learn"], Field(description=_POLICIES)] = "sample"
    member: Annotated[str | None, Field(description="forces this member, one of `GET /portfolio`; null lets the policy decide")] = None
    among: Annotated[list[str] | None, Field(min_length=1, max_length=MOST_AMONG, description=_AMONG)] = None
    prompts: Annotated[list[Written] | None, Field(min_length=2, max_length=MOST_PROMPTS, description=_PROMPTS)] = None
    record: Annotated[bool, Field(description=_RECORD)] = True


@dataclass(frozen=True, slots=True)
class Expected:
    """A member's value for this user and prompt: mean and spread over the posterior.

    Attributes:
        mean: the value that is expected, in logits of the serving family
        std: its standard deviation over what is not known of user and member
    """

    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Fallback:
    """A drawn member that did not serve, who did, and why.

    Attributes:
        wanted: the member that was drawn
        served: the member that answered in its place
        reason: why the drawn one did not, for example `breaker open` or `timeout`
    """

    wanted: str
    served: str
    reason: str


@dataclass(frozen=True, slots=True)
class CertificateAnswer:
    """What is proved of the portfolio for this user, with `confidence`: the best member gives at least `ratio` of the best possible reward.

    `lower` and `upper` are that member's reward at least and any policy's at most, in the certificate's normalised rewards.

    Attributes:
        ratio: `lower` over `upper`, from 0 to 1
        lower: what the best member of the portfolio gives this user at least, in the certificate's normalised reward
        upper: what any policy could give this user at most, in the same unit
        family: the reward family under which this is proved
        confidence: the probability with which it holds for all users at once, from 0 to 1
        stands_for: the share of this user's taste that lies along the certificate's rewards, from 0.5 to 1; 1 where they are all heads
    """

    ratio: float
    lower: float
    upper: float
    family: str
    confidence: float
    stands_for: float


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """Which of the prompts offered was drawn, and the law of prompts.

    Attributes:
        index: of the prompt drawn, counted from 0
        propensity: the probability with which it was drawn, from 0 to 1
        propensities: the probability of each prompt, in the order of the request; sums to 1
    """

    index: int
    propensity: float
    propensities: list[float]


@dataclass(frozen=True, slots=True)
class RoutingAnswer:
    """How the member was chosen. `propensity` is null where it was forced, or where another member served in its place.

    `expected` is each member's value less its `costs`, where the deployment weighs them. `last` is the member that served before, where
    hysteresis was asked about it.

    Attributes:
        policy: as asked for, or `forced` where the request named a member
        member: the member that is to answer; of several candidates, the first
        members: the members of all candidates, in the order of their draws
        propensity: the probability with which `member` was drawn, from 0 to 1; for off-policy evaluation
        joint_propensity: the probability of `members` in their order, from 0 to 1; null where the draw has none
        propensities: the probability of each member to be drawn first; sums to 1. Of all members, or of those in `among`
        expected: each member's value for this user and prompt, less its cost where costs are weighed
        fallback: null where the drawn member served
        certificate: what is proved of the portfolio for this user; null where the bundle has no certificate for the family
        costs: what each member's price and latency cost, in logits; missing where the deployment does not weigh them
        last: the member that served this user before; missing where no bonus for staying is set
        effects: the part of `expected` that is the member's own, beyond what its texts are worth; missing where the bundle learns none
        prompt: the prompt drawn, and the law of prompts; the members' law is given it. Missing where one prompt was asked about
    """

    policy: Literal["sample", "best", "uniform", "learn", "forced"]
    member: str
    members: list[str]
    propensity: float | None
    joint_propensity: float | None
    propensities: dict[str, float]
    expected: dict[str, Expected]
    fallback: Fallback | None
    certificate: CertificateAnswer | None
    costs: dict[str, float] | None = None
    last: str | None = None
    effects: dict[str, Expected] | None = None
    prompt: PromptAnswer | None = None


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """Answer of `POST /route`, and the first event of a stream; `decision_id` is null if the store is away.

    `truncated_tokens` of the prompt's beginning were not read.

    Attributes:
        decision_id: names the decision for `/feedback` and `GET /decisions/{decision_id}`; null if it was not kept
        bundle: the bundle that decided
        family: the reward family that decided
        personalization: `applied`: the user's own comparisons counted; `prior`: there are none yet; `unavailable`: the store
            did not answer in time, and the prior decided
        user: for whom it was decided
        routing: the distribution over the members, and the draw from it
        truncated_tokens: tokens at the beginning of the prompt that the scorer had no room for; missing if it read all
    """

    decision_id: str | None
    bundle: str
    family: str
    personalization: Personalization
    user: UserSeen
    routing: RoutingAnswer
    truncated_tokens: int | None = None


@router.post("/route", response_model=RouteAnswer, responses=problems(404, 409, 413), summary="Choose a member without generating")
async def route(body: RouteRequest, request: Request) -> Response:
    """Draws members for this user and prompt and keeps the decision; nothing is generated."""
    call: Call = request.state.call
    check_route(body, call)
    decision = await decide(call, wish_of(body, body.user))
    call.headers["x-attune-member"] = decision.record.routing.members[0]
    return json_response(route_answer(decision))


def check_route(request: RouteRequest, call: Call) -> None:
    """Checks a `/route`, and what `/generate` shares with it.

    Raises:
        NoMembers: nobody is there to be routed to.
        InvalidRequest: every field that is wrong is named.
        UnknownMember: the member that is forced is not in the portfolio.
        TooLarge: the prompt is over its limit.
    """
    limits, members = call.runtime.limits, call.serving.bundle.portfolio.names
    call.reading.truncate = request.truncate
    if not members:
        raise NoMembers("this deployment has no members: it scores, and a roster (ATTUNE_ROSTER) names who can answer")
    wrong = (wrong_prompt(request) if request.prompts is None else _wrong_prompts(request)) + wrong_family(
        request.family, call.serving.bundle.families
    )
    if request.candidates > limits.max_generate_candidates:
        wrong.append(FieldError("candidates", f"is {request.candidates}; at most {limits.max_generate_candidates} are generated"))
    elif request.member is None and request.candidates > (able := len(set(request.among or members))):
        who = "`among` names" if request.among else "the portfolio has"
        wrong.append(
            FieldError(
                "candidates",
                f"is {request.candidates} and {who} {counted(able, 'member')}, each of which answers once; "
                "name a `member` to have several answers of one",
            )
        )
    if request.member is not None and request.among is not None:
        wrong.append(FieldError("among", "has no place beside `member`, which is to answer"))
    refuse(wrong)
    check_members(request.among or list(filter(None, [request.member])), members)
    check_prompt_length(request, limits)
    for index, prompt in enumerate(request.prompts or ()):
        check_length(f"prompts[{index}]", prompt, limits.max_prompt_chars)


def check_members(named: Sequence[str], members: Sequence[str]) -> None:
    """Returns if all that are named are there.

    Raises:
        UnknownMember: one is not.
    """
    for name in named:
        if name not in members:
            raise UnknownMember(f"member {printable(name)!r} is not in the portfolio, which has {', '.join(members)}")


def _wrong_prompts(request: RouteRequest) -> list[FieldError]:
    wrong = [
        FieldError(name, "has no place beside `prompts`, of which one is drawn")
        for name in ("prompt", "messages", "member")
        if getattr(request, name) is not None
    ]
    if request.policy != "learn":
        wrong.append(FieldError("prompts", f"needs policy `learn`, which draws one of them; the policy is {request.policy!r}"))
    return wrong


def wish_of(body: RouteRequest, user: str | None, *, at_once: bool = True, tells_cut: bool = True) -> RoutingWish:
    """Returns what is to be decided; `user` of the body is ignored in favour of the argument."""
    return RoutingWish(
        user=user,
        prompt=body.prompt_text or "",
        context=body.context,
        family=body.family,
        candidates=body.candidates,
        policy=body.policy,
        member=body.member,
        record=body.record,
        at_once=at_once,
        tells_cut=tells_cut,
        prompts=tuple(body.prompts or ()),
        among=tuple(body.among or ()),
    )


def route_answer(decision: Decision) -> RouteAnswer:
    """Returns the answer of `/route`, and the first event of a stream."""
    record, person = decision.record, decision.person
    seen = UserSeen(person.id, person.comparisons)
    return RouteAnswer(
        decision.id,
        record.bundle,
        record.family,
        person.personalization,
        seen,
        routing_answer(record.routing),
        decision.truncated_tokens or None,
    )


def routing_answer(routing: Routing, served: str | None = None) -> RoutingAnswer:
    """Returns the answer's view of a routing; `served` is who wrote the first answer, if somebody did."""
    instead, drawn = routing.fallback, routing.prompt
    return RoutingAnswer(
        policy=routing.policy,
        member=served or routing.members[0],
        members=list(routing.members),
        propensity=routing.propensity,
        joint_propensity=routing.joint,
        propensities=dict(routing.propensities),
        expected=expected_answer(routing.expected),
        fallback=Fallback(instead.wanted, instead.served, instead.reason) if instead else None,
        certificate=certificate_answer(routing.certificate),
        costs=dict(routing.costs) or None,
        last=routing.last,
        effects=expected_answer(routing.effects) or None,
        prompt=None if drawn is None else PromptAnswer(drawn.index, drawn.propensity, list(drawn.propensities)),
    )


def expected_answer(expected: Mapping[str, tuple[float, float]]) -> dict[str, Expected]:
    """Returns the answer's view of the members' values."""
    return {member: Expected(mean, std) for member, (mean, std) in expected.items()}


def certificate_answer(proved: CertifiedUser | None) -> CertificateAnswer | None:
    """Returns the answer's view of what is proved for a user."""
    if proved is None:
        return None
    return CertificateAnswer(proved.ratio, proved.lower, proved.upper, proved.family, proved.confidence, proved.stands_for)
