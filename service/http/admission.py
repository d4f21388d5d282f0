"""Who may come in, how many at a time, with how large a body and for how long; and noticing that a caller left.

    host -> key -> tenant -> rate -> room? -> body, bounded in bytes and time -> permit (never waits, or 429) -> lease -> deadline -> route

What is open to everybody (health, metrics, the page) passes by. The one deadline of a request is set here; parts inside get what is left.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from attune.service.auth import Caller, Keyring
from attune.service.errors import CallerError, ComeBackLater, DeadlineExceeded, Forbidden, Overloaded, RateLimited, UnknownHost
from attune.service.http.bodies import ORDINARY_BYTES, Bodies, ClientLeft, run_while_heard
from attune.service.http.heads import by_name
from attune.service.http.pace import Pace
from attune.service.live.runtime import Call, Live
from attune.service.live.token_buckets import TokenBuckets

HEALTH_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
OPEN_PATHS = HEALTH_PATHS | {"/", "/version", "/docs", "/openapi.json", "/favicon.ico"}
LONG_PATHS = ("/generate", "/v1/chat/completions", "/v1/responses", "/admin/", "/users/")
"""Where the longer deadline holds: generations, reloads, and exports of a long history."""

_HOST = re.compile(r"([^:\[\]@]+|\[[^\[\]@]+\])(?::\d*)?")
OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Without keys, "only this machine reaches it" must not become "any page whose name is rebound to this machine"."""

STREAM_GRACE_S = 1.0
"""A stream ends itself with an error event at the deadline; the edge cuts off what has not ended this much later."""

CHAT_PATHS = frozenset({"/v1/chat/completions", "/v1/responses"})
"""Where pictures, sound and files come in, if a member passes them."""
LARGE_CHAT_BYTES = 50 * 2**20
"""What a chat with such may have where the operator has set nothing: OpenAI's own limit of a request is as large."""


@dataclass(frozen=True, slots=True)
class Door:
    """Numbers of admission.

    Attributes:
        max_body_bytes: of one body; 0 goes by the roster that serves.
        large_bodies_bytes: that bodies hold beyond an ordinary one's size, all together.
    """

    max_in_flight: int
    max_body_bytes: int
    large_bodies_bytes: int
    body_s: float
    deadline_s: float
    long_deadline_s: float
    rate_limit_per_s: float
    hosts: frozenset[str] = frozenset()


