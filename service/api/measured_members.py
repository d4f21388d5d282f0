"""`POST /admin/members`: what members were measured to be worth elsewhere, added to their sums once; for keys with the admin right."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from attune.models.seam.member_evidence import EvidenceLayout
from attune.service.api.answer_json import json_response, problems
from attune.service.api.prompted import Id, NativeRequest
from attune.service.api.shapes import MeasurementsAnswer
from attune.service.auth import require_admin
from attune.service.errors import FieldError, invalid
from attune.service.http.documentation import operation_name
from attune.service.live.runtime import Call
from attune.service.live.standing import kept_under

router = APIRouter(prefix="/admin", tags=["operations"], generate_unique_id_function=operation_name)
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e4, le=1e4)]
Numbers = Annotated[list[Number], Field(max_length=4096)]


class MeasuredMember(NativeRequest):
    """One member: how many answers were scored, and mean and covariance of their rewards under each family's heads, in their order.

    Attributes:
        answers: how many answers were scored, above 0
        means: for each family, the mean reward under each of its heads, in the order of `GET /bundle`, in logits
        covariances: for each family, the covariance of those rewards, a row for each head
    """

    answers: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    means: dict[str, Numbers]
    covariances: dict[str, Annotated[list[Numbers], Field(max_length=4096)]]


class MeasuredMembers(NativeRequest):
    """Body of `POST /admin/members`, as `attune members measure` writes it.

    Attributes:
        basis: the basis under which the rewards were measured; must be the one that serves
        event_id: makes a repeat harmless: each member's measurement is added once under it
        members: by their names in the portfolio
        tenant: whose sums they join; null is the caller's tenant
    """

    basis: Id
    event_id: Annotated[str, Field(min_length=1, max_length=128)]
    members: Annotated[dict[Annotated[str, Field(min_length=1, max_length=64)], MeasuredMember], Field(min_length=1, max_length=256)]
    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None


@router.post("/members", response_model=MeasurementsAnswer, responses=problems(403), summary="Add what members were measured to be worth")
async def add_measured(body: MeasuredMembers, request: Request) -> Response:
    """Adds answers that were scored offline to the members' sums, as if they had been given here, once for each event id and member.

    They count in the whole sum and in this month, and not among the latest answers, against which drift is measured. Repeating the request
    is safe.
    """
    call: Call = request.state.call
    require_admin(call.caller)
    bundle, layout = call.serving.bundle, call.serving.standings.layout
    if body.basis != bundle.basis:
        raise invalid(
            [FieldError("basis", f"is {body.basis}; this deployment serves {bundle.basis}, under which rewards mean something else")]
        )
    vectors = {name: _vector(layout, name, member) for name, member in body.members.items()}
    tenant, now_s = body.tenant or call.caller.tenant, call.runtime.clock()
    results = {}
    for name, vector in vectors.items():
        added = await call.runtime.store.add_member(
            tenant,
            kept_under(bundle.basis),
            name,
            vector,
            body.members[name].answers,
            observed_s=now_s,
            event_id=f"{body.event_id}/{name}",
        )
        results[name] = "applied" if added else "duplicate"
    return json_response({"basis": bundle.basis, "event_id": body.event_id, "members": results})


def _vector(layout: EvidenceLayout, name: str, member: MeasuredMember) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    means, covariances, wrong = {}, {}, []
    for family, heads in layout.heads.items():
        mean, covariance = np.array(member.means.get(family, []), dtype=np.float64), member.covariances.get(family, [])
        if mean.shape != (heads,) or [len(row) for row in covariance] != [heads] * heads:
            wrong.append(FieldError(f"members.{name}", f"family {family} needs {heads} means and a covariance of {heads} by {heads}"))
            continue
        means[family], covariances[family] = mean, np.array(covariance, dtype=np.float64)
    if wrong:
        raise invalid(wrong)
    return layout.summed(member.answers, means, covariances)
