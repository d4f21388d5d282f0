"""What the parent of several processes is told, and what it knows of each of them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from attune.service.errors import BundleRefused, NotReady, ReloadNotNow
from attune.service.live.control import Body, Control

Role = Literal["scorer", "engine", "worker"]
LOAD_S = 600.0
HELLO_S = 10.0


class StartFailed(RuntimeError):
    """A process ended, or refused, before it was ready for the first time; its reason is in its own log."""


@dataclass(frozen=True, slots=True)
class KeptRoster:
    """A roster as it was when its bundle was loaded: what is started again must serve as the others do, whatever the file says by then.

    Attributes:
        file: the copy; empty where there is no roster.
        has_locals: whether local members are in it.
    """

    file: str
    has_locals: bool


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """How processes are started.

    Attributes:
        command: role, index and control path -> the command line of a process.
        environment: of every process.
        devices: of each scorer's process, what differs in its environment.
        listeners: one socket for each process that takes requests.
        folder: for the Unix sockets; private to this user.
        find_bundle: the folder to load where none is named; raises what a reload is refused with.
        keep_roster: copies the roster that goes with the bundle in a folder to a file; raises likewise.
        drain_s: how long processes may finish their requests.
    """

    command: Callable[[Role, int, str], Sequence[str]]
    environment: Mapping[str, str]
    devices: Sequence[Mapping[str, str]]
    listeners: Sequence[socket.socket]
    folder: Path
    find_bundle: Callable[[], Path]
    keep_roster: Callable[[Path, Path], KeptRoster]
    drain_s: float

    def socket_of(self, child: Child) -> str:
        """Returns where a scorer's or the engine's process listens."""
        return str(self.folder / (child.role if child.index == 0 else f"{child.role}-{child.index}"))

    def roster_of(self, generation: int) -> Path:
        """Returns where the roster of a bundle is kept."""
        return self.folder / f"roster-{generation}.json"


@dataclass(slots=True)
class Child:
    """One process: what it is, its line, and whether it has been ready.

    Attributes:
        kept: the task that starts it again.
        loaded: generations that it has loaded, of a scorer's or the engine's process.
    """

    role: Role
    index: int
    process: asyncio.subprocess.Process | None = None
    control: Control | None = None
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    was_ready: bool = False
    kept: asyncio.Task[None] | None = None
    loaded: set[int] = field(default_factory=set)

    def ended(self) -> None:
        """Forgets the process, as soon as it has ended: nothing may rely on what it had loaded."""
        self.joined.clear()
        self.ready.clear()
        self.loaded.clear()

    def is_ready(self) -> None:
        """Notes that it can be asked."""
        self.was_ready = True
        self.ready.set()


async def load_into(child: Child, generation: int, path: Path, budget_tokens: int = 0, provider: str = "", roster: str = "") -> Body:
    """Returns what a process says of a bundle that it has loaded; a scorer's: provider, budget of a batch, layout of rows.

    Args:
        child: a scorer's process, or the engine's.
        generation: the number of the bundle.
        path: its folder.
        budget_tokens: of a scorer's batch; 0 has it measured.
        provider: what must run it; empty takes whatever does.
        roster: file with the local members of the engine's process.

    Raises:
        ReloadNotNow: it is not there.
        BundleRefused: it refused, ended, or runs the bundle elsewhere: on the processor, say, where its GPU is missing.
    """
    if child.control is None:
        raise ReloadNotNow(f"the {child.role}'s process {child.index} has ended and is being started again")
    told = {"generation": generation, "path": str(path), "budget_tokens": budget_tokens, "roster": roster}
    try:
        found = await child.control.ask("load", deadline_s=LOAD_S, **told)
    except NotReady as error:
        raise BundleRefused(f"the {child.role}'s process {child.index} did not load the bundle: {error.detail}") from error
    if provider and found["provider"] != provider:
        raise BundleRefused(f"the scorer's process {child.index} would run the bundle on {found['provider']}, and not on {provider}")
    child.loaded.add(generation)
    return found


async def load_into_all(scorers: Sequence[Child], generation: int, path: Path) -> Body:
    """Returns what all scorers' processes say of a bundle: the first measures the budget of a batch, and the others do as it does.

    Raises:
        BundleRefused: see `load_into`.
    """
    first = await load_into(scorers[0], generation, path, 0)
    alike = int(first["budget_tokens"]), str(first["provider"])
    await asyncio.gather(*(load_into(each, generation, path, *alike) for each in scorers[1:]))
    return first
