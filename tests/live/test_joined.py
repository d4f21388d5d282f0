"""A process that takes requests, as its parent tells it which scorers' processes are there."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attune.service.batching.remote import ScorerLink
from attune.service.errors import BundleRefused, DeadlineExceeded, NotReady
from attune.service.live.control import Control
from attune.service.live.joined import Joined
from attune.service.live.process_plan import Child, load_into_all
from attune.service.observe.metrics import Metrics
from tests.batching.scorers import texts
from tests.batching.serving import until


async def test_a_scorer_that_listens_and_has_not_loaded_yet_is_asked_only_once_the_parent_tells_of_it(tmp_path: Path) -> None:
    arrived = [0, 0]
    sockets = [str(tmp_path / "scorer"), str(tmp_path / "scorer-1")]

    def listening(index: int) -> Any:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived[index] += 1
            await reader.read()
            writer.close()

        return accept

    async def parent(what: str, _: Mapping[str, Any]) -> Mapping[str, Any]:
        assert what == "hello"
        return {"path": "bundle", "roster": "", "sockets": {"scorer": sockets, "engine": []}, "loaded": {"scorer": [1], "engine": []}}

    async with AsyncExitStack() as stack:
        for index, path in enumerate(sockets):
            stack.callback((await asyncio.start_unix_server(listening(index), path)).close)
        lines: list[Control] = []

        def line() -> Control:
            lines.append(Control(parent, lambda _: None))
            return lines[-1]

        stack.callback((await asyncio.get_running_loop().create_unix_server(line, str(tmp_path / "control"))).close)
        joined = Joined(str(tmp_path / "control"), 0, Metrics())
        assert await joined.connect() == Path("bundle")
        await until(lambda: arrived[1] == 1)
        assert arrived == [0, 1]
        await lines[0].ask("back", deadline_s=60.0, role="scorer", index=0, path=sockets[0])
        await until(lambda: arrived[0] == 1)
        await lines[0].ask("back", deadline_s=60.0, role="scorer", index=1, path=sockets[1])  # it was connected already
        assert arrived == [1, 1]
        for link in joined._scorers:
            link.close()


class Loading:
    """The line to a scorer's process that loads whatever it is asked to."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.budgets: list[int] = []

    async def ask(self, _: str, *, budget_tokens: int, **_rest: Any) -> Mapping[str, Any]:
        self.budgets.append(budget_tokens)
        return {"provider": self.provider, "budget_tokens": budget_tokens or 4096, "layout": []}


async def load(*lines: Any) -> Mapping[str, Any]:
    return await load_into_all([Child("scorer", index, control=line) for index, line in enumerate(lines)], 1, Path("bundle"))


async def test_the_first_scorer_measures_the_budget_and_the_others_take_it() -> None:
    lines = [Loading("CUDA"), Loading("CUDA"), Loading("CUDA")]
    assert (await load(*lines))["budget_tokens"] == 4096
    assert [line.budgets for line in lines] == [[0], [4096], [4096]]


@pytest.mark.parametrize(
    ("second", "told"),
    [(Loading("CPU"), "process 1 would run the bundle on CPU, and not on CUDA"), (None, "process 1 has ended and is being started again")],
)
async def test_a_scorer_that_would_compute_elsewhere_or_is_away_is_refused(second: Any, told: str) -> None:
    with pytest.raises(BundleRefused, match=told):
        await load(Loading("CUDA"), second)


class Put:
    """Where bundles are put to serve; `Live`, `Reloader` and what loads, for a process that takes requests."""

    def __init__(self) -> None:
        self.serving: Any = Loaded("first")
        self.refuses = False
        self.loaded: list[Loaded] = []

    async def load(self, path: Path | None) -> Any:
        if self.refuses:
            raise BundleRefused("not with me")
        self.loaded.append(Loaded(str(path)))
        return self.loaded[-1]

    def put(self, serving: Any) -> None:
        self.serving = serving


class Loaded:
    """What `Joined` needs of a `Serving`."""

    def __init__(self, name: str) -> None:
        self.bundle = SimpleNamespace(id=name, portfolio=SimpleNamespace(names=("one", "two")))
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True


