"""`GET /portfolio` and `/portfolio/coverage`: the members and what they are worth; where users sit, and where the portfolio is weak."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.models.seam.member_worth import Drift
from attune.service.api.answer_json import json_response, problems
from attune.service.api.shapes import PortfolioAnswer
from attune.service.http.documentation import operation_name
from attune.service.live.runtime import Call
from attune.service.live.standing import Standing
from attune.service.state.store import MemberSum
from attune.service.usecases.authors import read_standing
from attune.service.usecases.coverage import MemberCoverage, RatioBin, Suggestion, WorstDecile, coverage

router = APIRouter(tags=["operations"], generate_unique_id_function=operation_name)


@dataclass(frozen=True, slots=True)
class CoverageAnswer:
    """Answer of `GET /portfolio/coverage`; what needs a certificate is null where the serving family has none.

    `drop` names the member that is missed least; null for a portfolio of one, without users, or where nothing tells the members apart.

    Attributes:
        bundle: the bundle that serves
        family: the reward family that serves
        users: how many recent users the report is made from
        window: how many users this process remembers at most
        certified: users of whom something is proved
        mean_gap: mean of 1 minus the certified ratio, from 0 to 1
        histogram: users by their certified ratio
        worst_decile: the tenth of the users for whom least is proved
        add: what a further member should be aligned to
        members: whom each member serves best, and what is lost without it
        drop: the name of that member
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


@router.get("/portfolio", response_model=PortfolioAnswer, responses=problems(), summary="Members, what they are worth, and the certificate")
async def portfolio(request: Request) -> Response:
    """Members with what they are worth under every head: as measured, and as all evidence says, with what it is and whether they drift.

    `values` and `intervals` are the bundle's measurement (the prior's of a member that was never measured); `worth` is what routing draws
    from: mean and std after the answers in `evidence`. `share` is of the answers scored this month. `drift` has the standard errors by
    which the latest answers differ from those of the month before (or from all earlier ones), and the head where that is most. `effect` is
    what everybody likes of a member beyond its texts, in logits of a choice; null where the bundle learns nothing of it.
    """
    call: Call = request.state.call
    held, families = call.serving.bundle.portfolio, call.serving.bundle.families
    standing = await read_standing(call)
    drift, shares = standing.drift(call.serving.family), standing.shares()
    everybody = standing.everybody()
    effects = None if everybody is None else everybody.shared
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
            "worth": {name: _worth(standing, name, families[name].heads, index) for name in families.names},
            "evidence": _evidence(standing.answers(member.name)),
            "share": shares[member.name],
            "drift": _drift(drift[member.name], families[call.serving.family].heads),
            "effect": None if effects is None else {"mean": float(effects.mean[index]), "std": float(effects.std[index])},
        }
        for index, member in enumerate(held.members)
    ]
    certificate = None if held.certificate is None else held.certificate.summary()
    return json_response({"bundle": call.serving.bundle.id, "members": members, "certificate": certificate})


def _worth(standing: Standing, family: str, heads: Sequence[str], index: int) -> dict[str, dict[str, float]]:
    worth = standing.worth(family)
    numbers = zip(heads, worth.mean[index].tolist(), worth.std[index].tolist(), strict=True)
    return {head: {"mean": mean, "std": std} for head, mean, std in numbers}


def _evidence(kept: MemberSum | None) -> dict[str, float]:
    if kept is None:
        return {"answers": 0.0, "this_month": 0.0, "month_before": 0.0, "latest": 0.0}
    latest = kept.window.count + kept.window_before.count
    return {
        "answers": kept.total.count,
        "this_month": kept.this_month.count,
        "month_before": kept.month_before.count,
        "latest": latest,
    }


def _drift(drift: Drift | None, heads: Sequence[str]) -> dict[str, float | str] | None:
    return None if drift is None else {"standard_errors": drift.errors, "head": heads[drift.head]}


@router.get(
    "/portfolio/coverage", response_model=CoverageAnswer, responses=problems(), summary="Where users sit, and where the portfolio is weak"
)
async def get_coverage(request: Request) -> Response:
    """Users routed of late by this process: those of the caller's tenant, or of all tenants for an admin key."""
    call: Call = request.state.call
    recent = call.serving.recent
    users = list(recent.of(None if call.caller.admin else call.caller.tenant))
    found = await asyncio.to_thread(coverage, call, users, await read_standing(call))
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