class RateLimit:
    """A token bucket for each API key, a second deep; keys come from the keyring, so there are only so many.

    Args:
        per_s: requests a second; 0 lets everything through.
        clock: monotonic seconds.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._buckets = TokenBuckets(per_s, per_s, clock)

    def take(self, key_id: str) -> None:
        """Takes one request from a key's bucket.

        Raises:
            RateLimited: the bucket is empty.
        """
        wait_s = self._buckets.take(key_id)
        if wait_s:
            raise RateLimited(f"key {key_id} may send {self._per_s:g} requests a second", retry_after_s=wait_s)


@dataclass(slots=True)
class InFlight:
    """The requests that are admitted and not yet answered, each with the timer that cuts it off."""

    limits: dict[Call, asyncio.Timeout] = field(default_factory=dict)
    ends_at_s: float = float("inf")

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.limits)

    def end_within(self, seconds: float) -> None:
        """Brings every deadline forward, those of requests still to come as well; streams get the chance to end with an error event."""
        self.ends_at_s = asyncio.get_running_loop().time() + max(0.0, seconds - 2 * STREAM_GRACE_S)
        for call, limit in self.limits.items():
            if call.deadline_at_s > self.ends_at_s:
                call.deadline_at_s = self.ends_at_s
                if not limit.expired():
                    limit.reschedule(self.ends_at_s + STREAM_GRACE_S)


class Admission:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, live: Live, keyring: Keyring, door: Door, in_flight: InFlight) -> None:
        self._app = app
        self._live = live
        self._keyring = keyring
        self._door = door
        self._in_flight = in_flight
        self._rate = RateLimit(door.rate_limit_per_s)
        self._hosts = _hosts(door.hosts, keyring)
        self._bodies = Bodies(door.large_bodies_bytes, min(door.body_s, door.deadline_s))
        # What an answer may take before it counts as slow: a tenth of the deadline; less where connections to the store are waited for.
        short = Pace(door.max_in_flight, door.deadline_s, patience_s=door.deadline_s / 10)
        learning = Pace(door.max_in_flight, door.deadline_s, patience_s=min(1.0, door.deadline_s / 10))
        long = Pace(door.max_in_flight, door.long_deadline_s, patience_s=door.long_deadline_s / 10)
        self._paces = {"short": short, "learning": learning, "long": long}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (path := scope["path"]) in HEALTH_PATHS:
            await self._app(scope, receive, send)
            return
        self._known_host(scope)
        headers = by_name(scope["headers"])
        if path in OPEN_PATHS or path.startswith(("/errors/", "/ui/")) or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        state["caller"] = caller = self._keyring.identify(_text(headers, b"authorization"), _text(headers, b"x-api-key"))
        self._rate.take(caller.key_id)
        self._live.check_serving()
        long = path.startswith(LONG_PATHS)
        pace = self._paces["long" if long else "learning" if path.startswith("/feedback") else "short"]
        # Asked before the body is read, which would be for nothing, and again after it, because only then is the permit taken.
        self._leave_room(long=long)
        pace.expect_room(caller.key_id)
        body = await self._bodies.read(receive, headers, self._most_bytes(path))
        try:
            await self._with_permit(scope, body, receive, send, caller, pace, long=long)
        finally:
            self._bodies.let_go(body)

    def _most_bytes(self, path: str) -> int:
        """Returns how large a body may be: as set, else by what members pass to their servers now."""
        serving = self._live.serving
        if self._door.max_body_bytes or serving is None:
            return self._door.max_body_bytes or ORDINARY_BYTES
        return LARGE_CHAT_BYTES if path in CHAT_PATHS and serving.roster.passes_contents else ORDINARY_BYTES

    async def _with_permit(
        self, scope: Scope, body: bytes, receive: Receive, send: Send, caller: Caller, pace: Pace, *, long: bool
    ) -> None:
        self._leave_room(long=long)
        pace.take(caller.key_id)
        began_s = asyncio.get_running_loop().time()
        counts = True
        try:
            await self._admitted(scope, body, receive, send, caller, self._door.long_deadline_s if long else self._door.deadline_s)
        except Overloaded as error:
            counts = False
            raise pace.overran(error.detail) from error
        except (CallerError, ComeBackLater, ClientLeft):
            counts = False
            raise
        finally:
            pace.give_back(caller.key_id)
            if counts:
                pace.done(asyncio.get_running_loop().time() - began_s)

    def _known_host(self, scope: Scope) -> None:
        if not self._hosts or "*" in self._hosts:
            return
        named = [value for name, value in scope["headers"] if name == b"host"]
        # No browser leaves it out or sends two; of two, a proxy may have looked at the other one.
        if len(named) > 1 or (not named and scope.get("http_version") != "1.0") or any(_name(host) not in self._hosts for host in named):
            raise UnknownHost(
                "the Host of this request is none that this server answers for"
                + ("; without API keys that is localhost, 127.0.0.1 or [::1]: " if self._keyring.is_open else ": ")
                + "name others in ATTUNE_ALLOWED_HOSTS"
            )
        if self._keyring.is_open:
            self._own_page(scope)

    def _own_page(self, scope: Scope) -> None:
        """Refuses what a page of another origin sends: it cannot show a key, and the person who looks at it has not asked."""
        sent = dict(scope["headers"])
        origin = sent.get(b"origin")
        # Behind a tunnel the page has the tunnel's name, and the browser knows that it asks for its own.
        if origin is None or sent.get(b"sec-fetch-site") == b"same-origin":
            return
        if _name(origin.partition(b"://")[2]) not in self._hosts:
            raise Forbidden(
                "the page that sends this is of another origin, for which a server without API keys does nothing; "
                "name the page's host in ATTUNE_ALLOWED_HOSTS, or set ATTUNE_API_KEYS and ATTUNE_CORS_ORIGINS"
            )

    def _leave_room(self, *, long: bool) -> None:
        """Keeps an eighth of all permits from requests that may wait for members for minutes."""
        most, count = self._door.max_in_flight, self._in_flight.count
        room = most - most // 8 if long else most
        if count >= room:
            raise self._paces["long" if long else "short"].refusal(f"{count:,} of {room:,} requests are in flight")

    async def _admitted(self, scope: Scope, body: bytes, receive: Receive, send: Send, caller: Caller, limit_s: float) -> None:
        deadline_at_s = min(asyncio.get_running_loop().time() + limit_s, self._in_flight.ends_at_s)
        state = scope["state"]
        async with self._live.lease() as (runtime, serving):
            state["call"] = call = Call(runtime, serving, caller, state["request_id"], deadline_at_s, state["timings"])
            limit = asyncio.timeout_at(deadline_at_s + STREAM_GRACE_S)
            self._in_flight.limits[call] = limit
            try:
                async with limit:
                    await run_while_heard(self._app, scope, body, receive, send)
            except TimeoutError as error:
                if not limit.expired():  # somebody else's timeout, and then a bug: they are translated where they appear
                    raise
                raise DeadlineExceeded(f"not answered within {limit_s:g} s") from error
            finally:
                del self._in_flight.limits[call]


def _hosts(given: Collection[str], keyring: Keyring) -> frozenset[str]:
    """Returns the names that `Host` may have, in lower case; none where every name is taken."""
    names = frozenset(host.lower() for host in given)
    return names | OWN_NAMES if names or keyring.is_open else names


def _name(host: bytes) -> str | None:
    """Returns the name in a `Host`, without its port and in lower case; None where it cannot be read."""
    parts = _HOST.fullmatch(host.decode("latin-1").lower())
    return None if parts is None else parts[1]


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
