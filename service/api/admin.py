"""`POST /admin/reload` and `/admin/replay`: another bundle, and users' logs learned anew under it; for keys with the admin right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from attune.service.api.answer_json import json_response, problems
from attune.service.api.prompted import NativeRequest, User, sound_unicode
from attune.service.api.shapes import ReloadAnswer
from attune.service.auth import require_admin
from attune.service.errors import BundleRefused
from attune.service.http.documentation import operation_name
from attune.service.live.runtime import Call
from attune.service.usecases.log_replay import ReplayScope, replay

router = APIRouter(prefix="/admin", tags=["operations"], generate_unique_id_function=operation_name)


class ReloadRequest(NativeRequest):
    """Body of `POST /admin/reload`.

    Attributes:
        bundle: folder of the bundle on the server; null is the newest, as at a start
    """

    bundle: Annotated[str, AfterValidator(sound_unicode), Field(max_length=4096)] | None = None


class ReplayRequest(NativeRequest):
    """Body of `POST /admin/replay`: everybody, the users of a tenant, or one user (of the caller's tenant if none is named).

    Attributes:
        tenant: whose users are replayed; null is everybody, or the caller's tenant where `user` is named
        user: one user alone; null is all of them
        cursor: of the answer before; null begins
    """

    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    user: User | None = None
    cursor: Annotated[str, Field(max_length=256)] | None = None
    limit_s: Annotated[float, Field(ge=0, le=600, description="how long one call works at most; half its deadline is the limit")] = 20.0


@dataclass(frozen=True, slots=True)
class ReplayAnswer:
    """Answer of `POST /admin/replay`: what this call did; unless `done`, the same request with `cursor` goes on.

    `without_texts` are comparisons whose texts were not kept; `unusable` those that the scorer of this bundle fails on; of `damaged`
    users the store has a record that cannot be read, which its log names.

    Attributes:
        basis: the basis that learned
        done: true where nothing is left
        cursor: to be sent with the next call; null when done
        users: whose logs this call read
        replayed: comparisons that were learned
        without_texts: comparisons that cannot be scored again, because their texts were not kept
        unusable: comparisons that the scorer of this bundle fails on
        damaged: users of whom the store has a record that cannot be read; the others are replayed
    """

    basis: str
    done: bool
    cursor: str | None
    users: int
    replayed: int
    without_texts: int
    unusable: int
    damaged: int


@router.post(
    "/reload", response_model=ReloadAnswer, responses=problems(403, 409), summary="Load another bundle, or the newest, and serve it"
)
async def reload(body: ReloadRequest, request: Request) -> Response:
    """Loads, verifies and warms a bundle, and only then lets it serve; a bad one is refused and the old one goes on."""
    call: Call = request.state.call
    require_admin(call.caller)
    before = call.serving.bundle
    try:
        loaded = await call.runtime.finish(_reload(call, Path(body.bundle) if body.bundle else None))
    except BundleRefused:
        call.runtime.metrics.reloaded("refused")
        raise
    call.runtime.metrics.reloaded("loaded")
    return json_response({"bundle": loaded[0], "basis": loaded[1], "before": before.id, "users_kept": loaded[1] == before.basis})


async def _reload(call: Call, path: Path | None) -> tuple[str, str]:
    serving = await call.runtime.reload(path)
    return serving.bundle.id, serving.bundle.basis


@router.post("/replay", response_model=ReplayAnswer, responses=problems(403), summary="Learn users' logs anew under the basis that serves")
async def replay_logs(body: ReplayRequest, request: Request) -> Response:
    """Scores what users chose under earlier bundles again and adds it to their sums under this one, once; call it until it is done."""
    call: Call = request.state.call
    require_admin(call.caller)
    done = await replay(call, ReplayScope(body.tenant, body.user, body.cursor, body.limit_s))
    return json_response(
        ReplayAnswer(
            basis=call.serving.bundle.basis,
            done=done.cursor is None,
            cursor=done.cursor,
            users=done.users,
            replayed=done.replayed,
            without_texts=done.without_texts,
            unusable=done.unusable,
            damaged=done.damaged,
        )
    )
