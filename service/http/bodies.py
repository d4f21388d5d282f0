"""Reading a request's body whole, within bytes and time, and noticing that the caller left while the answer is made."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attune.service.errors import BodyTooSlow, CallerError, Overloaded, TooLarge, UnsupportedEncoding


class ClientLeft(Exception):
    """The caller closed the connection before the answer was complete."""


class UnsupportedTransfer(CallerError):
    """The body comes in another transfer coding than `chunked`."""

    status = 501
    code = "unsupported-transfer"


_CHARSET = re.compile(rb"charset\s*=\s*[\"']?([^\s\"';]+)", re.IGNORECASE)
_UTF_8 = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})


WATCH_AFTER_S = 0.005
"""How old a request is before anybody looks whether its caller has left."""

ORDINARY_BYTES = 2 * 2**20
"""What any request's body may hold. What it holds beyond has a bound of its own, so that large bodies take no room from the others."""
HALF_READ = 32
"""Ordinary bodies that may be half-read at one time."""
LARGE_BYTES_PER_S = 2**20
"""How fast the rest of a large body must come at least."""


class Bodies:
    """Reads bodies, with bounds on what all of them hold together: ordinary ones while they are read, large ones until they are answered.

    How many ordinary ones wait for their answers is bounded by permits, of which there are too many for bodies of any size.

    Args:
        large_bytes: that bodies may hold beyond `ORDINARY_BYTES` each.
        deadline_s: from the end of the headers to the end of an ordinary body.
    """

    def __init__(self, large_bytes: int, deadline_s: float) -> None:
        self._most_large = large_bytes
        self._deadline_s = deadline_s
        self.half_read_bytes = 0
        self.large_bytes = 0

    async def read(self, receive: Receive, headers: Mapping[bytes, bytes], most_bytes: int) -> bytes:
        """Returns the body, which is then held until `let_go`.

        Args:
            receive: where it comes from.
            headers: of the request.
            most_bytes: that it may have.

        Raises:
            UnsupportedTransfer: it is compressed on its way, and nothing of it was read.
            UnsupportedEncoding: it is compressed, and nothing of it was read; or it is in another charset than UTF-8.
            TooLarge: it is, or says that it is, over the limit.
            BodyTooSlow: it was not complete in time.
            Overloaded: all bodies together are over their bound.
            ClientLeft: the caller left.
        """
        coding = headers.get(b"transfer-encoding", b"").lower()
        if {part.strip() for part in coding.split(b",")} - {b"", b"chunked"}:
            raise UnsupportedTransfer(f"transfer-encoding {coding.decode('latin-1')[:40]!r} is not read; `chunked` alone is")
        encoding = headers.get(b"content-encoding", b"").lower()
        if {part.strip() for part in encoding.split(b",")} - {b"", b"identity"}:
            raise UnsupportedEncoding(f"content-encoding {encoding.decode('latin-1')[:40]!r} is not read; send the body as it is")
        declared = headers.get(b"content-length", b"0")
        length = int(declared) if declared.isdigit() else 0
        if length > most_bytes:
            raise TooLarge(f"body has {length:,} bytes; the limit is {most_bytes:,} (ATTUNE_MAX_BODY_BYTES)")
        self._leave_room(_beyond(length))
        try:
            async with asyncio.timeout(self._deadline_s) as limit:
                body = await self._gather(receive, most_bytes, limit)
        except TimeoutError:
            raise BodyTooSlow(_too_slow(self._deadline_s, length)) from None
        named = _CHARSET.search(headers.get(b"content-type", b""))
        # Clients name their platform's charset without thinking of it, so what all charsets write alike is read.
        if named is not None and named[1].lower() not in _UTF_8 and not body.isascii():
            self.let_go(body)
            raise UnsupportedEncoding(f"charset {named[1].decode('latin-1')[:40]!r} is not read; send the body in UTF-8")
        return body

    def let_go(self, body: bytes) -> None:
        """Takes note that a body which was read is held no more."""
        self.large_bytes -= _beyond(len(body))

    async def _gather(self, receive: Receive, most_bytes: int, limit: asyncio.Timeout) -> bytes:
        chunks, size, complete = [], 0, False
        try:
            while not complete:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                chunk = message.get("body", b"")
                large = _beyond(size + len(chunk)) - _beyond(size)
                if size + len(chunk) > most_bytes:  # counted as it comes: a chunked body declares nothing
                    raise TooLarge(f"body has more than {most_bytes:,} bytes, which is the limit (ATTUNE_MAX_BODY_BYTES)")
                if self.half_read_bytes + len(chunk) - large > HALF_READ * ORDINARY_BYTES:
                    raise Overloaded(f"bodies that are being read hold more than {HALF_READ * ORDINARY_BYTES:,} bytes")
                self._leave_room(large)
                size += len(chunk)
                self.half_read_bytes += len(chunk) - large
                self.large_bytes += large
                if large and (until_s := limit.when()) is not None:
                    limit.reschedule(until_s + large / LARGE_BYTES_PER_S)
                chunks.append(chunk)
                complete = not message.get("more_body", False)
            return b"".join(chunks)
        finally:
            self.half_read_bytes -= size - _beyond(size)
            if not complete:
                self.large_bytes -= _beyond(size)

    def _leave_room(self, large: int) -> None:
        if large and self.large_bytes + large > self._most_large:
            raise Overloaded(f"large bodies would hold more than {self._most_large:,} bytes together (ATTUNE_LARGE_BODIES_BYTES)")


def _beyond(size: int) -> int:
    """Returns how many bytes of a body are beyond those that any request has."""
    return max(0, size - ORDINARY_BYTES)


def _too_slow(deadline_s: float, length: int) -> str:
    each = f", and one more for each {LARGE_BYTES_PER_S:,} bytes beyond {ORDINARY_BYTES:,}" if _beyond(length) else ""
    return f"the body was not complete within {deadline_s:g} s{each}"


async def run_while_heard(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Runs `app` until it has answered; cancels it when the caller leaves before, so that queued texts and generations are dropped.

    Raises:
        ClientLeft: the caller left before the answer was complete.
    """
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

    watching: list[asyncio.Task[None]] = []
    # Most answers are there before anybody could leave: a task for each is left out.
    soon = asyncio.get_running_loop().call_later(WATCH_AFTER_S, lambda: watching.append(asyncio.ensure_future(watch())))
    try:
        await app(scope, replay, answer)
    except asyncio.CancelledError:
        if not left.is_set():
            raise
        running.uncancel()
        raise ClientLeft from None
    finally:
        soon.cancel()
        for watcher in watching:
            watcher.cancel()
