"""Connections: how many there are, how large and how slow a request's head may be, and how a connection ends.

    accept ─> room? ─> head, bounded in bytes and seconds ─> ASGI ─> answer ─> what is left of the body is read and dropped ─> close or keep

uvicorn's httptools protocol bounds none of this. What happens here comes before admission, so it costs little and knows no key: a
connection is counted, told in one line or closed. Nothing here knows routes beyond the paths of health.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from attune.service.http.answer_writer import AnswerWriter
from attune.service.http.bounds import Bounds, Refused
from attune.service.http.heads import bodys_head, in_origin_form
from attune.service.http.problems import render
from attune.service.http.refusals import no_room
from attune.service.http.unread import UnreadWatch
from attune.service.ids import new_id

HEALTH_PATHS = frozenset({b"/livez", b"/readyz", b"/metrics"})
"""Still answered when every other connection is turned away."""

FRAMING_PER_BYTE = 8
"""A chunk of one byte costs five bytes of framing; a body with more than this is not a body but an endless trailer or extension."""

FIRST_PROBE_S = 0.25


class Connection(HttpToolsProtocol):
    """One connection; see the module. `bounded` makes the class that a server uses."""

    bounds: Bounds
    tell: Callable[[Refused, str], None]
    resting: OrderedDict[Connection, None]
    """Of all connections of a server those that had their answer and began no request since, longest first; some may be closing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._answer = AnswerWriter(transport, self.loop, self.finish)
        self._unread = UnreadWatch(transport, self.loop, self.bounds.unread_s)
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._head_bytes = 0
        self._in_head = True
        self._begun = self._resuming = False
        self._received = self._framed = 0
        self._dropped = 0
        self._deaf = False
        self._ended = False
        self._owed: Refused | None = None
        self._timer: asyncio.TimerHandle | None = None
        bounds = self.bounds
        crowd = len(self.connections)
        self._health_only = crowd > bounds.most - bounds.kept_free and not self._close_an_idle_one()
        if crowd > bounds.most and self._health_only:
            self.tell("no-room", self._address())
            transport.abort()
            return
        self._set_timer(bounds.hurry_s if self._health_only else bounds.head_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_timer()
        self._unset_keepalive_if_required()
        self._unread.end()
        self.resting.pop(self, None)
        for cycle in self._unanswered:  # uvicorn tells the last one alone, whose turn is still to come
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():  # else what is left is to be read as well
            self._unread.end()

    # --- bytes in ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._drop(len(data))
            return
        if self._lingering and not self._drop(len(data)):
            return
        start = 0
        while start < len(data) and not self._deaf:
            stop = len(data)
            if self._in_head:
                stop = min(stop, start + self.bounds.head_bytes - self._head_bytes)
                if stop == start:
                    self._refuse("head-too-large")
                    return
                self._head_bytes += stop - start
            self._feed(data[start:stop])
            start = stop

    def _feed(self, data: bytes) -> None:
        try:
            while data:
                self._received += len(data)
                data = self._parse(data)
        except httptools.HttpParserError:
            self._refuse("malformed")
            return
        if self._in_head and self._begun and self._timer is None:
            self._set_timer(self.bounds.head_s, self._head_is_late)
        if not self._in_head and self._received - self._framed > self.bounds.head_bytes + FRAMING_PER_BYTE * self._framed:
            self._refuse("head-too-large")

    def _parse(self, data: bytes) -> bytes:
        """Returns what is still to be parsed, behind a request that offered another protocol: its parser takes that for the other one.

        There is none here, so a fresh parser goes on with the body that was announced.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.parser = httptools.HttpRequestParser(self)
            self._resuming = True
            self.parser.feed_data(bodys_head(self.headers))
            self._resuming = False
            return data[upgrade.args[0] :]
        return b""

    def on_message_begin(self) -> None:
        if not self._resuming:
            super().on_message_begin()
            self._begun = True
            self.resting.pop(self, None)
            self._unset_keepalive_if_required()  # and not for each piece: line breaks may come for ever

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is no header: what is behind the body would stand in for what a proxy has checked
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        if self._resuming:
            return
        self.url = in_origin_form(self.url, self.headers)
        self.expect_100_continue = self.expect_100_continue and self.parser.get_http_version() != "1.0"
        self._in_head = False
        self._head_bytes = self._received = self._framed = 0
        self._unset_timer()
        app = self.app
        if self._health_only and httptools.parse_url(self.url).path not in HEALTH_PATHS:
            self.tell("no-room", self._address())
            self.app = no_room
        super().on_headers_complete()
        self.app = app
        self._unanswered.append(self.cycle)
        # The parts of uvicorn that write the answer close the connection themselves; through this they ask us.
        self.cycle.transport = self._answer  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._framed += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the body is still to come, see `_stay`
        super().on_message_complete()
        self._in_head, self._begun, self._head_bytes = True, False, 0
        if self._lingering:
            self.cycle.more_body = False
            self._unset_timer()
            if self._answer.asked:
                self._close()
            else:
                self._idle()

    # --- ends -------------------------------------------------------------------------------------------------------

    def eof_received(self) -> bool:  # type: ignore[override]  # True keeps the sending side open
        """Returns whether an answer is still owed: a caller that closed its sending side waits for it."""
        cycle = self._last
        self._ended = True
        owed = cycle is not None and not cycle.response_complete and not cycle.more_body and not self._deaf
        if owed:
            self._probe(FIRST_PROBE_S)
        else:
            self._close()
        return owed

    def _probe(self, after_s: float) -> None:
        """Finds out whether the caller is still there: writes what every client skips, until writing fails or all is answered."""

        def probe() -> None:
            self._timer = None
            if self.transport.is_closing() or self.cycle.response_complete or self.scope["http_version"] != "1.1":
                return
            if self._answer.probe():
                self._probe(after_s * 2)

        self._set_timer(after_s, probe)

    def on_response_complete(self) -> None:
        self._answer.completed()
        self._unanswered.popleft()
        if self._lingering:
            self.server_state.total_requests += 1
            self._dropped = 0
            self.flow.resume_reading()
            self._unset_keepalive_if_required()
            self._set_timer(self.bounds.hurry_s if self._health_only else self.bounds.linger_s, self._close)
            return
        super().on_response_complete()
        if self.pipeline or not self.cycle.response_complete:
            return
        if self._owed is not None and not self.transport.is_closing():
            self._answer_refusal(self._owed)
        elif self._ended:
            self._close()
        elif self._begun:  # the next one has the time of its head
            self._unset_keepalive_if_required()
        else:
            self.resting[self] = None

    def finish(self) -> None:
        """Closes once the caller has been heard out: a close with bytes unread is a reset, and would take the answer with it."""
        if self._lingering and not self._ended:
            if self.transport.can_write_eof():
                self.transport.write_eof()
        else:
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    @property
    def _last(self) -> RequestResponseCycle | None:
        return self.cycle  # None before the first request, which uvicorn's annotation leaves out

    @property
    def _lingering(self) -> bool:
        """Whether the last request was answered before its body was complete."""
        cycle = self._last
        return cycle is not None and cycle.response_complete and cycle.more_body

    def _drop(self, size: int) -> bool:
        """Counts what is read after an answer; returns False once it is enough."""
        self._dropped += size
        if self._dropped > self.bounds.linger_bytes:
            self._close()
            return False
        return True

    def _idle(self) -> None:
        self.resting[self] = None
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _close(self) -> None:
        self._unset_timer()
        if not self.transport.is_closing():
            self._answer.flush()
            self.transport.close()
            self._unread.begin()

    # --- refusals ---------------------------------------------------------------------------------------------------

    def _head_is_late(self) -> None:
        self._timer = None
        if self._begun:
            self._refuse("head-too-slow")
        else:
            self._close()

    def _refuse(self, why: Refused) -> None:
        """Answers once what was asked before has its answer, drops what still comes, and closes.

        A request whose body is refused while others wait before it ends the connection at once, with theirs unanswered.
        """
        self.tell(why, self._address())
        self._deaf = True
        cycle = self._last
        if self.transport.is_closing() or self._lingering:  # it was answered already, and closes by itself
            return
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                self._owed = why
                return
            if cycle.response_started or self.pipeline:
                self._close()
                return
            # Whoever reads the body is told that no more of it comes, and has nobody to answer any more.
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
        self._answer_refusal(why)

    def _answer_refusal(self, why: Refused) -> None:
        status, headers, body = render(self.bounds.error(why), "", new_id())
        self._answer.flush()
        lines = (b"%s: %s\r\n" % header for header in [*headers, (b"connection", b"close")])
        self.transport.write(STATUS_LINE[status] + b"".join(lines) + b"\r\n" + body)
        if self._health_only:  # its place is needed more than its answer
            self._close()
            return
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._set_timer(self.bounds.linger_s, self._close)

    def _close_an_idle_one(self) -> bool:
        """Closes a connection that waits for its next request, to make room; returns whether there was one."""
        while self.resting:
            other, _ = self.resting.popitem(last=False)
            if other.is_idle:
                other._close()  # noqa: SLF001  one of our own kind
                return True
        return False

    @property
    def is_idle(self) -> bool:
        """Whether the last request was answered and nothing of a next one has come."""
        cycle = self._last
        done = cycle is not None and cycle.response_complete and not cycle.more_body
        return done and not self._begun and not self._deaf and not self.transport.is_closing()

    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        self._unset_timer()
        self._timer = self.loop.call_later(seconds, call)

    def _unset_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bounded(bounds: Bounds, tell: Callable[[Refused, str], None]) -> type[Connection]:
    """Returns the class of connections with these bounds.

    Args:
        bounds: see `Bounds`.
        tell: called with why a connection or a request was refused here, and the caller's address.
    """
    members: dict[str, Any] = {"bounds": bounds, "tell": staticmethod(tell), "resting": OrderedDict()}
    return type("BoundedConnection", (Connection,), members)
