"""The outermost layer of every request: its id, its log line, its metrics, and the one place where errors are rendered.

    Edge ─> Admission ─> FastAPI router ─> route
      └ request id in and out, server-timing, access log by route template, problem document for whatever was raised

Pure ASGI: a disconnect stays visible to what is inside.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attune.service.http import problems
from attune.service.http.admission import ClientLeft
from attune.service.http.segments import undecoded_path
from attune.service.ids import new_id
from attune.service.observe.logs import get_logger, request_context
from attune.service.observe.metrics import Metrics
from attune.service.observe.timing import Timings

_log = get_logger(__name__)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLIENT_LEFT = 499
"""Status in logs and metrics of a request whose caller left before the answer, as nginx writes it."""


class Edge:
    """ASGI middleware; see the module.

    Args:
        app: what is inside.
        metrics: counts requests and errors.
        clock: monotonic seconds.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = self._clock()
        state = scope.setdefault("state", {})
        state["timings"] = timings = Timings()
        state["request_id"] = request_id = _request_id(scope)
        scope["path"] = undecoded_path(scope)
        answer = _Answer(send, request_id, timings, state)
        with request_context(request_id):
            try:
                await self._app(scope, receive, answer.send)
            except ClientLeft:
                answer.status = CLIENT_LEFT
            except Exception as error:  # noqa: BLE001  whatever it is, the client gets a document and the log the details
                await self._render(scope, answer, error)
            finally:
                self._account(scope, answer.status, self._clock() - began_s, timings)

    async def _render(self, scope: Scope, answer: _Answer, error: Exception) -> None:
        known = problems.translated(error, scope["method"])
        if known.code == "internal":
            _log.exception("unexpected error", route=_template(scope), kind=type(error).__name__)
        elif known.status >= 500:
            _log.warning("request failed", code=known.code, detail=known.detail, route=_template(scope))
        self._metrics.refused(known.code)
        if answer.started:  # too late for a document; the server closes the connection, which a client can tell from an end
            raise error
        status, headers, body = problems.render(known, scope["path"], scope["state"]["request_id"])
        await answer.send({"type": "http.response.start", "status": status, "headers": headers})
        await answer.send({"type": "http.response.body", "body": body})

    def _account(self, scope: Scope, status: int, seconds: float, timings: Timings) -> None:
        route = _template(scope)
        self._metrics.answered(route, scope["method"], status, seconds)
        self._metrics.took(timings.seconds)
        level = _log.debug if route in _PROBED else _log.info
        stages = {f"{stage}_ms": round(1000 * value, 2) for stage, value in timings.seconds.items()}
        level("request", method=scope["method"], route=route, status=status, duration_ms=round(1000 * seconds, 2), **stages)


_PROBED = frozenset({"/livez", "/readyz", "/metrics"})


class _Answer:
    """Watches the response go by and adds the headers that every answer has."""

    __slots__ = ("_request_id", "_send", "_state", "_timings", "started", "status")

    def __init__(self, send: Send, request_id: str, timings: Timings, state: MutableMapping[str, Any]) -> None:
        self._send = send
        self._request_id = request_id
        self._timings = timings
        self._state = state
        self.started = False
        self.status = 500

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            call = self._state.get("call")
            extra = {"x-request-id": self._request_id, **(call.headers if call else {})}
            if timing := self._timings.header():
                extra["server-timing"] = timing
            headers = [*message.get("headers", []), *((name.encode(), value.encode("latin-1", "replace")) for name, value in extra.items())]
            message = {**message, "headers": headers}
        await self._send(message)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            return given if _REQUEST_ID.fullmatch(given) else new_id()
    return new_id()


def _template(scope: Scope) -> str | None:
    route = scope.get("route")
    return getattr(route, "path_format", None)
