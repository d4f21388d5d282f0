"""One of several processes that take requests: its line to the parent, its links to scorers and engine, and how a reload reaches it.

start    ask the parent what serves ─> links to scorers and engine ─> bundle and servers here, rows and local members' answers from there
reload   asked for here or elsewhere ─> the parent: scorer and engine load ─> everybody `prepare`s ─> everybody `commit`s, or nobody
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from attune.models.seam.bundle import Bundle
from attune.models.seam.text import TextEncoder
from attune.service.batching.frames import RowLayout
from attune.service.batching.remote import RemoteBatcher, ScorerLink
from attune.service.batching.spread import SpreadBatcher
from attune.service.errors import AttuneError, NotReady
from attune.service.framing import Link
from attune.service.live.control import Body, Control, call_parent
from attune.service.live.loading import Reloader
from attune.service.live.opened_scorer import LoadPlan, OpenedScorer
from attune.service.live.runtime import Live, Serving
from attune.service.live.seating import LocalRoster, SeatingPlan
from attune.service.members.member import Member
from attune.service.members.remote_local import EngineLink, RemoteLocalMember
from attune.service.observe.logs import get_logger
from attune.service.observe.metrics import Metrics

_log = get_logger(__name__)
PARENT_S = 10.0
RELOAD_S = 600.0
METRICS_S = 5.0


class Joined:
    """This process's place among the others; `connect` before anything else, `take` and `ready` once something is loaded.

    Args:
        control_path: where the parent listens.
        index: of this process.
        metrics: of this process, for the parent to add up.
    """

    def __init__(self, control_path: str, index: int, metrics: Metrics) -> None:
        self._control_path = control_path
        self._index = index
        self._metrics = metrics
        self._scorers: list[ScorerLink] = []
        self._engine = EngineLink()
        self._control: Control | None = None
        self._told: Body = {}
        self._told_before: Body = {}
        self._prepared: Serving | None = None
        self._load: Callable[[Path | None], Awaitable[Serving]] | None = None
        self._reloader: Reloader | None = None
        self._live: Live | None = None

    @property
    def first(self) -> bool:
        """Whether this process does what one of them is to do for all."""
        return self._index == 0

    async def connect(self) -> Path:
        """Returns the folder of the bundle that serves, having joined."""
        self._control = await call_parent(self._control_path, self._answer, _orphaned)
        self._told = await self._control.ask("hello", deadline_s=PARENT_S, role="worker", index=self._index, pid=os.getpid())
        self._scorers = [ScorerLink() for _ in self._told["sockets"]["scorer"]]
        await self._connect_loaded(self._told["loaded"])
        return Path(self._told["path"])

    async def _connect_loaded(self, loaded: Mapping[str, Sequence[int]]) -> None:
        """Connects to processes that have loaded what serves; one that has ended since is connected to when the parent says it is back."""
        for role, links in (("scorer", self._scorers), ("engine", [self._engine])):
            for link, path, index in zip(links, self._told["sockets"][role], range(len(links)), strict=False):  # no engine, no socket
                if index in loaded.get(role, ()):
                    with contextlib.suppress(OSError):
                        await link.connect(path)

    async def open_scorer(self, bundle: Bundle, encoder: TextEncoder, plan: LoadPlan, metrics: Metrics) -> OpenedScorer:
        """Returns a view of the scorers' processes, in place of a scorer here: a `ScorerOpener`."""
        del encoder, plan, metrics
        generation, layout = int(self._told["generation"]), RowLayout.from_json(self._told["layout"])

        async def closed() -> None:
            with contextlib.suppress(AttuneError):  # the parent is gone, or waits for a process that does not answer: it has heard of it
                await self._parent.ask("closed", deadline_s=PARENT_S, generation=generation)

        def remote(link: ScorerLink, closed: Callable[[], Awaitable[None]]) -> RemoteBatcher:
            longest = bundle.template.max_tokens
            return RemoteBatcher(link, generation=generation, layout=layout, max_text_tokens=longest, closed=closed)

        one, *others = self._scorers
        batcher = SpreadBatcher([remote(link, _nothing) for link in self._scorers], closed) if others else remote(one, closed)
        return OpenedScorer(batcher, self._told["provider"], int(self._told["budget_tokens"]))

    async def open_locals(self, roster: LocalRoster, plan: SeatingPlan) -> Mapping[str, Member]:
        """Returns a view of the local members, which the engine's process has loaded: a `LocalOpener`."""
        del plan
        generation = int(self._told["generation"])
        return {name: RemoteLocalMember(name, generation, self._engine) for name in roster.specs}

    def as_told(self, plan: LoadPlan) -> LoadPlan:
        """Returns the numbers to load with, and the roster as it was when the bundle was loaded by the others."""
        return replace(plan, roster=str(self._told["roster"]))

    def take(self, live: Live, load: Callable[[Path | None], Awaitable[Serving]], reloader: Reloader) -> None:
        """Lets reloads reach what serves here."""
        self._live, self._load, self._reloader = live, load, reloader

    async def ready(self) -> None:
        """Tells the parent that requests are taken, with what serves; what came into place while this process started is loaded first."""
        assert self._live is not None
        while True:
            assert self._live.serving is not None
            bundle, generation = self._live.serving.bundle, int(self._told["generation"])
            there = await self._parent.ask(
                "ready", deadline_s=PARENT_S, generation=generation, bundle=bundle.id, members=len(bundle.portfolio.names)
            )
            if there["generation"] == generation:
                # One may have come back before the parent knew that this process is to be told.
                return await self._connect_loaded(there["loaded"])
            await self._prepare(there)
            self._commit()

    async def reload(self, path: Path | None) -> Serving:
        """Returns what serves now, in this process as in all others.

        Raises:
            BundleRefused: the scorer or a process refused; everywhere the old bundle goes on.
        """
        await self._parent.ask("reload", deadline_s=RELOAD_S, path=None if path is None else str(path))
        assert self._live is not None
        assert self._live.serving is not None
        return self._live.serving

    async def exposition(self) -> bytes:
        """Returns the metrics of all processes together, in Prometheus' text format."""
        text: str = (await self._parent.ask("metrics", deadline_s=METRICS_S))["text"]
        return text.encode()

    @property
    def _parent(self) -> Control:
        if self._control is None:
            raise NotReady("this process has not joined yet")
        return self._control

    async def _answer(self, what: str, body: Body) -> Body:
        match what:
            case "metrics":
                return {"text": self._metrics.render()[0].decode()}
            case "back":
                links: Sequence[Link] = self._scorers if body["role"] == "scorer" else [self._engine]
                with contextlib.suppress(OSError):
                    await links[int(body["index"])].connect(body["path"])
            case "prepare":
                await self._prepare(body)
            case "commit":
                if self._prepared is None:  # it said that it is ready while the others prepared
                    await self._prepare_or_end(body)
                self._commit()
            case "discard":
                prepared, self._prepared = self._prepared, None
                if prepared is not None:
                    self._told = self._told_before
                    await prepared.aclose()
            case _:
                raise NotReady(f"a process that takes requests has no {what!r}")
        return {}

    async def _prepare(self, told: Body) -> None:
        if self._load is None:
            raise NotReady("this process is still starting")
        self._told_before, self._told = self._told, told
        try:
            await self._connect_loaded(told["loaded"])
            self._prepared = await self._load(Path(told["path"]))
        except BaseException:
            self._told = self._told_before
            raise

    async def _prepare_or_end(self, told: Body) -> None:
        """Prepares what all others serve already: where that fails here, this process drains, and the one in its place begins with it."""
        try:
            await self._prepare(told)
        except AttuneError as error:
            _end(f"the bundle that the others serve cannot be loaded here: {error.detail}")
            raise

    def _commit(self) -> None:
        assert self._prepared is not None
        assert self._reloader is not None
        self._reloader.put(self._prepared)
        self._prepared = None


async def _nothing() -> None:
    """Of one scorer nothing is told: of all of them it is told once."""


def _orphaned(_: Control) -> None:
    _end("the parent is gone")
    os.kill(os.getpid(), signal.SIGTERM)  # a second time: callers who still came would find no scorer and no store


def _end(reason: str) -> None:
    _log.warning("this process ends", reason=reason)
    os.kill(os.getpid(), signal.SIGTERM)
