"""The process that has the local members of several processes: each base in memory once, one batch for everybody's answers.

    parent     ──load, retire, metrics──> this process                      (control line)
    requests'  ──GENERATE, CANCEL, ping──> engine ──PIECE* FINISH──> them   (one socket, one connection each)

Rosters are numbered by the parent as generations, as bundles are; two are there while a reload passes. When the thread of an engine dies,
this process ends, and the parent starts another.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from attune.service.errors import AttuneError, BundleRefused, NotReady
from attune.service.framing import FrameKind, Frames
from attune.service.live.child_process import ChildProcess, serve_parent
from attune.service.live.control import Body
from attune.service.live.opened_scorer import LoadPlan
from attune.service.live.seating import load_locals, local_roster
from attune.service.members.build import LocalMembers
from attune.service.members.engine_frames import AskedOfEngine, pack_event
from attune.service.members.local import LocalMember
from attune.service.members.local_worker import Job
from attune.service.members.member import Event, Finish, UnusableMember
from attune.service.observe.logs import get_logger

_log = get_logger(__name__)
EXIT_ENGINE_DIED = 6


class EngineProcess(ChildProcess[LocalMembers]):
    """Local members, each roster's with its engines."""

    def __init__(self, plan: LoadPlan, end: Callable[[int], None]) -> None:
        super().__init__(LocalMembers.aclose)
        self._plan = plan
        self._end = end

    async def load(self, generation: int, path: Path, body: Body) -> Body:
        try:
            loaded = await self.loaded.load(generation, lambda: load_locals(local_roster(path, str(body["roster"])), self._plan))
        except UnusableMember as error:
            raise BundleRefused(str(error)) from error
        _log.info("local members loaded", members=sorted(loaded.members), bases=len(loaded.engines))
        return {}

    def member(self, generation: int, name: str) -> LocalMember:
        """Returns a member; one whose engine is beyond help ends the process.

        Raises:
            NotReady: it is not loaded yet, or no more.
        """
        if generation not in self.loaded.there:
            raise NotReady("the engine's process has not loaded this roster yet")
        member = self.loaded.there[generation].members[name]
        if not member.runs:
            self._end(EXIT_ENGINE_DIED)
        return member


class AnswersDoor(Frames):
    """The connection of one process that takes requests."""

    def __init__(self, process: EngineProcess) -> None:
        super().__init__()
        self._process = process
        self._begun: dict[int, tuple[LocalMember, Job]] = {}
        self._asked: dict[int, asyncio.Task[None]] = {}

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        for number in (*self._begun, *self._asked):  # their rows leave the batch
            self._leave(number)

    def frame_received(self, kind: FrameKind, number: int, payload: memoryview) -> None:
        match kind:
            case FrameKind.GENERATE:
                self._begin(number, payload)
            case FrameKind.CANCEL:
                self._leave(number)
            case _:
                self._asked[number] = asyncio.ensure_future(self._ping(number, payload))

    def _begin(self, number: int, payload: memoryview) -> None:
        """Puts a request into its engine's queue; no task waits for it, the engine tells of each piece."""
        try:
            asked = AskedOfEngine.unpack(payload)
            member = self._process.member(asked.generation, asked.member)
            deadline_s = asyncio.get_running_loop().time() + asked.left_s
            self._begun[number] = member, member.begin(asked.request, deadline_s, partial(self._tell, number))
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who asked must hear of it
            self._send(number, error)

    def _tell(self, number: int, event: Event | AttuneError) -> None:
        if number not in self._begun:  # it left while this was on its way here
            return
        if isinstance(event, Finish | AttuneError):
            del self._begun[number]
        self._send(number, event)

    def _send(self, number: int, event: Event | Exception) -> None:
        kind, payload = pack_event(event)
        self.send(kind, number, payload)

    def _leave(self, number: int) -> None:
        if (begun := self._begun.pop(number, None)) is not None:
            member, job = begun
            member.leave(job)
        if (asked := self._asked.pop(number, None)) is not None:
            asked.cancel()

    async def _ping(self, number: int, payload: memoryview) -> None:
        try:
            body = json.loads(bytes(payload))
            await self._process.member(int(body["generation"]), str(body["member"])).check()
        except Exception as error:  # noqa: BLE001 - as above
            self._send(number, error)
        else:
            self.send(FrameKind.ANSWER, number)
        finally:
            self._asked.pop(number, None)


async def serve_engine(plan: LoadPlan, *, control_path: str, index: int, socket_path: str) -> int:
    """Serves until SIGTERM or until the parent is gone; returns the exit code.

    Args:
        plan: numbers to load rosters with.
        control_path: where the parent listens.
        index: of this process among its role's: 0.
        socket_path: where to listen for processes that take requests.
    """
    return await serve_parent("engine", partial(EngineProcess, plan), AnswersDoor, control_path, index, socket_path)
