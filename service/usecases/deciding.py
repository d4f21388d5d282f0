"""Choosing members for a user and a prompt, and writing the decision down before anybody can refer to it.

    user's sum ∥ prompt's row ─> posterior samples ─> law ─> draw ─> decision record ─> store

`S` samples, `M` members, `K` heads. The law, the draw and their probabilities are `models.seam.routing`'s; the seed is fresh for every
decision and kept with it. If the store is away the answer goes on without a decision id: what cannot be kept cannot be learned from.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.family import Row
from attune.models.seam.routing import choose, sampled_values, utilities
from attune.service.api.answers import CertificateAnswer, Expected, Fallback, RouteAnswer, RoutingAnswer
from attune.service.api.wire import RouteRequest
from attune.service.errors import StoreUnavailable
from attune.service.ids import new_decision_id
from attune.service.live.runtime import Call, Serving
from attune.service.usecases.people import Person, key_of, read_person
from attune.service.usecases.record import DecisionRecord, Routing, digest_of, keep, pack
from attune.service.usecases.scoring import both, encode, submit

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that was taken; `id` is None if it is not kept, for want of a user or of the store."""

    id: str | None
    user: str | None
    person: Person
    prompt: str
    prompt_row: Row
    record: DecisionRecord


async def decide(call: Call, request: RouteRequest, user: str | None) -> Decision:
    """Returns who answers, written down.

    Args:
        call: the request.
        request: checked; `user` of it is ignored in favour of the next argument.
        user: None for a caller who names no user: the prior decides and nothing is kept.
    """
    bundle, runtime = call.serving.bundle, call.runtime
    prompt = request.prompt_text or ""

    async def prompt_row() -> Row:
        return (await submit(call, await encode(call, prompt, [], context=request.context, with_prompt=True)))[0]

    with_last = runtime.hysteresis > 0 and request.policy == "best"
    person, row = await both(read_person(call, user, with_last=with_last), prompt_row())
    name = request.family or call.serving.family
    routing, weights = route(call, request, person, row, name)
    _measure(call, person, routing, weights, name)
    record = DecisionRecord(
        made_at_s=runtime.clock(),
        bundle=bundle.id,
        basis=bundle.basis,
        family=name,
        personalization=person.personalization,
        comparisons=person.comparisons,
        prompt=prompt if runtime.keep_text else None,
        context=request.context if runtime.keep_text else None,
        prompt_digest=digest_of(prompt),
        routing=routing,
        prompt_outputs=keep(row, call.serving.prompt_outputs),
    )
    for member in routing.members:
        runtime.metrics.decided(routing.policy, member)
    decision = Decision(None, user, person, prompt, row, record)
    if user is None or person.personalization == "unavailable":
        return decision
    decision = replace(decision, id=new_decision_id(record.made_at_s))
    kept = await write(call, decision)
    if not kept:
        return replace(decision, id=None)
    call.headers["x-decision-id"] = decision.id or ""
    return decision


def route(call: Call, request: RouteRequest, person: Person, row: Row, name: str) -> tuple[Routing, Array]:
    """Returns the members drawn for this user and prompt, with the law that drew them, and the user's weights `[K]`.

    Values less costs are what is compared, expected and logged: the law is exactly that of the utilities. A forced member is drawn by
    nobody.
    """
    bundle, runtime = call.serving.bundle, call.runtime
    members = bundle.portfolio.names
    seed = secrets.randbits(63)
    rng = np.random.default_rng(seed)
    family = bundle.families[name]
    weights = family.sample_weights(bundle.families.part(name, person.evidence), row, rng, runtime.samples)
    sampled = utilities(sampled_values(weights, bundle.portfolio.values_for(name, row)), call.serving.costs, runtime.cost_weight)
    forced = request.member is not None
    last = members.index(person.last_member) if person.last_member in members and not forced else None
    choice = choose(
        request.policy,
        sampled,
        count=1 if forced else request.candidates,
        epsilon=runtime.epsilon,
        rng=rng,
        last=last,
        hysteresis=None if last is None else runtime.hysteresis,
    )
    # As the user is on an average prompt, and without the noise of samples: the certificate is about users, and says the same every time.
    usual = family.weights(bundle.families.part(name, person.evidence), None)
    routing = Routing(
        policy="forced" if forced else request.policy,
        seed=seed,
        epsilon=runtime.epsilon,
        samples=runtime.samples,
        members=(request.member,) * request.candidates if request.member else tuple(members[index] for index in choice.members),
        propensities=dict(zip(members, choice.propensities.tolist(), strict=True)),
        propensity=None if forced else choice.propensity,
        joint=None if forced else choice.joint,
        expected={member: (float(choice.mean[index]), float(choice.std[index])) for index, member in enumerate(members)},
        costs=costs_of(call.serving, runtime.cost_weight),
        certificate=certificate_of(call.serving, name, usual),
        hysteresis=None if last is None else runtime.hysteresis,
        last=None if last is None else members[last],
    )
    return routing, usual


