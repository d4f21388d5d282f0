"""Errors on the wire: RFC 9457 problem documents on native routes, the OpenAI error object under `/v1/`.

Every error is an `AttuneError` by the time it comes here; what FastAPI and Starlette raise is translated first. Nothing of a request's
values is repeated, and of its field names only what is printable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from attune.models.seam.counts import counted
from attune.models.seam.printable import printable
from attune.service.errors import (
    AttuneError,
    FieldError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TextTooLong,
    TooLarge,
    invalid,
)

_BRANCH = re.compile(r"(str|int|float|bool|(list|dict|function-\w+|constrained-\w+|nullable|tagged-union)\[?.*|[A-Z]\w*)")
"""How pydantic calls a branch of a union inside a location; no field of a request is called so."""

PROBLEM = b"application/problem+json"
JSON = b"application/json"
MAX_FIELDS = 20

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_OPENAI_CODES = {
    "unauthenticated": "invalid_api_key",
    "unknown-member": "model_not_found",
    "too-large": "request_too_large",
    "prompt-filtered": "content_filter",
}

# Compatible requests are checked in native form; a client knows its own names.
_OPENAI_FIELDS = {"candidates": "n", "responses": "documents", "member": "model", "family": "attune.family", "among": "attune.among"}
_NATIVE_FIELD = re.compile(rf"(?<![\w.])({'|'.join(_OPENAI_FIELDS)})(?=: |\[)")
COMPATIBLE = ("/v1/", "/v2/", "/rerank")
_WITHOUT_V1 = frozenset({"/chat/completions", "/completions", "/models", "/embeddings", "/responses"})
"""Where clients of OpenAI's API ask whose base URL ends too early."""

_PLAIN_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not a field of this request",
    "string_unicode": "holds a lone surrogate, which is no Unicode text",
    "model_attributes_type": "must be a JSON object, sent as application/json",
    "model_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "json_invalid": "is not JSON",
}


_SIZES = frozenset({"too_long", "too_short", "string_too_long", "string_too_short"})


@dataclass(frozen=True, slots=True)
class Problem:
    """RFC 9457 problem document; `errors` names each field of an `invalid-request`.

    Attributes:
        type: path of the page that explains the code, `/errors/{code}`
        title: what kind of error it is, the same for every error of this code
        status: HTTP status, repeated
        code: what programs tell errors apart by; stable
        detail: what was wrong this time: the field, the number and the limit
        request_id: as in the header `x-request-id` and in the server's log
        errors: with `invalid-request`: for each field, its name and what is wrong with it
    """

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    errors: list[dict[str, str]] | None = None


def is_openai(path: str) -> bool:
    """Returns whether errors of this path are as clients of others' APIs read them: OpenAI's object, with Cohere's `message` beside it."""
    return path.startswith(COMPATIBLE)


def document(error: AttuneError, request_id: str, root_path: str = "") -> dict[str, Any]:
    """Returns the problem document of an error; `root_path` is what a proxy puts in front of our paths."""
    return {
        "type": f"{root_path}/errors/{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": printable(error.detail, 2000),
        "request_id": request_id,
        **error.extra(),
    }


def openai_object(error: AttuneError, request_id: str) -> dict[str, Any]:
    """Returns the OpenAI error object of an error; `param` is the first field that is wrong."""
    fields = error.errors if isinstance(error, InvalidRequest) else ()
    kind = _OPENAI_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    code = "context_length_exceeded" if isinstance(error, TextTooLong) else _OPENAI_CODES.get(error.code, error.code)
    message = printable(error.detail, 2000)
    if isinstance(error, TextTooLong):  # some clients know it by OpenAI's words and not by its code
        message = f"This model's maximum context length is exceeded: {message}"
    message = _NATIVE_FIELD.sub(lambda found: _OPENAI_FIELDS[found[0]], message)
    return {
        "message": message,
        "error": {
            "message": message,
            "type": kind,
            "param": _renamed(fields[0].field) if fields else None,
            "code": code,
            "request_id": request_id,
        },
    }


def _renamed(field: str) -> str:
    head, bracket, rest = field.partition("[")
    return _OPENAI_FIELDS.get(head, head) + bracket + rest


def openai_status(error: AttuneError) -> int:
    """Returns the status under `/v1/`: as documented, but 400 for a malformed request or a text without room, as OpenAI answers."""
    return 400 if isinstance(error, InvalidRequest | TextTooLong) else error.status


