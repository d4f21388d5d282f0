"""From the lines of a server-sent stream to its events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from attune.client.answers import Done, Generated, Routed, Started, Token
from attune.client.failures import failed_late, unreadable

Event = Started | Token | Done


class Events:
    """Gathers lines until an event is whole."""

    def __init__(self) -> None:
        self._name = ""
        self._data: list[str] = []

    def feed(self, line: str) -> Iterator[Event]:
        """Yields the event that this line completes, if it completes one.

        Raises:
            AttuneFailed: the event says that the generation failed after it had begun, or cannot be read.
        """
        if line:
            field, _, value = line.partition(":")
            if field == "event":
                self._name = value.strip()
            elif field == "data":
                self._data.append(value.removeprefix(" "))
            return
        name, data = self._name, "\n".join(self._data)
        self._name, self._data = "", []
        if not data:
            return
        body = _object(data)
        match name:
            case "decision":
                yield Started(decision=Routed.model_validate(body))
            case "token":
                yield Token.model_validate(body)
            case "done":
                yield Done(answer=Generated.model_validate(body))
            case "error":
                raise failed_late(body)


def _object(data: str) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise unreadable(502, data.encode("utf-8", "replace"), httpx.Headers())
    return body
