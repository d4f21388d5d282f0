"""Paths whose segments may hold anything: a user id with a slash, a percent sign or a blank.

    /users/a%2Fb/export ─ edge: undecoded_path ─> /users/a%2Fb/export ─ router: {user:segment} ─> user = "a/b"

Servers decode a path before it is routed, and then `a%2Fb` is two segments. Here a path is cut at its slashes first; `segment` in a
route's path matches one segment and decodes it, `segments` all that are left.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote, unquote, unquote_to_bytes

from fastapi import Path
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Scope

_SAFE = "!$&'()*+,;=:@-._~"


class SegmentConvertor(Convertor[str]):
    """One segment of a path, percent-decoded; bytes that are no UTF-8 become lone surrogates, which the checks refuse."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value, errors="surrogateescape")

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


class SegmentsConvertor(SegmentConvertor):
    """A name that may hold slashes, at a path's end: some clients encode them and some do not."""

    regex = "[^/]+(?:/[^/]+)*"


register_url_convertor("segment", SegmentConvertor())
register_url_convertor("segments", SegmentsConvertor())

Segment = Annotated[str, Path(description="percent-encoded")]


def undecoded_path(scope: Scope) -> str:
    """Returns the path as it was sent, in one spelling: percent-encoded but for what may stand in a path as it is."""
    raw = scope.get("raw_path")
    if not raw or b"%" not in raw:
        return str(scope["path"])
    return "/".join(quote(unquote_to_bytes(segment), safe=_SAFE) for segment in raw.split(b"?", 1)[0].split(b"/"))
