"""The batcher as seen from a process that takes requests: the same questions, answered by the scorer's process over a socket.

    submit ──SUBMIT──> scorer's process (queue, batches, session) ──ROWS or FAILED──> the caller
    the caller leaves or its deadline passes ──CANCEL──> its texts leave the queue there

One connection carries everything of one process; it is lost with the scorer's process, everyone who waits is told so at once, and
`connect` opens it anew when there is another. Bounds, deadlines and refusals are the queue's own, over there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Protocol

from attune.models.seam.counts import counted
from attune.models.seam.families import Row
from attune.models.seam.text import Encoded
from attune.service.batching.frames import Answered, RowLayout, pack_submit, unpack_rows
from attune.service.batching.submission import Submitted
from attune.service.errors import DeadlineExceeded, NotReady, TooLarge
from attune.service.framing import FrameKind, Link, unpack_error

GONE = "the scorer's process has ended and is being started again"
DEAF = "the scorer's process does not read what it is asked"


class TextScorer(Protocol):
    """What serves rows: `Batcher` in the same process, or `RemoteBatcher`."""

    @property
    def alive(self) -> bool: ...
    @property
    def waiting_items(self) -> int: ...
    @property
    def waiting_tokens(self) -> int: ...
    @property
    def drain_tokens_per_s(self) -> float: ...
    async def submit(self, items: Sequence[Encoded], deadline_s: float, *, spare: bool = False) -> Submitted[Row]: ...
    def hurry(self) -> None: ...
    async def canary(self, deadline_s: float) -> float: ...
    async def aclose(self) -> None: ...


class ScorerLink(Link):
    """One connection to the scorer's process, and who waits for an answer on it."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[int, asyncio.Future[tuple[FrameKind, memoryview]]] = {}

    def frame_received(self, kind: FrameKind, number: int, payload: memoryview) -> None:
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():  # else: it left, and its cancellation crossed the answer
            waiting.set_result((kind, payload))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(NotReady(GONE))

    async def ask(self, kind: FrameKind, payload: bytes, deadline_s: float) -> tuple[FrameKind, memoryview]:
        """Returns the answer to one frame.

        Raises:
            NotReady: the scorer's process is not there or does not read, or ended meanwhile.
            TimeoutError: no answer came in time; the scorer's process has been told to drop it.
        """
        if not self.connected:
            raise NotReady(GONE)
        if self.unread:
            raise NotReady(DEAF)
        number = self.next_number()
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self.send(kind, number, payload)
        try:
            async with asyncio.timeout(deadline_s):
                return await self._waiting[number]
        except BaseException:
            self.send(FrameKind.CANCEL, number)
            raise
        finally:
            del self._waiting[number]


class RemoteBatcher:
    """A batcher that runs in the scorer's process.

    Args:
        link: of this process; shared by all generations.
        generation: which loaded bundle over there.
        layout: of its rows.
        max_text_tokens: the longest text that the scorer takes.
        closed: called once, when this process needs the generation no more.
    """

    def __init__(self, link: ScorerLink, *, generation: int, layout: RowLayout, max_text_tokens: int, closed: Any) -> None:
        self._link = link
        self._generation = generation
        self._layout = layout
        self._max_text_tokens = max_text_tokens
        self._closed = closed
        self._refusal: str | None = None
        self._last: Answered | None = None

    @property
    def alive(self) -> bool:
        """Whether the scorer's process is there."""
        return self._link.connected and self._refusal is None

    @property
    def waiting_items(self) -> int:
        """Texts that waited, of all processes, when the last answer came."""
        return self._last.waiting_items if self._last else 0

    @property
    def waiting_tokens(self) -> int:
        """Tokens that waited, of all processes, when the last answer came."""
        return self._last.waiting_tokens if self._last else 0

    @property
    def drain_tokens_per_s(self) -> float:
        """Measured speed of draining, tokens a second; 0 before the first answer."""
        return self._last.drain_tokens_per_s if self._last else 0.0

    async def submit(self, items: Sequence[Encoded], deadline_s: float, *, spare: bool = False) -> Submitted[Row]:
        """Returns the rows of `items`, all of them or an error: as `Batcher.submit`.

        Raises:
            ValueError: a text has no tokens.
            TooLarge, Overloaded, DeadlineExceeded, ScorerFailed, NotReady: as `Batcher.submit`; NotReady also when the process ended.
        """
        for number, item in enumerate(items, 1):
            if not len(item):
                raise ValueError(f"text {number} of {len(items)} has no tokens")
            if len(item) > self._max_text_tokens:
                raise TooLarge(
                    f"text {number} of {len(items)} has {len(item):,} tokens, the scorer takes at most {self._max_text_tokens:,}"
                )
        if self._refusal is not None:
            raise NotReady(self._refusal)
        try:
            asked = FrameKind.SPARE if spare else FrameKind.SUBMIT
            kind, payload = await self._link.ask(asked, pack_submit(items, deadline_s, self._generation), deadline_s)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the scorer's process gave no answer for {counted(len(items), 'text')} within {deadline_s:.3g} s"
            ) from None
        if kind is FrameKind.FAILED:
            raise unpack_error(json.loads(bytes(payload)))
        rows, self._last = unpack_rows(payload, items, self._layout)
        return Submitted(rows, self._last.queue_s, self._last.inference_s)

    def hurry(self) -> None:
        """Has everything asked for that this process submitted to be done in spare time."""
        if self._link.connected:
            self._link.send(FrameKind.HURRY, 0)

    async def canary(self, deadline_s: float) -> float:
        """Runs the canary over there; returns the time of its batch, seconds: as `Batcher.canary`.

        Raises:
            DeadlineExceeded, ScorerFailed, NotReady: as `Batcher.canary`.
        """
        body = json.dumps({"ask": "canary", "generation": self._generation, "deadline_s": deadline_s}).encode()
        try:
            kind, payload = await self._link.ask(FrameKind.ASK, body, deadline_s)
        except TimeoutError:
            raise DeadlineExceeded(f"the scorer's process did not run the canary within {deadline_s:.3g} s") from None
        found = json.loads(bytes(payload))
        if kind is FrameKind.FAILED:
            raise unpack_error(found)
        return float(found["inference_s"])

    async def aclose(self) -> None:
        """Refuses what comes later, and lets the scorer's process close the generation once nobody needs it."""
        if self._refusal is None:
            self._refusal = "the scorer is shutting down"
            await self._closed()
