"""`traceparent` (W3C Trace Context): taken over from the caller, on every log line, and passed on to members.

traceparent in ─> begin_trace ─> trace id on log lines ─> begin_outbound ─> traceparent of what we ask of others
                       └─ where spans are exported (`observe.spans`): what the request was made of, told once at its end

Without an exporter nobody samples because of us: a trace is there only where the caller sent one, and nothing is noted of it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from attune.service.observe.timing import Entered

_FORM = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
SAMPLED = 0x01
RANDOM = 0x02


@dataclass(slots=True)
class Outbound:
    """One request to a server on behalf of the current one, on the clock of `time.perf_counter`; `status` is 0 where no answer came."""

    span_id: str
    method: str
    host: str
    port: int
    began_s: float
    ended_s: float | None = None
    status: int = 0

    def end(self) -> None:
        """Notes that its answer was read, or that none will be."""
        if self.ended_s is None:
            self.ended_s = time.perf_counter()


@dataclass(slots=True)
class Noted:
    """What the spans below a request's own are made of, in the order in which it ended (stages) or began (outbound)."""

    stages: list[Entered] = field(default_factory=list)
    outbound: list[Outbound] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trace:
    """One request's place in a trace.

    Attributes:
        trace_id: 32 hexadecimal digits, the caller's where one was sent.
        span_id: 16 of our own.
        flags: the caller's where no spans are exported, else whether this request's are.
        caller: the caller's place.
        noted: what is exported; None where nothing is.
    """

    trace_id: str
    span_id: str
    flags: str
    caller: Trace | None = None
    noted: Noted | None = None

    @property
    def header(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


@dataclass(frozen=True, slots=True)
class Served:
    """A request that was answered.

    Attributes:
        name: method and route template.
        began_s: on the clock of `time.perf_counter`, as `ended_s` is.
        attributes: nothing that a user wrote.
    """

    name: str
    began_s: float
    ended_s: float
    failed: bool
    attributes: Mapping[str, str | int]


class Spans(Protocol):
    """What takes spans. `observe.spans` has the one implementation; it is named here so that OpenTelemetry need not be there."""

    def samples(self, trace_id: str, caller: Trace | None) -> bool:
        """Returns whether the spans of a request are exported."""
        ...

    def export(self, trace: Trace, served: Served) -> None:
        """Makes the spans of a request that ended, and leaves them to be sent."""
        ...

    async def aclose(self) -> None:
        """Sends what is left."""
        ...


_current: ContextVar[Trace | None] = ContextVar("_current", default=None)


def begin_trace(traceparent: str | None, spans: Spans | None = None) -> Trace | None:
    """Returns the request's place in a trace, current from here on in this context.

    Without `spans`, None where the caller sent no valid `traceparent`.
    """
    found = _FORM.fullmatch(traceparent.strip()) if traceparent else None
    caller = Trace(found[1], found[2], found[3]) if found else None
    trace = None
    if spans is not None:
        trace_id, flags = (caller.trace_id, int(caller.flags, 16)) if caller else (os.urandom(16).hex(), RANDOM)
        sampled = spans.samples(trace_id, caller)
        flags = flags & ~SAMPLED | SAMPLED * sampled
        trace = Trace(trace_id, _new_span_id(), f"{flags:02x}", caller, Noted() if sampled else None)
    elif caller is not None:
        trace = Trace(caller.trace_id, _new_span_id(), caller.flags, caller)
    _current.set(trace)
    return trace


def begin_outbound(method: str, host: str, port: int) -> tuple[Mapping[str, str], Outbound | None]:
    """Returns the headers for a request that is made on behalf of the current one, and what notes its end.

    No headers outside of a trace. Where spans are exported, `traceparent` names the span of that request itself.
    """
    trace = _current.get()
    if trace is None:
        return {}, None
    if trace.noted is None:
        return {"traceparent": trace.header}, None
    outbound = Outbound(_new_span_id(), method, host, port, time.perf_counter())
    trace.noted.outbound.append(outbound)
    return {"traceparent": Trace(trace.trace_id, outbound.span_id, trace.flags).header}, outbound


def _new_span_id() -> str:
    return os.urandom(8).hex()
