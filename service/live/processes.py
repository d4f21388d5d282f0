"""The parent of several processes behind one port: starts them, watches them, starts them again, tells them of reloads, and drains them.

    parent ──control line──> N processes that take requests ──sockets──> a scorer's process, or one for each of several GPUs
       └── owns the sockets, the embedded store, the number of the generation, and one exposition for all

It loads no bundle and answers no request. A process that dies is started again after a pause that doubles; one that cannot start the first
time stops the start. Its listening socket is replaced by one that listens when it is ready, so that the others get its callers meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from attune.models.seam.counts import counted
from attune.service.errors import AttuneError, BundleRefused, NotReady
from attune.service.live.control import Body, Control
from attune.service.live.listeners import shared_listener
from attune.service.live.process_plan import LOAD_S, Child, ProcessPlan, StartFailed, load_into, load_into_all
from attune.service.observe.logs import get_logger
from attune.service.observe.summed import summed

_log = get_logger(__name__)
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_S = 30.0
TELL_S = 10.0
METRICS_S = 2.0
KILL_S = 10.0


class Processes:
    """All processes of one service."""

    def __init__(self, plan: ProcessPlan) -> None:
        self._plan = plan
        self.control_path = str(plan.folder / "control")
        self._listeners = list(plan.listeners)
        self._scorers = [Child("scorer", index) for index in range(len(plan.devices))]
        self._workers = [Child("worker", index) for index in range(len(plan.listeners))]
        self._serving: dict[str, Any] = {}
        self._users: dict[int, set[int]] = {}
        self._reloading = asyncio.Lock()
        self._stopping = False
        self._launching = asyncio.Lock()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self._registry = CollectorRegistry()
        self._restarts = Counter(
            "attune_process_restarts", "Processes that ended and were started again.", ["role"], registry=self._registry
        )
        running = Gauge("attune_processes", "Processes that run.", ["role"], registry=self._registry)
        running.labels("scorer").set_function(lambda: float(sum(child.control is not None for child in self._scorers)))
        running.labels("worker").set_function(lambda: float(sum(child.control is not None for child in self._workers)))
        self.members = 0

    async def start(self) -> str:
        """Returns the id of the bundle that serves, once every process is ready.

        Raises:
            StartFailed: a process ended before it was ready.
            BundleRefused: a scorer's process refused the bundle.
        """
        self._server = await asyncio.get_running_loop().create_unix_server(self._line, self.control_path)
        for child in self._scorers:
            self._keep(child)
        for child in self._scorers:
            await self._or_fail(child.joined.wait())
        await self._or_fail(self._load(1, self._plan.find_bundle()))
        for child in self._scorers:
            child.was_ready = True
            child.ready.set()
        for child in self._workers:
            self._keep(child)
        for child in self._workers:
            await self._or_fail(child.ready.wait())
        return str(self._serving["bundle"])

    async def stop(self) -> None:
        """Lets requests finish, then ends every process; those that do not end in time are killed."""
        async with self._launching:  # nothing is started from here on, and what is being started is known
            self._stopping = True
        for listener in self._listeners:  # each process has its own copy, and closes it when it has told its callers
            listener.close()
        await self._end(self._workers, self._plan.drain_s + KILL_S)
        await self._end(self._scorers, KILL_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    # --- processes ---------------------------------------------------------------------------------------------------

    async def _or_fail(self, step: Any) -> None:
        task = asyncio.ensure_future(step)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # looked at, so that nobody logs it as forgotten
        try:
            await asyncio.wait({task, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
            await task
        finally:
            task.cancel()

    def _keep(self, child: Child) -> None:
        self._tasks.append(asyncio.create_task(self._run(child), name=f"{child.role} {child.index}"))

    async def _run(self, child: Child) -> None:
        """Starts a process, and again whenever it ends."""
        pause_s, loop = FIRST_PAUSE_S, asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            child.joined.clear()
            child.ready.clear()
            if not await self._launch(child):
                return
            assert child.process is not None
            again = asyncio.create_task(self._bring_back(child)) if child.role == "scorer" and child.was_ready else None
            code = await child.process.wait()
            if again is not None:
                again.cancel()
            if self._stopping:
                return
            if not child.was_ready:
                if not self._failed.done():
                    self._failed.set_exception(StartFailed(f"the {child.role}'s process {child.index} ended with code {code} at its start"))
                return
            self._restarts.labels(child.role).inc()
            if child.role == "worker":
                self._let_go(child.index)
            pause_s = FIRST_PAUSE_S if loop.time() - started_s > STEADY_S else min(LONGEST_PAUSE_S, 2 * pause_s)
            _log.error("a process ended and is started again", role=child.role, index=child.index, code=code, pause_s=pause_s)
            await asyncio.sleep(pause_s)

    def _let_go(self, index: int) -> None:
        """Takes a process that ended off the port and off the bundles that it used."""
        for users in self._users.values():
            users.discard(index)
        old = self._listeners[index]
        self._listeners[index] = shared_listener(old, old.getsockname())
        old.close()

    async def _launch(self, child: Child) -> bool:
        """Starts the process; returns whether it did, which it does not once everything is being stopped."""
        command = [*self._plan.command(child.role, child.index, self.control_path)]
        passed: tuple[int, ...] = ()
        environment = dict(self._plan.environment)
        if child.role == "worker":
            listener = self._listeners[child.index]
            passed = (listener.fileno(),)
            command += ["--listener", str(listener.fileno())]
        else:
            listens_at = self._plan.socket_of(child.index)
            environment |= self._plan.devices[child.index]
            command += ["--socket", listens_at]
            with contextlib.suppress(FileNotFoundError):
                os.unlink(listens_at)  # noqa: PTH108 - of the process before; one call, not worth a thread
        async with self._launching:
            if self._stopping:
                return False
            # A session of its own: Ctrl-C reaches the parent alone, which then drains.
            child.process = await asyncio.create_subprocess_exec(*command, env=environment, pass_fds=passed, start_new_session=True)
        return True

    async def _bring_back(self, scorer: Child) -> None:
        """Loads what serves into a scorer's process that was started again, and tells everybody that it is there."""
        await scorer.joined.wait()
        serving = self._serving
        try:
            alike = int(serving["budget_tokens"]), str(serving["provider"])
            await load_into(scorer, int(serving["generation"]), Path(serving["path"]), *alike)
        except AttuneError as error:
            _log.error("the scorer's process cannot load what served", index=scorer.index, reason=error.detail)
            if scorer.process is not None:
                scorer.process.kill()  # and is tried again, after a longer pause
            return
        scorer.ready.set()
        await self._tell("scorer", index=scorer.index)
        _log.info("the scorer's process is back", index=scorer.index)

    async def _load(self, generation: int, path: Path) -> None:
        found = await load_into_all(self._scorers, generation, path)
        sockets = [self._plan.socket_of(child.index) for child in self._scorers]
        self._serving |= {**found, "generation": generation, "path": str(path), "sockets": sockets}

    async def _end(self, children: Sequence[Child], limit_s: float) -> None:
        running = [child.process for child in children if child.process is not None and child.process.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            _log.warning("processes did not end in time and are killed", limit_s=limit_s)
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await asyncio.gather(*(process.wait() for process in running))

    # --- the lines ---------------------------------------------------------------------------------------------------

    def _line(self) -> Control:
        """Returns the parent's end of a new line; who is on the other one is known from its `hello`."""
        child: Child | None = None

        async def answer(what: str, body: Body) -> Body:
            nonlocal child
            if what == "hello":
                child = (self._scorers if body["role"] == "scorer" else self._workers)[int(body["index"])]
                child.control = control
                child.joined.set()
                if child.role == "worker":
                    self._users.setdefault(int(self._serving["generation"]), set()).add(child.index)
                    return self._serving | self._scorers_there()
                return {}
            if child is None:
                raise NotReady("the first thing to say is hello")
            return await self._answer(child, what, body)

        def lost(_: Control) -> None:
            if child is not None and child.control is control:
                child.control = None

        control = Control(answer, lost)
        return control

    async def _answer(self, child: Child, what: str, body: Body) -> Body:
        match what:
            case "ready":
                child.was_ready = True
                child.ready.set()
                self._serving["bundle"], self.members = body["bundle"], int(body["members"])
                return self._scorers_there()
            case "closed":
                await self._closed(child.index, int(body["generation"]))
                return {}
            case "metrics":
                return {"text": (await self.exposition()).decode()}
            case "reload":
                await self.reload(None if body["path"] is None else Path(body["path"]))
                return {}
        raise NotReady(f"a parent has no {what!r}")

    def _scorers_there(self) -> dict[str, Any]:
        """Returns which scorers' processes have loaded what serves; one that is being started again listens before it has."""
        return {"scorers": [child.index for child in self._scorers if child.ready.is_set()]}

    async def _tell(self, what: str, **body: Any) -> list[BaseException | Body]:
        """Returns every process's answer or error."""
        lines = [child.control for child in self._workers if child.control is not None and child.ready.is_set()]
        limit_s = LOAD_S if what == "prepare" else TELL_S
        return list(await asyncio.gather(*(line.ask(what, deadline_s=limit_s, **body) for line in lines), return_exceptions=True))

    async def _closed(self, index: int, generation: int) -> None:
        users = self._users.get(generation, set())
        users.discard(index)
        if not users and generation != self._serving["generation"]:
            self._users.pop(generation, None)
            await self._retire(generation)

    async def _retire(self, generation: int) -> None:
        lines = [child.control for child in self._scorers if child.control is not None]  # another one forgot it when it ended
        await asyncio.gather(*(line.ask("retire", deadline_s=TELL_S, generation=generation) for line in lines))

    async def reload(self, path: Path | None) -> None:
        """Returns when every process serves another bundle; in two steps, so that all of them do or none.

        Raises:
            BundleRefused: the scorer or a process refused it, or another reload is under way.
        """
        if self._reloading.locked():
            raise BundleRefused("another reload is under way")
        async with self._reloading:
            before = dict(self._serving)
            generation = int(before["generation"]) + 1
            try:
                await self._load(generation, path or self._plan.find_bundle())
                fresh, self._serving = self._serving, before
                indices = {child.index for child in self._workers if child.control is not None and child.ready.is_set()}
                self._users[generation] = indices
                refused = [found for found in await self._tell("prepare", **fresh) if isinstance(found, BaseException)]
                if refused:
                    await self._tell("discard")
                    raise BundleRefused(f"{len(refused)} of {counted(len(indices), 'process', 'processes')} refused: {refused[0]}")
            except AttuneError:
                self._serving = before
                await self._retire(generation)
                raise
            self._serving = fresh
            late = [found for found in await self._tell("commit") if isinstance(found, BaseException)]
            if late:
                _log.error("a process prepared a bundle and did not take it", processes=len(late), reason=str(late[0]))

    async def exposition(self) -> bytes:
        """Returns the metrics of all processes together; one that does not answer in time is left out and counted in the log."""
        lines = [child.control for child in (*self._scorers, *self._workers) if child.control is not None]
        found = await asyncio.gather(*(line.ask("metrics", deadline_s=METRICS_S) for line in lines), return_exceptions=True)
        texts = [str(each["text"]) for each in found if not isinstance(each, BaseException)]
        if len(texts) < len(lines):
            _log.warning("metrics of some processes are missing", missing=len(lines) - len(texts))
        return await asyncio.to_thread(summed, [*texts, generate_latest(self._registry).decode()])
