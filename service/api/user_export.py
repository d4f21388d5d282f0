"""`GET /users/{user}/export`: everything that is stored of a user, one JSON object a line, in the order of the store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.service.api.answers import also, fields_of, problems, rfc3339, to_json
from attune.service.api.decisions import decision_answer
from attune.service.api.users import checked_user
from attune.service.http.problems import document
from attune.service.http.segments import Segment
from attune.service.http.streaming import EventStream, failed_in_stream
from attune.service.live.runtime import Call
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
from attune.service.usecases.decision_record import RecordUnreadable, unpack
from attune.service.usecases.learning import read_payload
from attune.service.usecases.people import key_of

router = APIRouter()


@router.get(
    "/users/{user:segment}/export",
    responses=also("application/x-ndjson", "JSON lines") | problems(),
    response_class=Response,
    summary="Everything that is stored of a user",
)
async def export_user(user: Segment, request: Request) -> Response:
    """Everything stored, one JSON object a line: sums, comparisons, decisions."""
    call: Call = request.state.call
    key = key_of(call, checked_user(user))
    source = cast("AsyncGenerator[Exported, None]", call.runtime.store.export(key))
    # The first page is read before the status is sent: a store that is away is an error with a status, not a cut-off 200.
    first = await anext(source, None)
    return EventStream(_lines(call, user, key, first, source), media_type="application/x-ndjson")


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
