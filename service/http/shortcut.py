"""The short way from admission to a route: for requests that need nothing of FastAPI but its pydantic model.

    Admission ─> Shortcut ── POST to a fixed path, JSON that its model takes ──> route
                     └────── everything else, and whatever is wrong ──> FastAPI, which answers or says what is wrong ──> route

FastAPI stays what describes the routes and what refuses requests: a body that is not taken here goes to it unchanged, so there is one
set of messages. What is left out of the short way: matching by regular expressions, four exit stacks, dependencies, and Starlette's
handling of exceptions, which the edge does for both ways. On both, a name that stands twice in one object is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attune.service.errors import FieldError, InvalidRequest

JSON_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})
"""As clients write it; other spellings go the long way."""
_ANY_JSON = re.compile(rb"(?i)\s*application/([^;/]*\+)?json\s*(;|$)")
"""What FastAPI takes for JSON."""
MOST_LEVELS = 200
"""Objects and lists within each other in one body. What reads or writes a deeper one in Python would come near the end of the stack, and
whatever runs meanwhile (the collector) would fail on it."""
_TOO_DEEP = "depth limit exceeded"
_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * 19
"""The digits of the shortest whole number for which 64 bits may not be enough."""


@dataclass(frozen=True, slots=True)
class ShortRoute:
    """A route that takes one JSON object, the request itself and optional headers, and returns a response.

    Attributes:
        route: as FastAPI has it, whose template log and metrics name.
        model: of the body.
        headers: name of the header -> parameter of the route; None where it was not sent.
    """

    route: APIRoute
    endpoint: Callable[..., Awaitable[Response]]
    model: type[BaseModel]
    body_name: str
    request_name: str
    headers: Mapping[bytes, str]

    def arguments(self, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> dict[str, Any] | None:
        """Returns what the route is called with, but for the request; None where FastAPI must say what is wrong, or read it its way.

        Raises:
            InvalidRequest: the body nests deeper than `MOST_LEVELS`, or has a name twice in one object.
        """
        sent: dict[str, str | None] = dict.fromkeys(self.headers.values())
        is_json = False
        for name, value in headers:
            if name == b"content-type":
                is_json = value.lower() in JSON_TYPES
            elif name in self.headers and sent[self.headers[name]] is None:
                sent[self.headers[name]] = value.decode("latin-1")
        if not is_json:
            return None
        try:
            read = _read(body)
            model = self.model.model_validate(read)
        except (orjson.JSONDecodeError, ValidationError):
            return None
        if _LONG in body.translate(_TO_ZERO) and _holds_rounded(read):  # and would be sent so where it is passed on
            return None
        return {self.body_name: model, **sent}


class Shortcut:
    """ASGI middleware; see the module.

    Args:
        app: FastAPI's own routing.
        routes: of which those are taken that fit.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        found = (short_route(route) for route in routes)
        self._routes = {short.route.path: short for short in found if short is not None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        short = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if short is None and (scope["type"] != "http" or scope["method"] != "POST"):
            await self._app(scope, receive, send)
            return
        message = await receive()
        whole = message["type"] == "http.request" and not message.get("more_body", False)
        arguments = short.arguments(scope["headers"], message["body"]) if short is not None and whole else None
        if short is None or arguments is None:
            if whole and any(name == b"content-type" and _ANY_JSON.match(value) for name, value in scope["headers"]):
                _refuse_unread(message["body"])
            await self._app(scope, _after(message, receive), send)
            return
        scope["route"], scope["endpoint"], scope["path_params"] = short.route, short.endpoint, {}
        response = await short.endpoint(**arguments, **{short.request_name: Request(scope, receive, send)})
        await response(scope, receive, send)


def short_route(route: BaseRoute) -> ShortRoute | None:
    """Returns a route as it can be called without FastAPI; None where it takes anything else than `ShortRoute` says."""
    if not isinstance(route, APIRoute) or route.methods != {"POST"} or route.body_field is None or "{" in route.path:
        return None
    dependant = route.dependant
    other = (dependant.path_params, dependant.query_params, dependant.cookie_params, dependant.dependencies)
    if any(other) or len(dependant.body_params) != 1 or dependant.request_param_name is None:
        return None
    (body,) = dependant.body_params
    model = body.field_info.annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or any(
        each.field_info.annotation != (str | None) or each.field_info.metadata for each in dependant.header_params
    ):
        return None
    headers = {each.alias.encode("latin-1"): each.name for each in dependant.header_params}
    return ShortRoute(route, route.endpoint, model, body.name, dependant.request_param_name, headers)


def refuse_names_twice(body: bytes, read: object) -> None:
    """Returns if no name stands twice in an object of the body: only the last would be taken, and nobody would be told.

    Args:
        body: UTF-8, which was read as JSON already.
        read: what was read; where it has as many names as the body has colons, the body need not be looked at again.

    Raises:
        InvalidRequest: a name does, or the body nests deeper than `MOST_LEVELS`.
    """
    if body.count(b":") != _names_in(read):
        _DECODER.decode(body.decode())


def _read(body: bytes) -> object:
    """Returns a body read as JSON, in which no name stands twice; raises JSONDecodeError, or InvalidRequest as `refuse_names_twice`."""
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith(_TOO_DEEP):
            raise _too_deep() from error
        raise
    refuse_names_twice(body, read)
    return read


def _refuse_unread(body: bytes) -> None:
    """Returns if FastAPI may read a body, or say what is wrong: it takes more than JSON (NaN, half a surrogate pair, other encodings).

    Raises:
        InvalidRequest: as `refuse_names_twice`.
    """
    try:
        _read(body)
    except orjson.JSONDecodeError:
        try:
            _names_in(_DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass")))
        except RecursionError as error:
            raise _too_deep() from error
        except ValueError:
            pass


def _holds_rounded(read: object) -> bool:
    """Returns whether there is a number so large that it may have been a whole one of more than 64 bits, which orjson makes a float."""
    rest = [read]
    while rest:
        each = rest.pop()
        if isinstance(each, dict | list):
            rest += each.values() if isinstance(each, dict) else each
        elif isinstance(each, float) and abs(each) >= 2**63:
            return True
    return False


def _names_in(read: object) -> int:
    """Returns how many names a body's objects have together."""
    level, names = [read], 0
    for _ in range(MOST_LEVELS):
        names += sum(len(each) for each in level if isinstance(each, dict))
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return names
    raise _too_deep()


def _too_deep() -> InvalidRequest:
    limit = f"is nested too deeply; {MOST_LEVELS} levels at most"
    return InvalidRequest(f"body: {limit}", [FieldError("body", limit)])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)[:64]
        raise InvalidRequest(f"{twice}: stands twice; only one of the two could be taken", [FieldError(twice, "stands twice")])
    return read


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str)


def _after(message: Message, receive: Receive) -> Receive:
    """Returns a `receive` that gives a message back first."""
    held = [message]

    async def again() -> Message:
        return held.pop() if held else await receive()

    return again
