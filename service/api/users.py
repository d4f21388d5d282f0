"""`/users/{user}`: what is known, everything that is stored, deletion with a receipt, and taking one comparison back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.models.seam.routing import choose, sampled_values, utilities
from attune.service.api.answers import (
    CertificateAnswer,
    Expected,
    also,
    fields_of,
    json_response,
    problems,
    to_json,
)
from attune.service.api.decisions import decision_answer
from attune.service.api.user_answers import DeletedAnswer, DeletedCounts, FamilyState, TakenBackAnswer, UserAnswer, UserPortfolio, UserState
from attune.service.api.wire import MAX_USER_CHARS, sound_unicode
from attune.service.errors import FieldError, UnknownEvent
from attune.service.http.problems import document, invalid
from attune.service.http.segments import Segment
from attune.service.http.streaming import EventStream, failed_in_stream
from attune.service.live.runtime import Call, Runtime, Serving
from attune.service.state.records import checked_event_id
from attune.service.state.store import (
    Exported,
    LastMember,
    LoggedComparison,
    ReplayedEvidence,
    StoredDecision,
    StoredSum,
    TakenBack,
    UserKey,
)
from attune.service.usecases.deciding import certificate_of
from attune.service.usecases.learning import read_payload
from attune.service.usecases.people import Person, key_of, person, rfc3339, weights_by_head
from attune.service.usecases.record import RecordUnreadable, unpack

router = APIRouter()


@router.get("/users/{user:segment}", response_model=UserAnswer, responses=problems(), summary="What is known of a user")
async def get_user(user: Segment, request: Request) -> Response:
    """The user under every family; somebody who was never seen is at the prior."""
    call: Call = request.state.call
    with call.timings.measure("redis"):
        total = await call.runtime.store.read_user(key_of(call, _checked(user)), call.kept_under)
    found = person(call, user, total)
    bundle = call.serving.bundle
    families = {name: _family_state(call.serving, found, name) for name in bundle.families.names}
    state = UserState(user, found.comparisons, rfc3339(found.first_seen_s), rfc3339(found.last_seen_s))
    return json_response(UserAnswer(state, bundle.id, bundle.basis, families, _portfolio(call.runtime, call.serving, found)))


@router.get(
    "/users/{user:segment}/export",
    responses=also("application/x-ndjson", "JSON lines") | problems(),
    response_class=Response,
    summary="Everything that is stored of a user",
)
async def export_user(user: Segment, request: Request) -> Response:
    """Everything stored, one JSON object a line: sums, comparisons, decisions."""
    call: Call = request.state.call
    key = key_of(call, _checked(user))
    source = cast("AsyncGenerator[Exported, None]", call.runtime.store.export(key))
    # The first page is read before the status is sent: a store that is away is an error with a status, not a cut-off 200.
    first = await anext(source, None)
    return EventStream(_lines(call, user, key, first, source), media_type="application/x-ndjson")


@router.delete("/users/{user:segment}", response_model=DeletedAnswer, responses=problems(), summary="Delete a user completely")
async def delete_user(user: Segment, request: Request) -> Response:
    """Removes sums, comparisons, decisions and events; the receipt counts them."""
    call: Call = request.state.call
    with call.timings.measure("redis"):
        deleted = await call.runtime.finish(call.runtime.store.delete_user(key_of(call, _checked(user))))
    call.serving.recent.forget(key_of(call, user))
    return json_response(DeletedAnswer(DeletedCounts(deleted.keys, deleted.comparisons, deleted.decisions)))


@router.delete(
    "/users/{user:segment}/comparisons/{event_id:segment}",
    response_model=TakenBackAnswer,
    responses=problems(404),
    summary="Take one comparison back",
)
async def take_back(user: Segment, event_id: Segment, request: Request) -> Response:
    """Subtracts one comparison exactly; its event id stays used."""
    call: Call = request.state.call
    key = key_of(call, _checked(user))
    try:
        checked_event_id(event_id)
    except ValueError as error:
        raise UnknownEvent(str(error)) from None
    with call.timings.measure("redis"):
        total = await call.runtime.finish(call.runtime.store.take_back(key, call.kept_under, event_id))
    call.runtime.metrics.compared("taken-back")
    after = person(call, user, total)
    weights = weights_by_head(call.serving.bundle.families, call.serving.family, after.evidence)
    return json_response(TakenBackAnswer(event_id, "taken-back", after.seen, weights))


def _checked(user: str) -> str:
    try:
        sound_unicode(user)
    except ValueError as error:
        raise invalid([FieldError("user", str(error))]) from None
    if len(user) > MAX_USER_CHARS:
        raise invalid([FieldError("user", f"has {len(user)} characters; at most {MAX_USER_CHARS} are allowed")])
    return user


def _family_state(serving: Serving, found: Person, name: str) -> FamilyState:
    families = serving.bundle.families
    weights = weights_by_head(families, name, found.evidence)
    posterior = families[name].posterior(families.part(name, found.evidence))
    if posterior is None:
        return FamilyState(weights)
    mean, std = posterior
    return FamilyState(weights, mean.tolist(), std.tolist())


def _portfolio(runtime: Runtime, serving: Serving, found: Person) -> UserPortfolio:
    """Returns the members' values for this user on an average prompt; drawn with a fixed seed, so that asking twice says the same."""
    bundle, rng = serving.bundle, np.random.default_rng(0)
    family = bundle.families[serving.family]
    weights = family.sample_weights(bundle.families.part(serving.family, found.evidence), None, rng, runtime.samples)
    sampled = utilities(sampled_values(weights, bundle.portfolio.values_for(serving.family, None)), serving.costs, runtime.cost_weight)
    choice = choose("best", sampled, count=1, epsilon=0.0, rng=rng)
    members = bundle.portfolio.names
    expected = {member: Expected(float(choice.mean[index]), float(choice.std[index])) for index, member in enumerate(members)}
    proved = certificate_of(serving, serving.family, family.weights(bundle.families.part(serving.family, found.evidence), None))
    return UserPortfolio(members[choice.members[0]], expected, CertificateAnswer(**proved) if proved else None)


