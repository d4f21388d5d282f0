"""Which bundle serves in several processes: numbered, loaded behind, prepared in front, and taken everywhere at once or nowhere.

    load     scorers' and engine's processes load generation g
    reload   load ─> every process that takes requests `prepare`s ─> nobody refused, nobody ended ─> everybody `commit`s
    closed   the last of them has let g go ─> retire g behind

Belongs to the parent, and knows processes by what they have said: whether they run is for `processes` to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attune.models.seam.counts import counted
from attune.service.errors import AttuneError, BundleRefused, ReloadNotNow
from attune.service.live.control import Body
from attune.service.live.process_plan import LOAD_S, Child, ProcessPlan, load_into, load_into_all
from attune.service.observe.logs import get_logger

_log = get_logger(__name__)
TELL_S = 10.0


class Generations:
    """See the module.

    Args:
        plan: where sockets and bundles are.
        scorers: the scorers' processes.
        engines: the engine's process, or none as long as no bundle needed it; whoever owns the list changes it.
        workers: the processes that take requests.
        start_engine: gives the engine's process, started where it was not needed yet.
    """

    def __init__(
        self,
        plan: ProcessPlan,
        scorers: Sequence[Child],
        engines: Sequence[Child],
        workers: Sequence[Child],
        start_engine: Callable[[], Awaitable[Child]],
    ) -> None:
        self._plan = plan
        self._scorers = scorers
        self._engines = engines
        self._workers = workers
        self._start_engine = start_engine
        self._serving: Mapping[str, Any] = {}
        self._numbered = 0  # a number is given once: what a refused reload still loads somewhere is never taken for the next one's
        self._users: dict[int, set[int]] = {}
        self._reloading = asyncio.Lock()
        self.bundle = ""
        self.members = 0

    async def start(self) -> None:
        """Has the first bundle loaded; nobody takes requests yet.

        Raises:
            BundleRefused: a scorer's or the engine's process refused it.
        """
        self._serving = await self._load(self._next(), self._plan.find_bundle())
        for child in self._needed(self._serving):
            child.is_ready()

    async def bring_up(self, child: Child) -> None:
        """Loads what serves into a scorer's or the engine's process that was started again, and tells everybody that it is there.

        Raises:
            AttuneError: it refused.
        """
        while (generation := int((serving := self._serving)["generation"])) not in child.loaded:  # another may serve by then
            read = ("budget_tokens", "provider") if child.role == "scorer" else ("roster",)
            try:
                await load_into(child, generation, Path(serving["path"]), **{name: serving[name] for name in read})
            except BundleRefused:
                if serving is self._serving:  # else it was called off, since a reload came meanwhile
                    raise
        child.is_ready()
        await self._tell("back", role=child.role, index=child.index, path=self._plan.socket_of(child))

    def joined(self, index: int) -> Body:
        """Returns what a process that has just joined is to load before it takes requests."""
        return self._used_by(index)

    def ready(self, child: Child, told: Body) -> Body:
        """Returns what serves; a process that says it is ready with another bundle, since a reload came meanwhile, is not yet."""
        if told["generation"] != self._serving["generation"]:
            return self._used_by(child.index)
        child.is_ready()
        self.bundle, self.members = str(told["bundle"]), int(told["members"])
        return self._told(self._serving)

    async def left(self, index: int) -> None:
        """Takes a process that ended off the bundles that it used; it may have been the last one that needed some of them."""
        # Off all of them before any is retired, which takes time: the process in its place uses what serves by then.
        for generation in [each for each in tuple(self._users) if self._gave_up(index, each)]:
            await self._retire(generation)

    async def closed(self, index: int, generation: int) -> None:
        """Notes that a process needs a bundle no more; the last one has it retired."""
        if self._gave_up(index, generation):
            await self._retire(generation)

    def _gave_up(self, index: int, generation: int) -> bool:
        """Takes a process off a bundle; returns whether that is to be retired now."""
        users = self._users.get(generation, set())
        users.discard(index)
        if users or generation >= self._serving["generation"]:  # a later one is its reload's to retire
            return False
        self._users.pop(generation, None)
        return True

    async def reload(self, path: Path | None) -> None:
        """Returns when every process serves another bundle; in two steps, so that all of them do or none.

        Raises:
            BundleRefused: a process refused it or ended meanwhile.
            ReloadNotNow: another reload is under way, or a process that loads is not there.
        """
        if self._reloading.locked():
            raise ReloadNotNow("another reload is under way")
        async with self._reloading:
            generation = self._next()
            try:
                fresh = await self._load(generation, path or self._plan.find_bundle())
                self._users[generation] = asked = self._taking_requests()
                refused = [found for found in await self._tell("prepare", **self._told(fresh)) if isinstance(found, BaseException)]
                lost = [child for child in self._needed(fresh) if generation not in child.loaded]
                if refused or lost:
                    await self._tell("discard")
                if refused:
                    raise BundleRefused(f"{len(refused)} of {counted(len(asked), 'process', 'processes')} refused: {refused[0]}")
                if lost:
                    raise BundleRefused(f"the {lost[0].role}'s process {lost[0].index} had loaded the bundle and ended meanwhile")
            except AttuneError:
                self._users.pop(generation, None)
                await self._retire(generation)
                raise
            self._serving = fresh  # nothing is awaited between the look at who has loaded it and here
            for child in self._needed(fresh):
                child.is_ready()
            self._users[generation] |= self._taking_requests()
            late = [found for found in await self._tell("commit", **self._told(fresh)) if isinstance(found, BaseException)]
            if late:
                _log.error("a process did not take a bundle that the others serve", processes=len(late), reason=str(late[0]))

    def _next(self) -> int:
        self._numbered += 1
        return self._numbered

    async def _load(self, generation: int, path: Path) -> Mapping[str, Any]:
        kept = await asyncio.to_thread(self._plan.keep_roster, path, self._plan.roster_of(generation))
        found = await load_into_all(self._scorers, generation, path)
        engines = [await self._start_engine()] if kept.has_locals else []
        for engine in engines:
            await load_into(engine, generation, path, roster=kept.file)
        sockets = {"scorer": [*map(self._plan.socket_of, self._scorers)], "engine": [*map(self._plan.socket_of, engines)]}
        return {**found, "generation": generation, "path": str(path), "roster": kept.file, "sockets": sockets}

    async def _retire(self, generation: int) -> None:
        behind = [*self._scorers, *self._engines]
        for child in behind:
            child.loaded.discard(generation)
        lines = [child.control for child in behind if child.control is not None]  # another one forgot it when it ended
        await asyncio.gather(*(line.ask("retire", deadline_s=TELL_S, generation=generation) for line in lines), return_exceptions=True)
        await asyncio.to_thread(self._plan.roster_of(generation).unlink, missing_ok=True)

    async def _tell(self, what: str, **body: Any) -> list[BaseException | Body]:
        """Returns the answer or error of every process that takes requests."""
        lines = [child.control for child in self._workers if child.control is not None and child.ready.is_set()]
        limit_s = LOAD_S if what == "prepare" else TELL_S
        return list(await asyncio.gather(*(line.ask(what, deadline_s=limit_s, **body) for line in lines), return_exceptions=True))

    def _used_by(self, index: int) -> Body:
        self._users.setdefault(int(self._serving["generation"]), set()).add(index)
        return self._told(self._serving)

    def _told(self, serving: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what a process is told of a bundle, with the indices of those that have loaded it, by role.

        One that is being started again listens before it has loaded anything.
        """
        generation, of_role = serving["generation"], {"scorer": self._scorers, "engine": self._engines}
        loaded = {role: [child.index for child in children if generation in child.loaded] for role, children in of_role.items()}
        return {**serving, "loaded": loaded}

    def _taking_requests(self) -> set[int]:
        return {child.index for child in self._workers if child.control is not None and child.ready.is_set()}

    def _needed(self, serving: Mapping[str, Any]) -> list[Child]:
        """Returns the processes behind those that take requests, of which a bundle needs the engine's only for local members."""
        return [*self._scorers, *self._engines[: len(serving["sockets"]["engine"])]]
