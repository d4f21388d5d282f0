"""The application is entered at the outermost layer that was added, whoever added it and whatever it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from attune.service.http.application import Application


class Marks:
    """Notes the requests that come by."""

    def __init__(self, inside: ASGIApp, seen: list[str]) -> None:
        self._inside, self._seen = inside, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._seen.append(scope["type"])
        await self._inside(scope, receive, send)


async def dispatched(request: Request, following: RequestResponseEndpoint) -> Response:
    response = await following(request)
    response.headers["x-mark"] = "dispatched"
    return response


def marked(inside: ASGIApp) -> ASGIApp:
    async def layer(scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-mark", b"a function")]
            await send(message)

        await inside(scope, receive, answer)

    return layer


def dispatch(app: FastAPI) -> None:
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatched)


def mark(app: FastAPI) -> None:
    app.add_middleware(marked)


def nothing(_app: FastAPI) -> None: ...


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.began = True
    yield


@pytest.mark.parametrize(("add", "told"), [(nothing, None), (dispatch, "dispatched"), (mark, "a function")])
@pytest.mark.parametrize("ours", [True, False])
def test_every_layer_that_was_added_is_entered_once(add: Callable[[FastAPI], None], told: str | None, ours: bool) -> None:
    app, seen = Application(lifespan=lifespan), list[str]()

    @app.get("/began")
    async def began(request: Request) -> bool:
        return bool(request.app.state.began)

    if ours:
        app.add_middleware(Marks, seen=seen)
    add(app)
    with TestClient(app) as client:
        answer = client.get("/began")
        assert (answer.json(), answer.headers.get("x-mark")) == (True, told)
        assert client.get("/nowhere").status_code == 404
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/began"):
            pass
    assert seen == (["lifespan", "http", "http", "websocket"] if ours else [])
