"""The outermost layer of every request: its id, its log line, its metrics, and the one place where errors are rendered.

    Edge ─> Admission ─> FastAPI router ─> route
      └ request id and trace in and out, server-timing, access log by route template, problem document for whatever was raised

A prefix that a proxy puts in front is taken off here; HEAD is GET without its body, OPTIONS says which methods there are. Pure ASGI: a
disconnect stays visible to what is inside.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attune.service.errors import AttuneError, MethodNotAllowed, Overloaded
from attune.service.http import problems
from attune.service.http.admission import HEALTH_PATHS
from attune.service.http.bodies import ClientLeft
from attune.service.http.refusals import Thinned
from attune.service.http.segments import undecoded_path
from attune.service.ids import new_id
from attune.service.observe.logs import get_logger, log_request, request_context
from attune.service.observe.metrics import Metrics
from attune.service.observe.timing import Timings
from attune.service.observe.tracing import Served, Spans, begin_trace

_log = get_logger(__name__)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PLAIN_SEGMENT = re.compile(r"[a-z0-9._-]{0,24}")
CLIENT_LEFT = 499
"""Status in logs and metrics of a request whose caller left before the answer, as nginx writes it."""

SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"),)


class Edge:
    """ASGI middleware; see the module.

    Args:
        app: what is inside.
        metrics: counts requests and errors.
        root_path: prefix that a proxy puts in front of every path, and may or may not take off.
        slow_s: a request that takes longer is logged as a warning.
        spans: take those of every request but of probes.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        root_path: str = "",
        slow_s: float = 10.0,
        clock: Callable[[], float] = time.perf_counter,
        spans: Spans | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._prefix = root_path.rstrip("/")
        self._slow_s = slow_s
        self._clock = clock
        self._spans = spans
        self._refused = Thinned()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = self._clock()
        # A copy: the server goes on reading the method of its own, to leave out the body of an answer to HEAD.
        scope = {**scope, "method": "GET" if scope["method"] == "HEAD" else scope["method"], "asked": scope["method"]}
        scope["path"] = self._local(undecoded_path(scope))
        state = scope.setdefault("state", {})
        trace = begin_trace(_header(scope, b"traceparent"), None if scope["path"] in HEALTH_PATHS else self._spans)
        noted = None if trace is None else trace.noted
        state["timings"] = timings = Timings(entered=None if noted is None else noted.stages)
        state["request_id"] = request_id = _request_id(scope)
        fields = {} if trace is None else {"trace_id": trace.trace_id}
        answer = _Answer(send, request_id, timings, state, None if trace is None else trace.header)
        error: AttuneError | None = None
        with request_context(request_id, **fields):
            try:
                await self._app(scope, receive, answer.send)
            except ClientLeft:
                answer.status = CLIENT_LEFT
            except Exception as raised:  # noqa: BLE001  whatever it is, the client gets a document and the log the details
                error = problems.translated(raised, scope["method"], self._prefix)
                await self._render(scope, answer, raised, error)
            finally:
                ended_s = self._clock()
                self._account(scope, answer.status, ended_s - began_s, timings, error, {"request_id": request_id, **fields})
                if self._spans is not None and trace is not None and noted is not None:
                    self._spans.export(trace, _served(scope, answer.status, (began_s, ended_s), error))

    def _local(self, path: str) -> str:
        if self._prefix and (path == self._prefix or path.startswith(f"{self._prefix}/")):
            return path[len(self._prefix) :] or "/"
        return path

    async def _render(self, scope: Scope, answer: _Answer, raised: Exception, known: AttuneError) -> None:
        if isinstance(known, MethodNotAllowed) and scope["method"] == "OPTIONS":
            await answer.send({"type": "http.response.start", "status": 204, "headers": [(b"allow", _allowed(known))]})
            await answer.send({"type": "http.response.body", "body": b""})
            return
        if known.code == "internal":
            _log.error("unexpected error", route=_template(scope), kind=type(raised).__name__, exc_info=raised)
        elif known.status >= 500 and scope["path"] not in HEALTH_PATHS:  # whose verdicts are logged where they change
            _log.warning("request failed", code=known.code, detail=known.detail, route=_template(scope))
        self._metrics.refused(known.code)
        if answer.started:  # too late for a document; the server closes what is left open, which a client can tell from an end
            return
        status, headers, body = problems.render(known, scope["path"], scope["state"]["request_id"], self._prefix)
        await answer.send({"type": "http.response.start", "status": status, "headers": headers})
        await answer.send({"type": "http.response.body", "body": body})

    def _account(self, scope: Scope, status: int, seconds: float, timings: Timings, error: AttuneError | None, ids: dict[str, str]) -> None:
        route, method = _template(scope), scope["asked"]
        self._metrics.answered(route, method, status, seconds)
        self._metrics.took(timings.seconds)
        untold: int | None = 0
        if error is not None and error.code == Overloaded.code and (untold := self._refused.left_out()) is None:
            return
        level = logging.WARNING if seconds > self._slow_s else logging.DEBUG if route in HEALTH_PATHS else logging.INFO

        def line() -> dict[str, object]:
            always = {"method": method, "route": route, "status": status, "duration_ms": round(1000 * seconds, 2)}
            left_out = {"left_out": untold} if untold else {}
            return always | _details(scope, route, error) | _stages(timings) | ids | left_out

        log_request(level, line)