def costs_of(serving: Serving, cost_weight: float) -> dict[str, float]:
    """Returns what is taken off each member's value, in reward; nothing where costs are not weighed."""
    if not cost_weight:
        return {}
    return {member: cost_weight * float(cost) for member, cost in zip(serving.bundle.portfolio.names, serving.costs, strict=True)}


def certificate_of(serving: Serving, name: str, weights: Array) -> dict[str, Any] | None:
    """Returns what is proved for a user with these weights `[K]` over the heads of one family; None if nothing is."""
    certificate = serving.bundle.portfolio.certificate
    ratio = serving.bundle.portfolio.certified_ratio(name, weights)
    mapped = None if certificate is None or ratio is None else certificate.palm_weights(weights)
    if certificate is None or ratio is None or mapped is None:
        return None
    lower, upper = certificate.bounds(mapped)
    return {"ratio": ratio, "lower": lower, "upper": upper, "family": name, "confidence": certificate.confidence}


def _measure(call: Call, person: Person, routing: Routing, weights: Array, name: str) -> None:
    ratio = None if routing.certificate is None else routing.certificate["ratio"]
    if ratio is not None:
        call.runtime.metrics.certified(1.0 - ratio)
    # Of the store away, the prior would say nothing about the users that there are; of another family, heads would be mixed up.
    if person.id and person.personalization != "unavailable" and name == call.serving.family:
        call.serving.recent.saw(key_of(call, person.id), weights, ratio)


async def write(call: Call, decision: Decision) -> bool:
    """Returns whether the decision's record is kept now; written again under the same id, it takes the place of the first."""
    if decision.id is None or decision.user is None:
        return False
    key, store, ttl_s = key_of(call, decision.user), call.runtime.store, call.runtime.decision_ttl_s
    record = pack(decision.record)
    if len(record) > call.runtime.limits.max_decision_bytes:
        record = pack(without_texts(decision.record))  # learning needs the features; texts are kept for people and for a later basis
    try:
        with call.timings.measure("redis"):
            await store.write_decision(key, decision.id, record, ttl_s, _served(call, decision.record))
    except StoreUnavailable:
        return False
    return True


def _served(call: Call, record: DecisionRecord) -> str | None:
    """Returns the member to remember as this user's last one: who served, or who was drawn if nobody has yet; nobody for a forced one."""
    if not call.runtime.hysteresis or record.routing.policy == "forced":
        return None
    return record.candidates[0].member if record.candidates else record.routing.members[0]


def without_texts(record: DecisionRecord) -> DecisionRecord:
    """Returns the record without prompt and answers."""
    candidates = tuple(replace(candidate, text=None) for candidate in record.candidates)
    return replace(record, prompt=None, context=None, candidates=candidates)


def routing_answer(routing: Routing, served: str | None = None) -> RoutingAnswer:
    """Returns the wire's view of a routing; `served` is who wrote the first answer, if somebody did."""
    return RoutingAnswer(
        policy=routing.policy,
        member=served or routing.members[0],
        members=list(routing.members),
        propensity=routing.propensity,
        joint_propensity=routing.joint,
        propensities=dict(routing.propensities),
        expected={member: Expected(mean, std) for member, (mean, std) in routing.expected.items()},
        fallback=Fallback(**routing.fallback) if routing.fallback else None,
        certificate=CertificateAnswer(**routing.certificate) if routing.certificate else None,
        costs=dict(routing.costs) or None,
        last=routing.last,
    )


def route_answer(decision: Decision) -> RouteAnswer:
    """Returns the answer of `/route`, and the first event of a stream."""
    record = decision.record
    return RouteAnswer(
        decision.id, record.bundle, record.family, decision.person.personalization, decision.person.seen, routing_answer(record.routing)
    )