async def _lines(
    call: Call, user: str, key: UserKey, first: Exported | None, source: AsyncGenerator[Exported, None]
) -> AsyncGenerator[bytes, None]:
    yield to_json({"type": "user", "id": user, "tag": key.tag, "exported_at": rfc3339(call.runtime.clock())}) + b"\n"
    try:
        async with aclosing(source):
            if first is not None:
                yield to_json(_line(key, first)) + b"\n"
            async for entry in source:
                yield to_json(_line(key, entry)) + b"\n"
    except Exception as error:  # noqa: BLE001  the status is sent: an export that is cut short says so in its last line
        yield to_json({"error": document(failed_in_stream(call, error), call.request_id)}) + b"\n"


def _line(key: UserKey, entry: Exported) -> dict[str, Any]:
    match entry:
        case StoredSum(basis, total):
            times = {"first_seen": rfc3339(total.first_seen_s), "last_seen": rfc3339(total.last_seen_s)}
            numbers = {"comparisons": total.count, "epoch": total.epoch, "evidence": total.evidence.tolist()}
            return {"type": "sum", "basis": basis, **times, **numbers}
        case LoggedComparison():
            return {
                "type": "comparison",
                "event_id": entry.event_id,
                "basis": entry.basis,
                "epoch": entry.epoch,
                "observed_at": rfc3339(entry.observed_s),
                **read_payload(entry.payload),
                "evidence": entry.evidence.tolist(),
            }
        case ReplayedEvidence():
            return {
                "type": "replayed",
                "event_id": entry.event_id,
                "basis": entry.basis,
                "epoch": entry.epoch,
                "observed_at": rfc3339(entry.observed_s),
                "evidence": entry.evidence.tolist(),
            }
        case LastMember(member):
            return {"type": "last-member", "member": member}
        case TakenBack(event_id):
            return {"type": "taken-back", "event_id": event_id}
        case StoredDecision(decision_id, record):
            try:
                return {"type": "decision", **fields_of(decision_answer(decision_id, key.tag, unpack(record)))}
            except RecordUnreadable as error:
                return {"type": "decision", "decision_id": decision_id, "unreadable": str(error)}
