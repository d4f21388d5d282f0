"""Answers that are sent as they come: server-sent events and JSON lines, closed at their source when the reader leaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from attune.service.errors import AttuneError
from attune.service.http.problems import document, translated
from attune.service.live.runtime import Call
from attune.service.observe.logs import get_logger

_log = get_logger(__name__)


class EventStream(StreamingResponse):
    """A stream whose source is closed at once when the reader leaves, and not when it is collected.

    Args:
        events: what is sent.
        media_type: of the whole.
        begun: what `events` reads from, where that has begun already: it is closed even if the reader left before the first event.
    """

    def __init__(
        self, events: AsyncGenerator[bytes, None], media_type: str = "text/event-stream", begun: AsyncGenerator[Any, None] | None = None
    ) -> None:
        # Proxies of the nginx kind gather a response before they pass it on, unless they are asked not to.
        super().__init__(events, headers={"cache-control": "no-cache", "x-accel-buffering": "no"}, media_type=media_type)
        self._events = events
        self._begun = begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        # Without the two tasks in which Starlette listens for a reader who leaves: `http.bodies` does that for every request.
        await self.stream_response(send)

    async def stream_response(self, send: Send) -> None:
        async with AsyncExitStack() as closing:
            for source in (self._begun, self._events):
                if source is not None:
                    await closing.enter_async_context(aclosing(source))
            await super().stream_response(send)


def problem_in_stream(call: Call, error: Exception) -> dict[str, Any]:
    """Returns the problem document to send as the last event of a stream; see `failed_in_stream`."""
    return document(failed_in_stream(call, error), call.request_id, call.runtime.root_path)


def failed_in_stream(call: Call, error: Exception) -> AttuneError:
    """Returns the error to send as the last event: the status went out before, so it is counted and logged here."""
    known = translated(error, "")
    call.runtime.metrics.refused(known.code)
    if known.code == "internal":
        _log.error("unexpected error in a stream", kind=type(error).__name__, exc_info=error)
    return known
