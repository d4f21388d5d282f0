"""Members that say what a test tells them to, when it tells them to: the protocol's third implementation, without a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from attune.service.errors import AttuneError
from attune.service.members.member import Event, Finish, GenerationRequest, OneMemberFailed, TextPiece

SAYINGS = {
    "concise": ("put it", " in water", " ."),
    "detailed": (
        "put it in water",
        " for six minutes ,",
        " then eat it ,",
        " that is the best way to boil an egg , and then tell me about it .",
    ),
    "warm": ("lovely friend ,", " put it in sunny water ,", " dear ."),
}


@dataclass
class Voice:
    """A member that writes `pieces`, one at a time, each when its gate lets it.

    Attributes:
        gate: held closed, it keeps the member from writing on; open by default.
        held_from: the first piece that waits for the gate; those before it are written at once.
        fails_after: pieces after which `failure` is raised; None never.
    """

    id: str
    pieces: tuple[str, ...] = ()
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    held_from: int = 0
    failure: AttuneError | None = None
    fails_after: int = 0
    away: bool = False
    asked: list[GenerationRequest] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    open_streams: int = 0

    def __post_init__(self) -> None:
        self.pieces = self.pieces or SAYINGS[self.id]
        self.gate.set()

    async def stream(self, request: GenerationRequest, deadline_s: float) -> AsyncGenerator[Event, None]:
        del deadline_s  # the callers' own deadline is under test
        self.asked.append(request)
        self.open_streams += 1
        self.began.set()
        try:
            for index, piece in enumerate(self.pieces):
                if self.failure is not None and index == self.fails_after:
                    raise self.failure
                if index >= self.held_from:
                    await self.gate.wait()
                yield TextPiece(piece)
            words = sum(len(piece.split()) for piece in self.pieces)
            yield Finish("stop", sum(len(message.content.split()) for message in request.messages), words)
        finally:
            self.open_streams -= 1
            self.left.set()

    async def check(self) -> None:
        if self.away:
            raise OneMemberFailed(self.id, "connect", "is away")

    async def aclose(self) -> None:
        self.left.set()


def voices() -> dict[str, Voice]:
    """Returns one voice for each member of the tiny bundle."""
    return {name: Voice(name) for name in SAYINGS}