def render(error: AttuneError, path: str, request_id: str, root_path: str = "") -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Returns status, headers and body of an error's response."""
    openai = is_openai(path)
    if path in _WITHOUT_V1 and error.code == NotFound.code:
        openai = True
        error = NotFound(f"there is no {path} here; OpenAI's paths are below {root_path}/v1: let the client's base URL end in /v1")
    body = orjson.dumps(openai_object(error, request_id) if openai else document(error, request_id, root_path))
    headers = [(b"content-type", JSON if openai else PROBLEM), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers().items()]
    return openai_status(error) if openai else error.status, headers, body


def translated(error: Exception, method: str, root_path: str = "") -> AttuneError:
    """Returns the error tree's version of what FastAPI, Starlette or a bug raised; `root_path` as in `document`."""
    match error:
        case AttuneError():
            return error
        case RequestValidationError() | ValidationError():  # the latter: a compatible request that the native limits refuse
            return invalid_fields(error.errors())
        case HTTPException():
            return _http(error, method, root_path)
        case _:
            return AttuneError("an unexpected error; the log has its details under this request id")


def _http(error: HTTPException, method: str, root_path: str) -> AttuneError:
    match error.status_code:
        case 404:
            docs, listed = f"{root_path}/docs", f"{root_path}/openapi.json"
            return NotFound(f"there is nothing at this path; GET {docs} shows what there is, and {listed} lists it for programs")
        case 405:
            return _NotThisMethod(method, (error.headers or {}).get("Allow", ""))
        case 413:
            return TooLarge(str(error.detail))
        case _:  # what is left is a body that FastAPI could not read: not UTF-8, nested too deeply, a number too long
            return InvalidRequest("body: cannot be read as JSON", [FieldError("body", "cannot be read as JSON")])


class _NotThisMethod(MethodNotAllowed):
    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"{printable(method)} is not a method of this path{f'; it has {allow}' if allow else ''}")
        self._allow = allow

    def headers(self) -> Mapping[str, str]:
        return {"allow": self._allow} if self._allow else {}


def invalid_fields(found: Sequence[Any]) -> InvalidRequest:
    """Returns the error for what pydantic found."""
    # Of a union pydantic names every branch that did not fit: a client knows the field alone.
    told: dict[str, list[str]] = {}
    for item in found:
        messages = told.setdefault(_field(item["loc"]), [])
        if (message := _message(item)) not in messages:
            messages.append(message)
    # What is wrong inside of a field says which branch was meant; that the whole fits none of the others then misleads.
    inner = [field for field in told if not any(other.startswith((f"{field}[", f"{field}.")) for other in told)]
    fields = [FieldError(field, ", or ".join(told[field])) for field in inner]
    return invalid(fields[:MAX_FIELDS], more=max(0, len(fields) - MAX_FIELDS))


def _field(location: Sequence[Any]) -> str:
    parts = list(location)
    if len(parts) > 1 and parts[0] in {"body", "path", "query", "header"}:
        parts = parts[1:]
    if not parts or isinstance(parts[0], int):  # an error of the whole, or the position of a syntax error
        return "body"
    name = ""
    for part in parts[:1] + [part for part in parts[1:] if not (isinstance(part, str) and _BRANCH.fullmatch(part))]:
        name += f"[{part}]" if isinstance(part, int) else f".{printable(str(part))}" if name else printable(str(part))
    return name


def _message(item: Any) -> str:
    kind, context = item["type"], item.get("ctx") or {}
    if kind == "json_invalid":
        position = item["loc"][-1]
        return f"is not JSON: {printable(str(context.get('error', 'syntax error')))} at character {position}"
    if kind in _PLAIN_WORDS:
        return _PLAIN_WORDS[kind]
    if kind in _SIZES:
        return _size(kind, context)
    text = str(item["msg"]).removeprefix("Value error, ")
    if text.startswith("Input should "):
        text = "must " + text.removeprefix("Input should ")
    return printable(text, 300)


def _size(kind: str, context: Mapping[str, Any]) -> str:
    """Returns the number, where pydantic tells it, and the limit."""
    what = "item" if context.get("field_type") in {"List", "Dictionary", "Set", "Tuple"} else "character"
    found = context.get("actual_length")
    has = "is too long" if kind.endswith("long") else "is too short"
    if found is not None:
        has = f"has {counted(found, what)}"
    if kind.endswith("long"):
        most = context["max_length"]
        return f"{has}; at most {counted(most, f'{what} is', f'{what}s are')} allowed"
    least = context["min_length"]
    return f"{has}; at least {counted(least, f'{what} is', f'{what}s are')} needed"