def _details(scope: Scope, route: str | None, error: AttuneError | None) -> dict[str, object]:
    """Returns what tells an operator whose request this was and what became of it; nothing that a user wrote."""
    found: dict[str, object] = {}
    state = scope["state"]
    if route is None:
        found["path"] = _cut(scope["path"])
    if error is not None:
        found["code"] = error.code
    caller = state.get("caller")
    if caller is not None:
        found["tenant"], found["key_id"] = caller.tenant, caller.key_id
    if (caller is None or caller.key_id == "open") and scope.get("client"):
        found["client"] = scope["client"][0]
    call = state.get("call")
    for header, name in (("x-decision-id", "decision_id"), ("x-attune-member", "member")):
        if call is not None and header in call.headers:
            found[name] = call.headers[header]
    return found


def _served(scope: Scope, status: int, lasted: tuple[float, float], error: AttuneError | None) -> Served:
    route, method = _template(scope), scope["asked"]
    told: dict[str, str | int] = {"http.request.method": method, "http.response.status_code": status}
    if route is not None:
        told["http.route"] = route
    if error is not None:
        told["error.type"] = error.code
    told |= {f"attune.{name}": str(value) for name, value in _details(scope, route, error).items() if name != "client"}
    told["attune.request_id"] = scope["state"]["request_id"]
    return Served(method if route is None else f"{method} {route}", *lasted, status >= 500, told)


def _stages(timings: Timings) -> dict[str, object]:
    return {f"{stage}_ms": round(1000 * value, 2) for stage, value in timings.seconds.items()}


def _cut(path: str) -> str:
    """Returns the first segment of a path, where it is a plain word; what comes after it may be a user's."""
    first, _, rest = path.removeprefix("/").partition("/")
    return ("/" + first if _PLAIN_SEGMENT.fullmatch(first) else "/…") + ("/…" if rest else "")


class _Answer:
    """Watches the response go by and adds the headers that every answer has."""

    __slots__ = ("_request_id", "_send", "_state", "_timings", "_traceparent", "started", "status")

    def __init__(self, send: Send, request_id: str, timings: Timings, state: MutableMapping[str, Any], traceparent: str | None) -> None:
        self._send = send
        self._request_id = request_id
        self._timings = timings
        self._state = state
        self._traceparent = traceparent
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
            if self._traceparent:
                extra["traceparent"] = self._traceparent
            added = ((name.encode(), value.encode("latin-1", "replace")) for name, value in extra.items())
            message = {**message, "headers": [*message.get("headers", []), *SAFE_HEADERS, *added]}
        await self._send(message)


def _allowed(error: AttuneError) -> bytes:
    methods = [method for method in error.headers().get("allow", "").split(", ") if method]
    return ", ".join([*methods, *(["HEAD"] if "GET" in methods and "HEAD" not in methods else []), "OPTIONS"]).encode()


def _header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            text: str = value.decode("latin-1")
            return text
    return None


def _request_id(scope: Scope) -> str:
    given = _header(scope, b"x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new_id()


def _template(scope: Scope) -> str | None:
    route = scope.get("route")
    return getattr(route, "path_format", None)
