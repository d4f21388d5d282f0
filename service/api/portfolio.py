"""`GET /portfolio` and `/portfolio/coverage`: the members and what they are worth; where users sit, and where the portfolio is weak."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.service.api.answers import json_response, problems
from attune.service.live.runtime import Call
from attune.service.usecases.coverage import MemberCoverage, RatioBin, Suggestion, WorstDecile, coverage

router = APIRouter(tags=["operations"])


@dataclass(frozen=True, slots=True)
class CoverageAnswer:
    """Answer of `GET /portfolio/coverage`; what needs a certificate is null where the serving family has none.

    `drop` names the member that is missed least; null for a portfolio of one, or without users.
    """

    bundle: str
    family: str
    users: int
    window: int
    certified: int
    mean_gap: float | None
    histogram: list[RatioBin]
    worst_decile: WorstDecile | None
    add: Suggestion | None
    members: list[MemberCoverage]
    drop: str | None


@router.get("/portfolio", responses=problems(), summary="Members, what they are worth, and the certificate")
async def portfolio(request: Request) -> Response:
    """Members with their values under every head."""
    call: Call = request.state.call
    held, families = call.serving.bundle.portfolio, call.serving.bundle.families
    members = [
        {
            "name": member.name,
            "description": member.description,
            "weights": dict(member.weights),
            "cost": float(call.serving.costs[index]),
            "measured": member.name not in held.unmeasured,
            "values": {name: dict(zip(families[name].heads, held.values[name][index].tolist(), strict=True)) for name in families.names},
            "intervals": {
                name: dict(zip(families[name].heads, held.intervals[name][index].tolist(), strict=True)) for name in families.names
            },
        }
        for index, member in enumerate(held.members)
    ]
    certificate = None if held.certificate is None else held.certificate.summary()
    return json_response({"bundle": call.serving.bundle.id, "members": members, "certificate": certificate})


@router.get(
    "/portfolio/coverage", response_model=CoverageAnswer, responses=problems(), summary="Where users sit, and where the portfolio is weak"
)
async def get_coverage(request: Request) -> Response:
    """Users routed of late by this process: those of the caller's tenant, or of all tenants for an admin key."""
    call: Call = request.state.call
    recent = call.serving.recent
    users = list(recent.of(None if call.caller.admin else call.caller.tenant))
    found = await asyncio.to_thread(coverage, call, users)
    return json_response(
        CoverageAnswer(
            bundle=call.serving.bundle.id,
            family=call.serving.family,
            users=found.users,
            window=recent.limit,
            certified=found.certified,
            mean_gap=found.mean_gap,
            histogram=found.histogram,
            worst_decile=found.worst_decile,
            add=found.add,
            members=found.members,
            drop=found.drop,
        )
    )
