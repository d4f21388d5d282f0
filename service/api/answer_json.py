"""What answers share: how they are written as JSON, what every answer says of its user, and how a route documents its errors.

Answers are frozen dataclasses that orjson writes and from which FastAPI documents the schema; field names are the contract of the API.
A field that says nothing in the common case is left out of the JSON where its type is `| None` and its name is in `OMITTED_IF_NONE`, and
not in the `SHOWN_IF_NONE` of its class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.responses import Response

OMITTED_IF_NONE = frozenset(
    {
        "explanation",
        "examples",
        "dropped_prompt_tokens",
        "truncated_tokens",
        "unknown_tokens",
        "unscored_tokens",
        "mean",
        "std",
        "weights_std",
        "costs",
        "last",
        "effects",
        "prompt",
        "effect",
    }
)


@dataclass(frozen=True, slots=True)
class UserSeen:
    """Whose answer this is, and from how many comparisons it was made.

    Attributes:
        id: the user as the request named them
        comparisons: what this user's feedback has taught so far; each event counts once, and taking one back subtracts it
    """

    id: str
    comparisons: int


def to_json(answer: object) -> bytes:
    """Returns an answer as JSON; floats are written so that they read back as the same doubles."""
    return orjson.dumps(answer, default=fields_of, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def json_response(answer: object) -> Response:
    """Returns an answer as a response."""
    return Response(to_json(answer), media_type="application/json")


def fields_of(value: Any) -> Mapping[str, Any]:
    """Returns the fields of an answer as they are written, without those that are left out."""
    names, shown = value.__dataclass_fields__, getattr(value, "SHOWN_IF_NONE", ())
    return {name: field for name in names if (field := getattr(value, name)) is not None or name not in OMITTED_IF_NONE or name in shown}


def rfc3339(seconds: float | None) -> str | None:
    """Returns a time as RFC 3339 in UTC with milliseconds; None for None and for times outside of the years 1 to 9999."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return None


Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """Returns the error responses of a route for its documentation: those that every route has, and these."""
    every = (401, 405, 422, 429, 500, 503, 504)
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _TITLES[status], "content": content} for status in sorted({*every, *statuses})}


def also(media_type: str, description: str) -> Responses:
    """Returns the documentation of an answer that is not JSON."""
    # Events are objects for some readers of the document and one text for others, so nothing is said of their form.
    schema = {} if media_type == "text/event-stream" else {"type": "string"}
    return {200: {"content": {media_type: {"schema": schema}}, "description": description}}


_TITLES = {
    400: "Bad request",
    401: "Unauthenticated",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    410: "Expired",
    413: "Too large",
    422: "Invalid request",
    429: "Overloaded or rate limited",
    500: "Internal error",
    502: "Member failed",
    503: "Unavailable",
    504: "Deadline exceeded",
}
