"""The short way to a route: which routes have it, and that no request can tell it from FastAPI's."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Header, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attune.service.api import chat, feedback, generate, rerank, responses, route, score
from attune.service.http.shortcut import Shortcut, short_route

JSON = {"content-type": "application/json"}


class Asked(BaseModel):
    """A body with what routes of the service have: a bound, an optional field, anything at all."""

    model_config = ConfigDict(extra="forbid", strict=True)
    number: Annotated[float, Field(le=2)]
    name: str | None = None
    anything: Any = None


class Whole:
    """ASGI middleware that gives the body in one piece, as admission does; httpx gives it in two."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)

        async def give() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, give, send)


def application(*, short: bool) -> FastAPI:
    router = APIRouter()

    @router.post("/ask")
    async def ask(body: Asked, request: Request, idempotency_key: Annotated[str | None, Header()] = None) -> Response:
        told = {"body": body.model_dump(), "key": idempotency_key, "path": request.url.path, "route": request.scope["route"].path}
        return JSONResponse(told)

    app = FastAPI()
    app.include_router(router)
    if short:
        app.add_middleware(Shortcut, routes=router.routes)
        app.add_middleware(Whole)
    return app


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b'{"number": 1.5, "name": "a", "anything": [1, {"b": null}]}', JSON),
        (b'{"number": 1}', {"content-type": "application/json; charset=utf-8", "idempotency-key": "k-1"}),
        (b'{"number": 1}', {"content-type": "application/vnd.x+json"}),
        (b'{"number": 1}', {"content-type": "text/plain"}),
        (b'{"number": 1}', {}),
        (b'{"number": 1, "anything": NaN}', JSON),
        (b'{"number": 1, "name": "\\ud800"}', JSON),
        (b'{"number": 1, "anything": [18446744073709551616, -9223372036854775809, 1]}', JSON),
        (b'{"number": 1, "name": "1234567890123456789012", "anything": {"a": [1e30, -9223372036854775808]}}', JSON),
        (b'{"number": 3}', JSON),
        (b'{"number": 1, "unknown": 2}', JSON),
        (b'{"number": "1"}', JSON),
        (b'{"number": 1', JSON),
        (b"[]", JSON),
        (b"", JSON),
        (b"\xff", JSON),
    ],
)
async def test_a_request_is_answered_alike_on_both_ways(content: bytes, headers: dict[str, str]) -> None:
    answers = []
    for short in (True, False):
        transport = httpx.ASGITransport(application(short=short), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post("/ask", content=content, headers=headers)
            answers.append((answer.status_code, answer.content))
    assert answers[0] == answers[1]


async def test_other_methods_and_paths_go_the_long_way() -> None:
    transport = httpx.ASGITransport(application(short=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/ask")).status_code == 405
        assert (await client.post("/nowhere", json={})).status_code == 404


def test_every_route_that_is_asked_often_has_the_short_way() -> None:
    routes = [each for module in (score, generate, route, feedback, chat, responses, rerank) for each in module.router.routes]
    short = {found.route.path for each in routes if (found := short_route(each)) is not None}
    assert short == {
        "/score",
        "/generate",
        "/route",
        "/feedback",
        "/v1/chat/completions",
        "/v1/responses",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
    }


def test_a_route_with_anything_but_one_body_and_headers_has_none() -> None:
    router = APIRouter()

    @router.post("/with/{part}")
    async def with_a_part(part: str, body: Asked, request: Request) -> Response:
        return Response()

    @router.post("/with-a-query")
    async def with_a_query(body: Asked, request: Request, wanted: int = 1) -> Response:
        return Response()

    @router.post("/with-a-number")
    async def with_a_number(body: Asked, request: Request, size: Annotated[int, Header()] = 1) -> Response:
        return Response()

    @router.post("/raw")
    async def raw(request: Request) -> Response:
        return Response()

    assert [short_route(each) for each in router.routes] == [None] * 4
