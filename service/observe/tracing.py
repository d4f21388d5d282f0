"""`traceparent` (W3C Trace Context): taken over from the caller, on every log line, and passed on to members.

traceparent in ─> begin ─> trace id on log lines ─> `outgoing()` for what we ask of others ─> traceparent out
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from dataclasses import dataclass

_FORM = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Trace:
    """One request's place in a trace.

    Attributes:
        trace_id: 32 hexadecimal digits, the caller's where one was sent.
        span_id: 16 of our own.
        flags: the caller's; `00` where none was sent, so that nobody downstream samples because of us.
    """

    trace_id: str
    span_id: str
    flags: str

    @property
    def header(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


_current: ContextVar[Trace | None] = ContextVar("_current", default=None)


def begin_trace(traceparent: str | None) -> Trace | None:
    """Returns the request's place in the caller's trace, current from here on in this context; None where no valid one was sent."""
    found = _FORM.fullmatch(traceparent.strip()) if traceparent else None
    trace = Trace(found[1], os.urandom(8).hex(), found[3]) if found else None
    _current.set(trace)
    return trace


def outgoing() -> dict[str, str]:
    """Returns the headers for a request that is made on behalf of the current one; none outside of a trace."""
    trace = _current.get()
    return {} if trace is None else {"traceparent": trace.header}
