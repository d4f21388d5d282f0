"""Choosing members for a user and a prompt, and writing the decision down before anybody can refer to it.

    user's sum ∥ members' sums ∥ prompt's row, if it matters ─> joint posterior samples ─> distribution ─> draw ─> decision record ─> store

`S` samples, `M` members, `K` heads. The distribution, the draw and its probability are `models.seam.routing`'s; the seed is fresh for every
decision and kept with it. The prompt goes through the scorer only where its row can change the distribution. If the store is away the
answer goes on without a decision id: what cannot be kept cannot be learned from.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.family import Row
from attune.models.seam.informative import choose_prompt, choose_to_learn, pair_information
from attune.models.seam.member_effects import Effects
from attune.models.seam.routing import choose, expected_values, sampled_worth, utilities
from attune.models.seam.text import Encoded
from attune.service.errors import Overloaded, StoreUnavailable
from attune.service.ids import new_decision_id
from attune.service.live.runtime import Call, Serving
from attune.service.live.standing import Standing
from attune.service.usecases.authors import read_standing
from attune.service.usecases.decision_record import CertifiedUser, DecisionRecord, PromptDraw, Routing, digest_of, keep, pack
from attune.service.usecases.people import Person, read_person
from attune.service.usecases.text_scores import both, read_prompt, submit, submit_with_prompt

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoutingWish:
    """Whose prompt is to be answered, and what the caller leaves open of who answers.

    Attributes:
        user: None for a caller who names no user: the prior decides and nothing is kept.
        family: None is the one that serves.
        candidates: how many members; of a forced one, how many answers.
        member: forced, in place of the draw.
        record: whether anything is kept of the decision: its record, what its answers tell of members, coverage and metrics.
        prompts: in place of `prompt`, those of which the one that tells most is drawn; of policy `learn`.
        at_once: whether the record is written before anything is answered, because an answer names it; else `keep_decision` writes it.
        among: those of whom somebody may answer; empty is everybody.
        tells_cut: whether the answer says what of the prompt was not read; else a prompt that nothing depends on is not tokenized.
    """

    user: str | None
    prompt: str
    context: str | None
    family: str | None
    candidates: int
    policy: Literal["sample", "best", "uniform", "learn"]
    member: str | None
    record: bool = True
    at_once: bool = True
    tells_cut: bool = True
    prompts: tuple[str, ...] = ()
    among: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that was taken; `id` is None if it is not kept, for want of a user or of the store, or because it is `dry`.

    Attributes:
        tokens: the prompt as the scorer reads it; None where nobody has asked.
        prompt_row: its outputs; None where they could change nothing.
        truncated_tokens: of the prompt's beginning, which were not read.
        written: whether its record is in the store already.
    """

    id: str | None
    person: Person
    prompt: str
    tokens: Encoded | None
    prompt_row: Row | None
    record: DecisionRecord
    truncated_tokens: int = 0
    dry: bool = False
    written: bool = False


@dataclass(frozen=True, slots=True)
class UsualRouting:
    """The member that is best for a person on an average prompt, each member's (mean, std), and what is proved for this person.

    `effects` are what of `expected` is the members' own, beyond their texts; empty where the bundle says nothing of it.
    """

    member: str
    expected: Mapping[str, tuple[float, float]]
    certificate: CertifiedUser | None
    effects: Mapping[str, tuple[float, float]]


async def decide(call: Call, wish: RoutingWish) -> Decision:
    """Returns who answers; written down unless the wish leaves that for later."""
    bundle, runtime = call.serving.bundle, call.runtime
    name = wish.family or call.serving.family
    matters = wish.member is None and _reads_prompt(call.serving, name)
    # Where no texts are kept, what answers need of the prompt later has to be read now.
    reads = matters or wish.tells_cut or not runtime.keeping.keep_text
    prompts = wish.prompts or (wish.prompt,)
    read = [await read_prompt(call, prompt, wish.context) for prompt in prompts] if reads else []
    with_last = runtime.routing.routing_hysteresis > 0 and wish.policy == "best"

    async def known() -> tuple[Person, Standing]:
        # One after the other: the standing is in memory but once a second, and two tasks at each request cost more than that round trip.
        return await read_person(call, wish.user, with_last=with_last), await read_standing(call)

    rows: Sequence[Row | None] = [None] * max(1, len(read))
    if matters:
        (person, standing), rows = await both(known(), submit(call, read) if wish.prompts else submit_with_prompt(call, read))
    else:
        person, standing = await known()
    routing, weights = _route(call, wish, person, standing, rows, name)
    drawn = 0 if routing.prompt is None else routing.prompt.index
    prompt, tokens, row = prompts[drawn], read[drawn] if read else None, rows[drawn]
    record = DecisionRecord(
        made_at_s=runtime.clock(),
        bundle=bundle.id,
        basis=bundle.basis,
        family=name,
        personalization=person.personalization,
        comparisons=person.comparisons,
        prompt=prompt if runtime.keeping.keep_text else None,
        context=wish.context if runtime.keeping.keep_text else None,
        prompt_digest=digest_of(prompt),
        routing=routing,
        prompt_outputs={} if row is None else keep(row, call.serving.prompt_outputs),
    )
    if wish.record:
        _measure(call, person, routing, weights, name)
    is_kept = wish.record and person.key is not None and person.personalization != "unavailable"
    decision_id = new_decision_id(record.made_at_s) if is_kept else None
    decision = Decision(decision_id, person, prompt, tokens, row, record, call.reading.truncated_tokens, dry=not wish.record)
    return await keep_decision(call, decision) if is_kept and wish.at_once else decision


