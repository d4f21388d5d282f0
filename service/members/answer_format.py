"""How the body of an answer is to be read, told by how it begins: servers do not always say."""

from __future__ import annotations

from typing import Literal

from attune.service.members.openai_wire import BadAnswer

BOM = b"\xef\xbb\xbf"

Format = Literal["events", "whole", "unknown"]


def format_of(begins: bytes, media_type: str) -> Format:
    """Returns how to read a body by how it begins, where its type does not say so.

    Raises:
        BadAnswer: it is neither JSON nor events.
    """
    if begins.startswith((b"{", b"[")):
        return "whole"
    if begins.startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
        return "events"
    if not begins or (len(begins) < len(BOM) and BOM.startswith(begins)):
        return "unknown"
    if media_type == "text/event-stream":
        return "events"
    if len(begins) < 6 and any(name.startswith(begins) for name in (b"data:", b"event:", b"retry:")):
        return "unknown"
    raise BadAnswer("protocol", f"the body is {'a page' if 'html' in media_type else 'neither events nor a JSON object'}")
