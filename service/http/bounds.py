"""Numbers that connections are held to, and the errors of what goes beyond them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attune.service.errors import AttuneError, CallerError, HeadTooLarge, HeadTooSlow

Refused = Literal["malformed", "head-too-large", "head-too-slow", "no-room"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Numbers of connections.

    Attributes:
        most: open connections; further ones are closed as they come.
        kept_free: the last so many of them take health checks only, and have `hurry_s` for their head and for being heard out.
        head_bytes: the request line and headers together; trailers and what frames chunks as well.
        head_s: from the first byte, or from the connection's start, to the end of the headers.
        linger_bytes, linger_s: what is read and dropped of a body whose request was answered early.
        unread_s: how long a caller may read nothing of what is written for it.
    """

    most: int
    kept_free: int = 16
    head_bytes: int = 32_768
    head_s: float = 8.0
    hurry_s: float = 1.0
    linger_bytes: int = 64 * 2**20
    linger_s: float = 10.0
    unread_s: float = 60.0

    def error(self, why: Refused) -> AttuneError:
        """Returns what a caller is told of a refusal, with the limit."""
        if why == "head-too-large":
            return HeadTooLarge(f"request line and headers, or trailers, have more than {self.head_bytes:,} bytes")
        if why == "head-too-slow":
            return HeadTooSlow(f"request line and headers were not complete within {self.head_s:g} s")
        return CallerError("this is no HTTP/1.1 request")
