"""`GET /users/{user}/export`: everything that is stored of a user, in the order of the store and the format of `seam.exports`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.models.seam.exports import (
    ComparisonLine,
    DecisionLine,
    ExportLine,
    LastMemberLine,
    ReplayedLine,
    SumLine,
    TakenBackLine,
    UserLine,
    line_object,
)
from attune.service.api.answer_json import also, fields_of, problems, rfc3339, to_json
from attune.service.api.decisions import decision_answer
from attune.service.api.users import checked_user
from attune.service.http.documentation import operation_name
from attune.service.http.segments import Segment
from attune.service.http.streaming import EventStream, problem_in_stream
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
from attune.service.usecases.forms_of_feedback import PayloadUnreadable, read_payload
from attune.service.usecases.people import key_of

router = APIRouter(tags=["users"], generate_unique_id_function=operation_name)


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
    return EventStream(_lines(call, user, key, first, source), media_type="application/x-ndjson", begun=source)


async def _lines(
    call: Call, user: str, key: UserKey, first: Exported | None, source: AsyncGenerator[Exported, None]
) -> AsyncGenerator[bytes, None]:
    yield _encoded(UserLine(user, key.tag, rfc3339(call.runtime.clock())))
    try:
        if first is not None:
            yield _encoded(_line(key, first))
        async for entry in source:
            yield _encoded(_line(key, entry))
    except Exception as error:  # noqa: BLE001  the status is sent: an export that is cut short says so in its last line
        yield to_json({"error": problem_in_stream(call, error)}) + b"\n"


def _line(key: UserKey, entry: Exported) -> ExportLine:
    match entry:
        case StoredSum(basis, total):
            times = rfc3339(total.first_seen_s), rfc3339(total.last_seen_s)
            return SumLine(basis, total.count, total.epoch, tuple(total.evidence.tolist()), *times)
        case LoggedComparison():
            try:
                told = read_payload(entry.payload)
            except PayloadUnreadable as error:
                told = {"unreadable": str(error)}
            return ComparisonLine(entry.event_id, entry.basis, entry.epoch, rfc3339(entry.observed_s), told, tuple(entry.evidence.tolist()))
        case ReplayedEvidence():
            learned = entry.event_id, entry.basis, entry.epoch, rfc3339(entry.observed_s)
            return ReplayedLine(*learned, tuple(entry.evidence.tolist()))
        case LastMember(member):
            return LastMemberLine(member)
        case TakenBack(event_id):
            return TakenBackLine(event_id)
        case StoredDecision(decision_id, record):
            try:
                return DecisionLine(decision_id, fields_of(decision_answer(decision_id, key.tag, unpack(record))))
            except RecordUnreadable as error:
                return DecisionLine(decision_id, {"unreadable": str(error)})


def _encoded(line: ExportLine) -> bytes:
    return to_json(line_object(line)) + b"\n"