def _reads_prompt(serving: Serving, family: str) -> bool:
    """Returns whether a prompt's row can change who is drawn under a family: its weights or the members' values depend on it."""
    return serving.bundle.families[family].scores_with_prompt or serving.bundle.portfolio.reads_prompt(family)


async def keep_decision(call: Call, decision: Decision) -> Decision:
    """Returns the decision as it is kept from now on: written, or without an id if it could not be."""
    if not await write(call, decision):
        return replace(decision, id=None)
    call.headers["x-decision-id"] = decision.id or ""
    return replace(decision, written=True)


def _route(
    call: Call, wish: RoutingWish, person: Person, standing: Standing, rows: Sequence[Row | None], name: str
) -> tuple[Routing, Array]:
    """Returns the members drawn for this user and prompt, with the distribution that they were drawn from, and the user's weights `[K]`.

    There is a row for each prompt that may be drawn.

    Weights and members' values are sampled together, so that a member of whom little is known is tried; what is expected, and so policy
    `best`, goes by the values' means. Members are compared by value minus cost; the logged probabilities refer to that difference. A
    forced member has no probability.
    """
    bundle, numbers = call.serving.bundle, call.runtime.routing
    members, able = _able(bundle.portfolio.names, wish)
    seed, epsilon = secrets.randbits(63), numbers.routing_epsilon
    rng = np.random.default_rng(seed)
    sampling = rng if wish.record else np.random.default_rng(0)  # who only asks sees the same law until something is learned
    scale = bundle.families[name].logit_scale
    effects = _effects_in_reward(call, person, standing, name)
    values = [_values(call, person, standing, name, row, effects, sampling) for row in rows]
    each = [(sampled[:, able], expected[able]) for sampled, expected in values]
    index, drawn, pairs = 0, None, None
    if wish.prompts:
        informations = np.array([pair_information(sampled, scale) for sampled, _ in each])
        index, law, pairs = choose_prompt(informations, epsilon=epsilon, rng=rng)
        drawn = PromptDraw(index, float(law[index]), tuple(law.tolist()))
    sampled, expected = each[index]
    forced = wish.member is not None
    last = members.index(person.last_member) if person.last_member in members and not forced else None
    hysteresis = None if last is None else numbers.routing_hysteresis
    count = 1 if forced else wish.candidates
    if wish.policy == "learn":
        choice = choose_to_learn(sampled, count=count, epsilon=epsilon, rng=rng, logit_scale=scale, mean=expected, pairs=pairs)
    else:
        choice = choose(wish.policy, sampled, count=count, epsilon=epsilon, rng=rng, last=last, hysteresis=hysteresis, mean=expected)
    # As the user is on an average prompt, and without the noise of samples: the certificate is about users, and says the same every time.
    usual = bundle.families.weights(name, person.evidence, None)
    routing = Routing(
        policy="forced" if forced else wish.policy,
        seed=seed,
        epsilon=epsilon,
        samples=len(sampled),
        members=(wish.member,) * wish.candidates if wish.member else tuple(members[index] for index in choice.members),
        propensities=dict(zip(members, choice.propensities.tolist(), strict=True)),
        propensity=None if forced else choice.propensity,
        joint=None if forced else choice.joint,
        expected=_by_member(members, choice.mean, choice.std),
        costs=_costs_of(call.serving, numbers.routing_cost_weight),
        certificate=_certificate_of(call.serving, name, usual),
        hysteresis=hysteresis,
        last=None if last is None else members[last],
        effects={} if effects is None else _by_member(members, effects.mean[able], effects.std[able]),
        prompt=drawn,
    )
    return routing, usual


