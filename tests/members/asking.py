"""Short ways to ask a member and to read its whole answer."""

from __future__ import annotations

import asyncio

from attune.service.members.member import ChatTurn, Finish, GenerationRequest, TextPiece


def ask(text: str = "Hello there", **changes) -> GenerationRequest:
    values = {"max_tokens": 24, "temperature": 1.0, "top_p": 0.95, "seed": 7} | changes
    return GenerationRequest((ChatTurn("user", text),), **values)


def soon(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def collect(member, request: GenerationRequest, deadline_s: float | None = None) -> tuple[str, Finish]:
    """Returns the text and the finish of a member's answer, after checking that the pieces are in order."""
    events = [event async for event in member.stream(request, soon() if deadline_s is None else deadline_s)]
    *pieces, finish = events
    assert isinstance(finish, Finish)
    assert all(isinstance(piece, TextPiece) and piece.text for piece in pieces)
    return "".join(piece.text for piece in pieces), finish
