"""What the body of a server's answer holds: a document, lines of objects, or the lines of a stream.

Lines end at a line feed alone. Python's own ideas of a line end at U+2028, U+0085 and others too, which stand unescaped in JSON texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from attune.client.answers import Answer
from attune.client.failures import failed_late, unreadable

Answered = TypeVar("Answered", bound=Answer)


class Lines:
    """Gathers the bytes of a stream until a line is whole."""

    def __init__(self) -> None:
        self._begun = b""

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yields the lines that this piece completes, without their ends."""
        *whole, self._begun = (self._begun + piece).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")


def document(response: httpx.Response, kind: type[Answered]) -> Answered:
    """Returns the document that a response holds.

    Raises:
        AttuneFailed: it holds something else, as a page of a proxy, or of a server that is no Attune.
    """
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise unreadable(response.status_code, response.content, response.headers) from error


def objects(response: httpx.Response) -> list[dict[str, Any]]:
    """Returns the objects that a response holds, one a line.

    Raises:
        AttuneFailed: it holds something else.
    """
    try:
        found = [json.loads(line) for line in response.content.split(b"\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise unreadable(response.status_code, response.content, response.headers) from error
    if not all(isinstance(one, dict) for one in found):
        raise unreadable(response.status_code, response.content, response.headers)
    return found


def whole_export(response: httpx.Response) -> list[dict[str, Any]]:
    """Returns the lines of an export, the first of which says whose it is.

    Raises:
        AttuneFailed: it holds something else, or was cut short: its last line says by what, since its status was sent before.
    """
    lines = objects(response)
    if not lines or lines[0].get("type") != "user":
        raise unreadable(response.status_code, response.content, response.headers)
    if isinstance(problem := lines[-1].get("error"), dict):
        raise failed_late(problem)
    return lines
