"""Local members as seen from a process that takes requests: their weights, batch and queue are in the engine's process.

    stream ──GENERATE──> engine's process (queue, batch, weights) ──PIECE* FINISH or FAILED──> the caller
    the caller leaves or its deadline passes ──CANCEL──> its row leaves the batch there

One connection carries everything of one process. When it is lost, every answer under way fails with the reason `closed`, so that another
member stands in where nobody has read a piece yet, and the member is unable until there is an engine's process again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from attune.service.errors import AttuneError, DeadlineExceeded, NotReady
from attune.service.framing import FrameKind, Link
from attune.service.members.engine_frames import AskedOfEngine, unpack_event
from attune.service.members.member import Event, Finish, GenerationRequest, OneMemberFailed

GONE = "the engine's process has ended and is being started again"
DEAF = "the engine's process does not read what it is asked"

Told = tuple[FrameKind, memoryview] | None
"""A frame that came, or that the connection is lost."""


class EngineLink(Link):
    """One connection to the engine's process, and who waits for an answer on it."""

    def __init__(self) -> None:
        super().__init__()
        self._listening: dict[int, Callable[[Told], None]] = {}

    def frame_received(self, kind: FrameKind, number: int, payload: memoryview) -> None:
        listening = self._listening.get(number)
        if listening is not None:  # else: it left, and its cancellation crossed the answer
            listening((kind, payload))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport = None
        for listening in tuple(self._listening.values()):
            listening(None)

    def ask(self, kind: FrameKind, payload: bytes, tell: Callable[[Told], None]) -> int:
        """Sends a frame and has `tell` told of what comes back; returns the number to leave by."""
        number = self.next_number()
        self._listening[number] = tell
        self.send(kind, number, payload)
        return number

    def leave(self, number: int, *, answered: bool) -> None:
        """Listens no more; what is not answered is dropped over there."""
        del self._listening[number]
        if not answered:
            self.send(FrameKind.CANCEL, number)


@dataclass(frozen=True, slots=True)
class RemoteLocalMember:
    """A local member whose engine is in another process.

    Args:
        id: its name.
        generation: which loaded roster over there.
        link: of this process; shared by all members and generations.
    """

    id: str
    generation: int
    link: EngineLink

    async def stream(self, request: GenerationRequest, deadline_s: float) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        self._must_be_there()
        told: asyncio.Queue[Told] = asyncio.Queue()
        asked = AskedOfEngine(self.generation, self.id, request, deadline_s - loop.time())
        number, answered = self.link.ask(FrameKind.GENERATE, asked.pack(), told.put_nowait), False
        try:
            while not answered:
                try:
                    async with asyncio.timeout_at(deadline_s):
                        found = await told.get()
                except TimeoutError:
                    raise DeadlineExceeded(f"member {self.id!r}: the deadline passed before the answer was complete") from None
                if found is None:
                    raise OneMemberFailed(self.id, "closed", GONE)
                event = unpack_event(*found)
                answered = isinstance(event, Finish | AttuneError)
                if isinstance(event, AttuneError):
                    raise self._failure(event)
                yield event
        finally:
            self.link.leave(number, answered=answered)

    async def check(self) -> None:
        self._must_be_there()
        told: asyncio.Future[Told] = asyncio.get_running_loop().create_future()

        def tell(found: Told) -> None:
            if not told.done():
                told.set_result(found)

        body = json.dumps({"ask": "ping", "generation": self.generation, "member": self.id}).encode()
        number = self.link.ask(FrameKind.ASK, body, tell)
        try:
            found = await told
        finally:
            self.link.leave(number, answered=told.done() and not told.cancelled())
        if found is None:
            raise OneMemberFailed(self.id, "closed", GONE)
        if found[0] is FrameKind.FAILED and isinstance(failure := unpack_event(*found), AttuneError):
            raise self._failure(failure)

    async def aclose(self) -> None:
        """Gives nothing back: the parent has the generation closed once no process needs it."""

    def _failure(self, error: AttuneError) -> AttuneError:
        """Returns the error as one of this member's, where the process over there is at fault."""
        return OneMemberFailed(self.id, "closed", error.detail) if isinstance(error, NotReady) else error

    def _must_be_there(self) -> None:
        if not self.link.connected:
            raise OneMemberFailed(self.id, "closed", GONE)
        if self.link.unread:
            raise OneMemberFailed(self.id, "closed", DEAF)
