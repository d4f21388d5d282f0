"""Local members behind a real Unix socket, as the engine's process has them, with both ends in one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from attune.service.errors import NotReady
from attune.service.live.engine_process import AnswersDoor
from attune.service.members.local import LocalMember
from attune.service.members.remote_local import EngineLink, RemoteLocalMember

GENERATION = 7


class Behind:
    """Stands in for `EngineProcess`: one generation is loaded."""

    def __init__(self, members: Mapping[str, LocalMember]) -> None:
        self.members = members
        self.doors: list[AnswersDoor] = []

    def member(self, generation: int, name: str) -> LocalMember:
        if generation != GENERATION:
            raise NotReady("the engine's process has not loaded this roster yet")
        return self.members[name]

    def door(self) -> AnswersDoor:
        self.doors.append(AnswersDoor(self))  # type: ignore[arg-type]  what a door needs of its process
        return self.doors[-1]


class Seen:
    """Both ends: the process behind, and the members as a process that takes requests has them."""

    def __init__(self, behind: Behind, link: EngineLink, path: str, server: asyncio.Server) -> None:
        self.behind, self.link, self.path, self.server = behind, link, path, server

    def member(self, name: str, generation: int = GENERATION) -> RemoteLocalMember:
        return RemoteLocalMember(name, generation, self.link)

    def cut(self) -> None:
        """Ends the connection from over there, as the death of the process does."""
        for door in self.behind.doors:
            assert door.transport is not None
            door.transport.abort()


@asynccontextmanager
async def engine_door(folder: Path, **members: LocalMember) -> AsyncIterator[Seen]:
    """Yields the members behind a socket in this folder."""
    behind, link, path = Behind(members), EngineLink(), str(folder / "engine")
    server = await asyncio.get_running_loop().create_unix_server(partial(behind.door), path)
    await link.connect(path)
    yield Seen(behind, link, path, server)
    link.close()
    server.close()