def told_of(generation: int) -> dict[str, Any]:
    sockets = {"scorer": [], "engine": []}
    return {"generation": generation, "path": f"bundle-{generation}", "sockets": sockets, "loaded": {"scorer": [], "engine": []}}


@asynccontextmanager
async def joining(tmp_path: Path, serves: list[int]) -> AsyncIterator[tuple[Joined, Put, Control]]:
    """Yields a process that has joined a parent, which serves the first of these generations at the hello and the next at each `ready`."""
    lines: list[Control] = []

    async def parent(what: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if what == "closed":
            raise DeadlineExceeded("'retire' was not answered")
        assert what in {"hello", "ready"}
        return told_of(serves.pop(0))

    def line() -> Control:
        lines.append(Control(parent, lambda _: None))
        return lines[-1]

    server = await asyncio.get_running_loop().create_unix_server(line, str(tmp_path / "control"))
    joined, put = Joined(str(tmp_path / "control"), 0, Metrics()), Put()
    assert await joined.connect() == Path("bundle-1")
    joined.take(put, put.load, put)  # type: ignore[arg-type]  as `Put` says
    yield joined, put, lines[0]
    server.close()


async def test_what_came_into_place_while_it_started_is_loaded_before_it_is_ready(tmp_path: Path) -> None:
    async with joining(tmp_path, [1, 3, 4, 4]) as (joined, put, _):
        await joined.ready()
        assert [each.bundle.id for each in put.loaded] == ["bundle-3", "bundle-4"]
        assert put.serving is put.loaded[-1]


async def test_a_commit_without_a_preparation_loads_first(tmp_path: Path) -> None:
    async with joining(tmp_path, [1, 1]) as (joined, put, parent):
        await joined.ready()
        assert put.loaded == []
        await parent.ask("commit", deadline_s=60.0, **told_of(2))
        assert put.serving.bundle.id == "bundle-2"
        await parent.ask("prepare", deadline_s=60.0, **told_of(3))
        assert put.serving.bundle.id == "bundle-2"
        await parent.ask("commit", deadline_s=60.0, **told_of(3))
        assert put.serving.bundle.id == "bundle-3"


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_bundle_that_is_not_taken_leaves_what_was_told_before(tmp_path: Path, refuses: bool) -> None:
    async with joining(tmp_path, [1, 1]) as (joined, put, parent):
        await joined.ready()
        put.refuses = refuses
        if refuses:
            with pytest.raises(BundleRefused, match="not with me"):
                await parent.ask("prepare", deadline_s=60.0, **told_of(2))
        else:
            await parent.ask("prepare", deadline_s=60.0, **told_of(2))
        await parent.ask("discard", deadline_s=60.0)
        assert [each.closed for each in put.loaded] == [True] * len(put.loaded)
        assert joined._told["generation"] == 1
        assert put.serving.bundle.id == "first"


async def test_a_process_that_cannot_load_what_the_others_serve_ends_in_order(tmp_path: Path) -> None:
    ended: list[int] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.append, 1)
    try:
        async with joining(tmp_path, [1, 1]) as (joined, put, parent):
            await joined.ready()
            put.refuses = True
            with pytest.raises(BundleRefused, match="not with me"):  # a refusal before that is everybody's
                await parent.ask("prepare", deadline_s=60.0, **told_of(2))
            assert ended == []
            with pytest.raises(BundleRefused, match="not with me"):
                await parent.ask("commit", deadline_s=60.0, **told_of(2))
            await until(lambda: ended == [1])
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def test_a_parent_that_waits_for_a_process_that_hangs_keeps_no_bundle_from_being_closed(tmp_path: Path) -> None:
    async with joining(tmp_path, [1]) as (joined, _put, _parent):
        joined._scorers = [ScorerLink()]
        joined._told = {**joined._told, "layout": [], "provider": "CPU", "budget_tokens": 256}
        bundle: Any = SimpleNamespace(template=SimpleNamespace(max_tokens=8))
        nothing: Any = None
        opened = await joined.open_scorer(bundle, nothing, nothing, nothing)
        await opened.batcher.aclose()
        with pytest.raises(NotReady, match="shutting down"):
            await opened.batcher.submit(texts(2), 60.0)
