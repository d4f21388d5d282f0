"""The line between the parent and each of its processes: either side asks, the other answers, in JSON, over a Unix socket.

A process that loses it has lost its parent and ends. What is asked is said by whoever gives the `answer` function; here it is carried.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attune.service.errors import DeadlineExceeded, NotReady
from attune.service.framing import FrameKind, Frames, pack_error, unpack_error

Body = Mapping[str, Any]
Answer = Callable[[str, Body], Awaitable[Body]]


class Control(Frames):
    """One end of the line.

    Args:
        answer: gives what the other side asks for by name; what it raises is raised there.
        lost: called once when the line is gone.
    """

    def __init__(self, answer: Answer, lost: Callable[[Control], None]) -> None:
        super().__init__()
        self._answer = answer
        self._lost = lost
        self._numbers = 0
        self._waiting: dict[int, asyncio.Future[Body]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(NotReady("the process on the other side has ended"))
        self._lost(self)

    def frame_received(self, kind: FrameKind, number: int, payload: memoryview) -> None:
        body = json.loads(bytes(payload))
        if kind is FrameKind.ASK:
            task = asyncio.ensure_future(self._give(number, body))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif (waiting := self._waiting.get(number)) is not None and not waiting.done():
            if kind is FrameKind.ANSWER:
                waiting.set_result(body)
            else:
                waiting.set_exception(unpack_error(body))

    async def _give(self, number: int, body: Body) -> None:
        try:
            found = json.dumps(await self._answer(str(body["ask"]), body)).encode()
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who asked must hear of it
            self.send(FrameKind.FAILED, number, pack_error(error))
        else:
            self.send(FrameKind.ANSWER, number, found)

    async def ask(self, what: str, *, deadline_s: float, **body: Any) -> Body:
        """Returns the other side's answer.

        Raises:
            AttuneError: what the other side raised.
            DeadlineExceeded: no answer came in time.
            NotReady: the other side is gone.
        """
        if self.transport is None or self.transport.is_closing():
            raise NotReady("the process on the other side has ended")
        self._numbers += 1
        number = self._numbers
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self.send(FrameKind.ASK, number, json.dumps({"ask": what, **body}).encode())
        try:
            async with asyncio.timeout(deadline_s):
                return await self._waiting[number]
        except TimeoutError:
            raise DeadlineExceeded(f"{what!r} was not answered within {deadline_s:.3g} s") from None
        finally:
            del self._waiting[number]


async def call_parent(path: str, answer: Answer, lost: Callable[[Control], None]) -> Control:
    """Returns the line to the parent that listens at `path`."""
    _, control = await asyncio.get_running_loop().create_unix_connection(lambda: Control(answer, lost), path)
    return control
