"""What can go wrong for a caller: the server refused or failed, or nobody answered.

AttuneError
├── AttuneFailed        the server answered with a problem: `status`, `code`, `detail`
└── AttuneUnreachable   no answer came, after all retries
"""

from __future__ import annotations

import json
import re
from typing import Any

import httpx


class AttuneError(Exception):
    """Base of both."""


class AttuneUnreachable(AttuneError):
    """No answer came. For feedback, sending the same event again is safe."""


class AttuneFailed(AttuneError):
    """The server answered with a problem document.

    Attributes:
        status: of HTTP.
        code: stable, for programs: `overloaded`, `unknown-candidate`, ...
        detail: for people, with the numbers.
        errors: the fields that are wrong, where some are.
        request_id: what the server's log calls this request.
    """

    def __init__(self, status: int, code: str, detail: str, errors: list[dict[str, Any]], request_id: str | None) -> None:
        fields = [f"{one.get('field')}: {one.get('message')}" for one in errors]
        # The detail repeats the first fields.
        super().__init__("; ".join([f"{status} {code}: {detail}", *(field for field in fields if field not in detail)]))
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.request_id = request_id


def why_silent(error: Exception | None) -> str:
    """Returns in words why no answer came: no class and no number of an error."""
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error or "")).strip().lower() or "no answer came in time"


def unreadable(status: int, body: bytes, headers: httpx.Headers) -> AttuneFailed:
    """Returns the failure of an answer that no Attune wrote: its first words, in one line, or where it sends callers on to."""
    words = "".join(sign if sign.isprintable() else " " for sign in body[:200].decode("utf-8", "replace"))
    moved = f"sends callers on to {headers['location']}" if 300 <= status < 400 and "location" in headers else ""
    return AttuneFailed(status, "unreadable", moved or " ".join(words.split()) or "empty body", [], headers.get("x-request-id"))


def failed_late(problem: dict[str, Any]) -> AttuneFailed:
    """Returns the failure that a problem document describes which came after the status."""
    return AttuneFailed(
        problem.get("status", 500),
        problem.get("code", "unknown"),
        problem.get("detail", ""),
        problem.get("errors") or [],
        problem.get("request_id"),
    )


def failure_of(status: int, body: bytes, headers: httpx.Headers) -> AttuneFailed:
    """Returns the failure that a response describes, whoever wrote it: a proxy's page becomes its first words."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return unreadable(status, body, headers)
    errors = document.get("errors")
    return AttuneFailed(
        status,
        str(document.get("code", "unknown")),
        str(document.get("detail", document.get("title", ""))),
        [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else [],
        headers.get("x-request-id") or document.get("request_id"),
    )