def _values(
    call: Call, person: Person, standing: Standing, name: str, row: Row | None, effects: Effects | None, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Returns what members are worth to a person less their costs: `[S, M]` sampled together with the weights, and `[M]` as expected."""
    bundle, numbers, costs = call.serving.bundle, call.runtime.routing, call.serving.costs
    samples = numbers.samples_for(len(bundle.portfolio.names))
    weights = bundle.families.sample_weights(name, person.evidence, row, rng, samples)
    mean, covariance = standing.values(name, row)
    sampled = utilities(sampled_worth(weights, mean, covariance, rng), costs, numbers.routing_cost_weight)
    expected = utilities(expected_values(weights, mean), costs, numbers.routing_cost_weight)
    if effects is None:
        return sampled, expected
    return sampled + effects.sampled(rng, samples), expected + effects.mean


def _able(names: tuple[str, ...], wish: RoutingWish) -> tuple[tuple[str, ...], slice | list[int]]:
    """Returns the members that may answer, in the portfolio's order, and their places in it."""
    if not wish.among:
        return names, slice(None)
    places = [place for place, name in enumerate(names) if name in wish.among]
    return tuple(names[place] for place in places), places


def _effects_in_reward(call: Call, person: Person, standing: Standing, name: str) -> Effects | None:
    """Returns what members are worth to a person beyond their texts, in rewards of a family; None where the bundle says nothing of it."""
    everybody, families = standing.everybody(), call.serving.bundle.families
    return None if everybody is None else everybody.of(families.effects_part(person.evidence)).scaled(1.0 / families[name].logit_scale)


def usual_routing(call: Call, person: Person, standing: Standing) -> UsualRouting | None:
    """Returns the members' values for a person on an average prompt; drawn with a fixed seed, so that asking twice says the same.

    None where there are no members.
    """
    if not call.serving.bundle.portfolio.members:
        return None
    serving, rng = call.serving, np.random.default_rng(0)
    bundle, name = serving.bundle, serving.family
    effects = _effects_in_reward(call, person, standing, name)
    sampled, expected = _values(call, person, standing, name, None, effects, rng)
    choice = choose("best", sampled, count=1, epsilon=0.0, rng=rng, mean=expected)
    members = bundle.portfolio.names
    proved = _certificate_of(serving, name, bundle.families.weights(name, person.evidence, None))
    apart = {} if effects is None else _by_member(members, effects.mean, effects.std)
    return UsualRouting(members[choice.members[0]], _by_member(members, choice.mean, choice.std), proved, apart)


def _by_member(members: tuple[str, ...], mean: Array, std: Array) -> dict[str, tuple[float, float]]:
    return dict(zip(members, zip(mean.tolist(), std.tolist(), strict=True), strict=True))


def _costs_of(serving: Serving, cost_weight: float) -> dict[str, float]:
    """Returns what is taken off each member's value, in reward; nothing where costs are not weighed."""
    if not cost_weight:
        return {}
    return dict(zip(serving.bundle.portfolio.names, (cost_weight * serving.costs).tolist(), strict=True))


def _certificate_of(serving: Serving, name: str, weights: Array) -> CertifiedUser | None:
    """Returns what is proved for a user with these weights `[K]` over the heads of one family; None if nothing is."""
    certificate = serving.bundle.portfolio.proved_under(name)
    proved = None if certificate is None else certificate.proved(weights)
    if certificate is None or proved is None:
        return None
    return CertifiedUser(*proved, name, certificate.confidence, certificate.stands_for(weights))


def _measure(call: Call, person: Person, routing: Routing, weights: Array, name: str) -> None:
    for member in routing.members:
        call.runtime.metrics.decided(routing.policy, member)
    ratio = None if routing.certificate is None else routing.certificate.ratio
    if ratio is not None:
        call.runtime.metrics.certified(1.0 - ratio)
    # Of the store away, the prior would say nothing about the users that there are; of another family, heads would be mixed up.
    if person.key is not None and person.personalization != "unavailable" and name == call.serving.family:
        call.serving.recent.saw(person.key, weights, ratio)


async def write(call: Call, decision: Decision, *, update: bool = False) -> bool:
    """Returns whether the decision's record is kept now; False also where the store is away.

    Args:
        call: the request.
        decision: what to keep.
        update: whether it was written before under the same id: then it is written where the first still is, and nowhere else.
    """
    try:
        return await write_or_raise(call, decision, update=update)
    except (StoreUnavailable, Overloaded):
        return False


async def write_or_raise(call: Call, decision: Decision, *, update: bool = False, instead_of: bytes | None = None) -> bool:
    """Returns whether the decision's record is kept now, for those who promise that it is.

    Args:
        call: the request.
        decision: what to keep.
        update: see `write`.
        instead_of: the record that was read, where no other may be replaced.

    Raises:
        EventConflict: another record is there; nothing was written.
        StoreUnavailable: it may or may not be kept.
        Overloaded: nothing was sent.
    """
    key = decision.person.key
    if decision.id is None or key is None:
        return False
    store, ttl_s = call.runtime.store, call.runtime.keeping.decision_ttl_s
    record = pack(decision.record)
    if len(record) > call.runtime.bounds.max_decision_bytes:
        record = pack(_without_texts(decision.record))  # learning needs the features; texts are kept for people and for a later basis
    served, era = _served(call, decision.record), decision.person.era
    with call.timings.measure("redis"):
        return await store.write_decision(key, decision.id, record, ttl_s, served, update=update, instead_of=instead_of, era=era)


def _served(call: Call, record: DecisionRecord) -> str | None:
    """Returns the member to remember as this user's last one: who served, or who was drawn if nobody has yet; nobody for a forced one."""
    if not call.runtime.routing.routing_hysteresis or record.routing.policy == "forced":
        return None
    return record.candidates[0].member if record.candidates else record.routing.members[0]


def _without_texts(record: DecisionRecord) -> DecisionRecord:
    """Returns the record without prompt and answers."""
    candidates = tuple(replace(candidate, text=None) for candidate in record.candidates)
    return replace(record, prompt=None, context=None, candidates=candidates)
