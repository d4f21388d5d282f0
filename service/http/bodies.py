"""Reading a request's body whole, within bytes and time, and noticing that the caller left while the answer is made."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attune.service.errors import BodyTooSlow, Overloaded, TooLarge, UnsupportedEncoding


class ClientLeft(Exception):
    """The caller closed the connection before the answer was complete."""


_CHARSET = re.compile(rb"charset\s*=\s*[\"']?([^\s\"';]+)", re.IGNORECASE)
_UTF_8 = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})


WATCH_AFTER_S = 0.005
"""How old a request is before anybody looks whether its caller has left."""


class Bodies:
    """Reads bodies, with a bound on what all of those that are not complete hold together.

    Args:
        most_bytes: of one body.
        together_bytes: of all that are being read.
        deadline_s: from the end of the headers to the end of the body.
    """

    def __init__(self, most_bytes: int, together_bytes: int, deadline_s: float) -> None:
        self._most = most_bytes
        self._together = together_bytes
        self._deadline_s = deadline_s
        self.held_bytes = 0

    async def read(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        """Returns the body.

        Raises:
            UnsupportedEncoding: it is compressed, and nothing of it was read; or it is in another charset than UTF-8.
            TooLarge: it is, or says that it is, over the limit.
            BodyTooSlow: it was not complete in time.
            Overloaded: all bodies together are over their bound.
            ClientLeft: the caller left.
        """
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in {b"", b"identity"}:
            raise UnsupportedEncoding(f"content-encoding {encoding.decode('latin-1')[:40]!r} is not read; send the body as it is")
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._most:
            raise TooLarge(f"body has {int(declared):,} bytes; the limit is {self._most:,}")
        try:
            async with asyncio.timeout(self._deadline_s):
                body = await self._gather(receive)
        except TimeoutError:
            raise BodyTooSlow(f"the body was not complete within {self._deadline_s:g} s") from None
        named = _CHARSET.search(headers.get(b"content-type", b""))
        # Clients name their platform's charset without thinking of it, so what all charsets write alike is read.
        if named is not None and named[1].lower() not in _UTF_8 and not body.isascii():
            raise UnsupportedEncoding(f"charset {named[1].decode('latin-1')[:40]!r} is not read; send the body in UTF-8")
        return body

    async def _gather(self, receive: Receive) -> bytes:
        chunks, size = [], 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                chunk = message.get("body", b"")
                size += len(chunk)
                self.held_bytes += len(chunk)
                if size > self._most:  # counted as it comes: a chunked body declares nothing
                    raise TooLarge(f"body has more than {self._most:,} bytes, which is the limit")
                if self.held_bytes > self._together:
                    raise Overloaded(f"bodies that are being read hold more than {self._together:,} bytes")
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
        finally:
            self.held_bytes -= size


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
