"""What operators and orchestrators ask: alive, ready, metrics, versions, the bundle, and what an error code means.

`/livez` fails while the scorer is dead, until this process is restarted, or its scorer where that is a process of its own;
`/readyz` when requests should go elsewhere for now. Both read what the background found (`live.health`) and cost nothing to ask.
"""

from __future__ import annotations

import platform
from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from attune import __version__
from attune.service.api.answer_json import json_response, problems
from attune.service.api.shapes import AliveAnswer, BundleAnswer, ErrorAnswer, ReadyAnswer, VersionAnswer
from attune.service.errors import AttuneError, NotFound, NotReady
from attune.service.http.documentation import operation_name
from attune.service.live.health import Health
from attune.service.live.runtime import Call
from attune.service.observe.metrics import Metrics

router = APIRouter(tags=["operations"], generate_unique_id_function=operation_name)


@router.get("/livez", response_model=AliveAnswer, responses=problems(), summary="Whether the process should be kept")
async def livez(request: Request) -> Response:
    """503 while the scorer is dead, until it or this process is started again."""
    serving = request.app.state.live.serving
    if serving is not None and not serving.batcher.alive:
        raise NotReady("the scorer has died and must be started again")
    return json_response({"status": "alive"})


@router.get("/readyz", response_model=ReadyAnswer, responses=problems(), summary="Whether requests should be sent here")
async def readyz(request: Request) -> Response:
    """The last verdicts with their ages; 503 while starting or draining, and while scorer, store or all members cannot serve."""
    health: Health = request.app.state.health
    return json_response(health.report())


@router.get("/metrics", response_class=Response, summary="Prometheus metrics")
async def metrics(request: Request) -> Response:
    """Exposition in the format that `Accept` asks for; where several processes serve, of all of them, as text."""
    if (together := request.app.state.exposition) is not None:
        return Response(await together(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})
    counted: Metrics = request.app.state.metrics
    content, content_type = counted.render(request.headers.get("accept", ""))
    return Response(content, headers={"content-type": content_type})


@router.get("/version", response_model=VersionAnswer, summary="What runs")
async def version(request: Request) -> Response:
    """Versions of what runs."""
    serving = request.app.state.live.serving
    return json_response(
        {
            "attune": __version__,
            "python": platform.python_version(),
            "bundle": None if serving is None else serving.bundle.id,
            "basis": None if serving is None else serving.bundle.basis,
        }
    )


@router.get("/bundle", response_model=BundleAnswer, responses=problems(), summary="The bundle that serves")
async def bundle(request: Request) -> Response:
    """Families, template and manifest of the bundle."""
    call: Call = request.state.call
    loaded, families = call.serving.bundle, call.serving.bundle.families
    return json_response(
        {
            "bundle": loaded.id,
            "basis": loaded.basis,
            "family": call.serving.family,
            "families": {name: {"heads": list(families[name].heads), "evidence": families[name].evidence_size} for name in families.names},
            "cards": loaded.cards,
            "provider": call.serving.provider,
            "batch_budget_tokens": call.serving.budget_tokens,
            "template": loaded.template.to_json(),
            "manifest": dict(loaded.manifest),
        }
    )


@router.get("/errors/{code}", response_model=ErrorAnswer, responses=problems(404), summary="What an error code means")
async def explain_error(code: Annotated[str, Path(description="`code` of a problem document")]) -> Response:
    """What the `type` of a problem document points at."""
    for kind in _all_kinds(AttuneError):
        if kind.code == code:
            document = {"code": code, "status": kind.status, "title": kind.title, "meaning": (kind.__doc__ or "").split("\n\n")[0]}
            return Response(orjson.dumps(document), media_type="application/json")
    raise NotFound("no error has this code")


def _all_kinds(kind: type[AttuneError]) -> list[type[AttuneError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _all_kinds(child))]
