"""The parent of several processes behind one port: starts them, watches them, starts them again, tells them of reloads, and drains them.

    parent ──control line──> N processes that take requests ──sockets──> a scorer's process, or one for each of several GPUs
       │                                                    └──socket───> the engine's process, where there are local members
       └── owns the sockets, the embedded store, the number of the generation, and one exposition for all

It loads no bundle and answers no request. A process that dies is started again after a pause that doubles; one that cannot start the first
time stops the start. Its listening socket is replaced by one that listens when it is ready, so that the others get its callers meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from attune.service.errors import AttuneError, BundleRefused, NotReady
from attune.service.live.control import Body, Control
from attune.service.live.generations import Generations
from attune.service.live.listeners import shared_listener
from attune.service.live.process_plan import Child, ProcessPlan, StartFailed
from attune.service.observe.logs import get_logger
from attune.service.observe.summed import summed

_log = get_logger(__name__)
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_S = 30.0
METRICS_S = 2.0
KILL_S = 10.0


class Processes:
    """All processes of one service."""

    def __init__(self, plan: ProcessPlan) -> None:
        self._plan = plan
        self.control_path = str(plan.folder / "control")
        self._listeners = list(plan.listeners)
        self._address = plan.listeners[0].getsockname()
        self._scorers = [Child("scorer", index) for index in range(len(plan.devices))]
        self._engines: list[Child] = []  # one, from the first roster with local members on
        self._workers = [Child("worker", index) for index in range(len(plan.listeners))]
        self._generations = Generations(plan, self._scorers, self._engines, self._workers, self._start_engine)
        self._stopping = False
        self._launching = asyncio.Lock()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._registry = CollectorRegistry()
        self._restarts = Counter(
            "attune_process_restarts", "Processes that ended and were started again.", ["role"], registry=self._registry
        )
        running = Gauge("attune_processes", "Processes that run.", ["role"], registry=self._registry)
        running.labels("scorer").set_function(lambda: _connected(self._scorers))
        running.labels("engine").set_function(lambda: _connected(self._engines))
        running.labels("worker").set_function(lambda: _connected(self._workers))

    @property
    def members(self) -> int:
        """How many members serve."""
        return self._generations.members

    async def start(self) -> str:
        """Returns the id of the bundle that serves, once every process is ready.

        Raises:
            StartFailed: a process ended before it was ready.
            BundleRefused: a scorer's or the engine's process refused the bundle.
        """
        self._server = await asyncio.get_running_loop().create_unix_server(self._line, self.control_path)
        for child in self._scorers:
            self._keep(child)
        for child in self._scorers:
            await self._or_fail(child.joined.wait())
        await self._or_fail(self._generations.start())
        for child in self._workers:
            self._keep(child)
        for child in self._workers:
            await self._or_fail(child.ready.wait())
        return self._generations.bundle

    async def stop(self, at_once: asyncio.Event | None = None) -> None:
        """Lets requests finish, then ends every process; those that do not end in time are killed.

        Args:
            at_once: set, now or meanwhile, where the port is to be closed without notice.
        """
        async with self._launching:  # nothing is started from here on, and what is being started is known
            self._stopping = True
        for listener in self._listeners:  # each process has its own copy, and closes it when it has told its callers
            listener.close()
        hurried = at_once is not None and at_once.is_set()
        if at_once is not None and not hurried:
            self._begin(self._hurry(at_once), "close the port at a second signal")
        await self._end(self._workers, self._plan.drain_s + KILL_S, hurried=hurried)
        await self._end(self._behind, KILL_S)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    # --- processes ---------------------------------------------------------------------------------------------------

    @property
    def _behind(self) -> list[Child]:
        """The processes behind those that take requests."""
        return [*self._scorers, *self._engines]

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
        child.kept = self._begin(self._run(child), f"{child.role} {child.index}")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Returns a task that is ended with the service."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, child: Child) -> None:
        """Starts a process, and again whenever it ends."""
        pause_s, loop = FIRST_PAUSE_S, asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            try:
                process = await self._launch(child)
            except OSError as error:  # no memory for another process, say, which may be there in a moment
                if not child.was_ready:
                    self._fail(child, f"cannot be started: {error.strerror}")
                    return
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                told = {"role": child.role, "index": child.index, "reason": error.strerror, "pause_s": pause_s}
                _log.error("a process cannot be started and is tried again", **told)
                await asyncio.sleep(pause_s)
                continue
            if process is None:
                return
            code = await self._until_it_ends(child, process)
            if self._stopping:
                return
            if not child.was_ready:
                self._fail(child, f"ended with code {code} at its start")
                return
            self._restarts.labels(child.role).inc()
            if child.role == "worker":
                self._let_go(child.index)
            pause_s = FIRST_PAUSE_S if loop.time() - started_s > STEADY_S else min(LONGEST_PAUSE_S, 2 * pause_s)
            _log.error("a process ended and is started again", role=child.role, index=child.index, code=code, pause_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _until_it_ends(self, child: Child, process: Process) -> int:
        """Returns the exit code of a process; one that loads bundles and was started again loads meanwhile what serves."""
        again = asyncio.create_task(self._bring_back(child)) if child.role != "worker" and child.was_ready else None
        code = await process.wait()
        child.ended()
        if again is not None:
            again.cancel()
        return code

    def _fail(self, child: Child, why: str) -> None:
        """Stops the start, whose step this process was; who waits for an engine's process looks whether it is kept."""
        if child.role != "engine" and not self._failed.done():
            self._failed.set_exception(StartFailed(f"the {child.role}'s process {child.index} {why}"))

    def _let_go(self, index: int) -> None:
        """Takes a process that ended off the port and off the bundles that it used."""
        self._begin(self._generations.left(index), f"retire what worker {index} used")  # no restart waits for that
        old = self._listeners[index]
        with contextlib.suppress(OSError):  # no descriptor is left, say: the start of the next one tries again
            self._listeners[index] = shared_listener(old, self._address)
        old.close()

    async def _launch(self, child: Child) -> Process | None:
        """Starts the process and returns it; None once everything is being stopped."""
        command = [*self._plan.command(child.role, child.index, self.control_path)]
        passed: tuple[int, ...] = ()
        environment = dict(self._plan.environment)
        if child.role == "worker":
            listener = self._listeners[child.index]
            if listener.fileno() < 0:
                listener = self._listeners[child.index] = shared_listener(listener, self._address)
            passed = (listener.fileno(),)
            command += ["--listener", str(listener.fileno())]
        else:
            listens_at = self._plan.socket_of(child)
            environment |= self._plan.devices[child.index] if child.role == "scorer" else {}
            command += ["--socket", listens_at]
            with contextlib.suppress(FileNotFoundError):
                os.unlink(listens_at)  # noqa: PTH108 - of the process before; one call, not worth a thread
        async with self._launching:
            if self._stopping:
                return None
            # A session of its own: Ctrl-C reaches the parent alone, which then drains.
            child.process = await asyncio.create_subprocess_exec(*command, env=environment, pass_fds=passed, start_new_session=True)
            return child.process

    async def _bring_back(self, child: Child) -> None:
        """Has a scorer's or the engine's process that was started again load what serves."""
        await child.joined.wait()
        try:
            await self._generations.bring_up(child)
        except AttuneError as error:
            if self._stopping:  # which has ended it while it loaded
                return
            _log.error("a process cannot load what served", role=child.role, index=child.index, reason=error.detail)
            if child.process is not None:
                child.process.kill()  # and is tried again, after a longer pause
            return
        _log.info("a process is back", role=child.role, index=child.index)

    async def _start_engine(self) -> Child:
        """Returns the engine's process, which is started where it is not there yet.

        Raises:
            BundleRefused: it ended at its start.
        """
        if not self._engines or (self._engines[0].kept is not None and self._engines[0].kept.done()):
            self._engines[:] = [Child("engine", 0)]
            self._keep(self._engines[0])
        (engine,) = self._engines
        assert engine.kept is not None
        joined = asyncio.ensure_future(engine.joined.wait())
        try:
            await asyncio.wait({joined, engine.kept}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            joined.cancel()
        if not engine.joined.is_set():
            raise BundleRefused("the engine's process ended at its start; its own log says why")
        return engine

    async def _hurry(self, at_once: asyncio.Event) -> None:
        """Tells processes that take requests a second time, which ends their notice."""
        await at_once.wait()
        for child in self._workers:
            _tell_to_end(child, signal.SIGTERM)

    async def _end(self, children: Sequence[Child], limit_s: float, *, hurried: bool = False) -> None:
        running = [child.process for child in children if child.process is not None and child.process.returncode is None]
        for child in children:
            # SIGINT skips the notice; one that still starts would be cut short in what it imports.
            _tell_to_end(child, signal.SIGINT if hurried and child.ready.is_set() else signal.SIGTERM)
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
                children = {"scorer": self._scorers, "engine": self._engines, "worker": self._workers}
                child = children[body["role"]][int(body["index"])]
                child.control = control
                child.joined.set()
                if child.role == "worker":
                    return self._generations.joined(child.index)
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
                return self._generations.ready(child, body)
            case "closed":
                await self._generations.closed(child.index, int(body["generation"]))
                return {}
            case "metrics":
                return {"text": (await self.exposition()).decode()}
            case "reload":
                await self.reload(None if body["path"] is None else Path(body["path"]))
                return {}
        raise NotReady(f"a parent has no {what!r}")

    async def reload(self, path: Path | None) -> None:
        """Returns when every process serves another bundle; see `Generations.reload`."""
        await self._generations.reload(path)

    async def exposition(self) -> bytes:
        """Returns the metrics of all processes together; one that does not answer in time is left out and counted in the log."""
        lines = [child.control for child in (*self._behind, *self._workers) if child.control is not None]
        found = await asyncio.gather(*(line.ask("metrics", deadline_s=METRICS_S) for line in lines), return_exceptions=True)
        texts = [str(each["text"]) for each in found if not isinstance(each, BaseException)]
        if len(texts) < len(lines):
            _log.warning("metrics of some processes are missing", missing=len(lines) - len(texts))
        return await asyncio.to_thread(summed, [*texts, generate_latest(self._registry).decode()])


def _tell_to_end(child: Child, how: signal.Signals) -> None:
    if child.process is not None and child.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(how)


def _connected(children: Sequence[Child]) -> float:
    return float(sum(child.control is not None for child in children))
