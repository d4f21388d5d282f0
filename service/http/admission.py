"""Who may come in, how many at a time, with how large a body and for how long; and noticing that a caller left.

    API key -> tenant -> rate -> permit (never waits: full is 429) -> lease on the bundle that serves -> body, counted -> deadline -> route

What is open to everybody (health, metrics, the page) passes by. The one deadline of a request is set here; parts inside get what is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attune.service.auth import Caller, Keyring
from attune.service.errors import DeadlineExceeded, Overloaded, RateLimited, TooLarge
from attune.service.live.runtime import Call, Live

OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/metrics", "/version", "/openapi.json", "/favicon.ico"})
LONG_PATHS = ("/generate", "/v1/chat/completions", "/admin/", "/users/")
"""Where the longer deadline holds: generations, reloads, and exports of a long history."""

STREAM_GRACE_S = 1.0
"""A stream ends itself with an error event at the deadline; the edge cuts off what has not ended this much later."""


class ClientLeft(Exception):
    """The caller closed the connection before the answer was complete."""


@dataclass(frozen=True, slots=True)
class Door:
    """Numbers of admission."""

    max_in_flight: int
    max_body_bytes: int
    deadline_s: float
    long_deadline_s: float
    rate_limit_per_s: float


class RateLimit:
    """A token bucket for each API key, a second deep; keys come from the keyring, so there are only so many.

    Args:
        per_s: requests a second; 0 lets everything through.
        clock: monotonic seconds.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._depth = max(1.0, per_s)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key_id: str) -> None:
        """Takes one request from a key's bucket.

        Raises:
            RateLimited: the bucket is empty.
        """
        if not self._per_s:
            return
        now_s = self._clock()
        left, updated_s = self._buckets.get(key_id, (self._depth, now_s))
        left = min(self._depth, left + (now_s - updated_s) * self._per_s)
        self._buckets[key_id] = (left - 1.0 if left >= 1.0 else left, now_s)
        if left < 1.0:
            raise RateLimited(f"key {key_id} may send {self._per_s:g} requests a second", retry_after_s=(1.0 - left) / self._per_s)


class Admission:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, live: Live, keyring: Keyring, door: Door, in_flight: InFlight) -> None:
        self._app = app
        self._live = live
        self._keyring = keyring
        self._door = door
        self._in_flight = in_flight
        self._rate = RateLimit(door.rate_limit_per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["path"].startswith("/errors/"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        caller = self._keyring.identify(_text(headers, b"authorization"), _text(headers, b"x-api-key"))
        self._rate.take(caller.key_id)
        if self._in_flight.count >= self._door.max_in_flight:
            raise Overloaded(f"{self._in_flight.count:,} of {self._door.max_in_flight:,} requests are in flight")
        self._in_flight.count += 1
        try:
            await self._admitted(scope, receive, send, caller, headers)
        finally:
            self._in_flight.count -= 1

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, caller: Caller, headers: Mapping[bytes, bytes]) -> None:
        limit_s = self._door.long_deadline_s if scope["path"].startswith(LONG_PATHS) else self._door.deadline_s
        deadline_at_s = asyncio.get_running_loop().time() + limit_s
        state = scope["state"]
        async with self._live.lease() as (runtime, serving):
            state["call"] = Call(runtime, serving, caller, state["request_id"], deadline_at_s, state["timings"])
            limit = asyncio.timeout_at(deadline_at_s)
            try:
                async with limit:
                    body = await _body(receive, headers, self._door.max_body_bytes)
                    limit.reschedule(deadline_at_s + STREAM_GRACE_S)
                    await _run_while_heard(self._app, scope, body, receive, send)
            except TimeoutError as error:
                if not limit.expired():  # somebody else's timeout, and then a bug: they are translated where they appear
                    raise
                raise DeadlineExceeded(f"not answered within {limit_s:g} s") from error


@dataclass(slots=True)
class InFlight:
    """How many requests are admitted and not yet answered."""

    count: int = 0


async def _body(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"body has {int(declared):,} bytes; the limit is {limit:,}")
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:  # counted as it comes: a chunked body declares nothing
            raise TooLarge(f"body has more than {limit:,} bytes, which is the limit")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


async def _run_while_heard(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Runs `app` until it has answered; cancels it when the caller leaves before, so that queued texts and generations are dropped."""
    running = asyncio.current_task()
    assert running is not None
    left, answered = asyncio.Event(), False
    bodies = [body]

    async def replay() -> Message:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def answer(message: Message) -> None:
        nonlocal answered
        await send(message)
        answered = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not answered:  # servers also say "disconnect" when the answer is complete
            left.set()
            running.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        await app(scope, replay, answer)
    except asyncio.CancelledError:
        if not left.is_set():
            raise
        running.uncancel()
        raise ClientLeft from None
    finally:
        watcher.cancel()


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
