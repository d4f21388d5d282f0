"""Naming everything that is wrong with a request at once, where an unknown field stopped it before the deployment's own checks.

    pydantic refuses unknown fields ─> the body without them ─> the route's check ─> one error with the fields of both

A client that mends one field after the other would need a request for each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from attune.service.api.checks import check_feedback, check_generate, check_route, check_score
from attune.service.api.wire import FeedbackRequest, GenerateRequest, RouteRequest, ScoreRequest, Wire
from attune.service.errors import AttuneError, InvalidRequest
from attune.service.http.problems import invalid, invalid_fields
from attune.service.live.runtime import Call


def whole_error(request: Request, error: RequestValidationError) -> AttuneError:
    """Returns the error of a body that pydantic refused; of one that has only unknown fields, with what else is wrong with it."""
    unknown = error.errors()
    found = invalid_fields(unknown)
    checked = _CHECKS.get(getattr(request.scope.get("route"), "path_format", ""))
    if checked is None or not isinstance(error.body, dict) or any(item["type"] != "extra_forbidden" for item in unknown):
        return found
    model, check = checked
    try:
        check(model.model_validate(_without(error.body, [item["loc"][1:] for item in unknown])), request)
    except InvalidRequest as also:
        return invalid([*found.errors, *also.errors])
    except (AttuneError, ValidationError):  # a size or a name, which has a status of its own: told once the shape is right
        return found
    return found


def _without(body: dict[str, Any], places: Sequence[Sequence[Any]]) -> dict[str, Any]:
    kept = copy.deepcopy(body)
    for *path, name in places:
        inside: Any = kept
        for part in path:
            inside = inside[part]
        inside.pop(name, None)
    return kept


def _score(body: ScoreRequest, request: Request) -> None:
    call: Call = request.state.call
    check_score(body, call.runtime.limits, call.serving.bundle.families)


def _route(body: RouteRequest, request: Request) -> None:
    call: Call = request.state.call
    check_route(body, call.runtime.limits, call.serving.bundle.families, call.serving.bundle.portfolio.names)


def _generate(body: GenerateRequest, request: Request) -> None:
    call: Call = request.state.call
    check_generate(body, call.runtime.limits, call.serving.bundle.families, call.serving.bundle.portfolio.names)


def _feedback(body: FeedbackRequest, request: Request) -> None:
    call: Call = request.state.call
    check_feedback(body, call.runtime.limits, request.headers.get("idempotency-key"))


_CHECKS: Mapping[str, tuple[type[Wire], Callable[[Any, Request], None]]] = {
    "/score": (ScoreRequest, _score),
    "/route": (RouteRequest, _route),
    "/generate": (GenerateRequest, _generate),
    "/feedback": (FeedbackRequest, _feedback),
}
