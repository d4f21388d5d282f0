"""Which bundle serves in several processes: all take another one or none does, whoever ends or comes back meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from attune.service.errors import BundleRefused, NotReady, ReloadNotNow
from attune.service.live.generations import Generations
from attune.service.live.process_plan import Child, KeptRoster, ProcessPlan, Role
from tests.batching.serving import until

Ask = Callable[..., Awaitable[Mapping[str, Any]]]


class Line:
    """The line to a process that does as it is told, and notes it; `on` runs before it answers."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.rosters: list[Any] = []
        self.on: dict[str, Callable[[], None]] = {}
        self.refuses = ""
        self.holds: dict[int, asyncio.Event] = {}

    async def ask(self, what: str, *, deadline_s: float, **body: Any) -> Mapping[str, Any]:
        assert deadline_s > 0
        self.heard.append((what, body.get("generation")))
        self.rosters += [body["roster"]] if "roster" in body else []
        if what in self.on:
            self.on[what]()
        await asyncio.sleep(0)
        if what == "load" and body["generation"] in self.holds:
            await self.holds[body["generation"]].wait()
        if self.refuses == what:
            raise BundleRefused("not with me")
        return {"provider": "CPU", "budget_tokens": 256, "layout": []} if what == "load" else {}


class Service:
    """A parent's view of one scorer's process, two that take requests, and an engine's where a folder's name says so."""

    def __init__(self, tmp_path: Path) -> None:
        self.scorer, self.engine = self.child("scorer"), self.child("engine")
        self.workers = [self.child("worker", index) for index in range(2)]
        self.engines: list[Child] = []
        plan = ProcessPlan(
            command=lambda *_: [],
            environment={},
            devices=[{}],
            listeners=[],
            folder=tmp_path,
            find_bundle=lambda: Path("first"),
            keep_roster=self._keep_roster,
            drain_s=1.0,
        )
        self.generations = Generations(plan, [self.scorer], self.engines, self.workers, self._start_engine)
        self.plan = plan

    @staticmethod
    def child(role: Role, index: int = 0) -> Child:
        child = Child(role, index)
        child.control = Line()  # type: ignore[assignment]
        return child

    @staticmethod
    def _keep_roster(bundle: Path, copy: Path) -> KeptRoster:
        copy.touch()
        return KeptRoster(str(copy), has_locals="local" in bundle.name)

    async def _start_engine(self) -> Child:
        self.engines[:] = [self.engine]
        return self.engine

    @staticmethod
    def line(child: Child) -> Line:
        assert isinstance(child.control, Line)
        return child.control

    async def start(self) -> Service:
        await self.generations.start()
        for worker in self.workers:
            told = self.generations.joined(worker.index)
            self.generations.ready(worker, {"generation": told["generation"], "bundle": "first", "members": 3})
        return self

    def heard(self, child: Child, what: str) -> list[Any]:
        return [generation for each, generation in self.line(child).heard if each == what]

    def ends_and_comes_back(self, child: Child) -> None:
        """What the parent does when it hears of a death, up to the new process's hello."""
        child.ended()
        child.control = Line()  # type: ignore[assignment]
        child.joined.set()


@pytest.fixture
async def service(tmp_path: Path) -> Service:
    return await Service(tmp_path).start()


async def test_everybody_takes_another_bundle_and_the_old_one_is_retired_with_its_last_user(service: Service) -> None:
    await service.generations.reload(Path("local"))
    for worker in service.workers:
        assert [service.heard(worker, what) for what in ("prepare", "commit", "discard")] == [[2], [2], []]
    assert (service.scorer.loaded, service.engine.loaded) == ({1, 2}, {2})
    await service.generations.closed(0, 1)
    assert service.heard(service.scorer, "retire") == []
    await service.generations.closed(1, 1)
    assert service.heard(service.scorer, "retire") == [1]
    assert service.scorer.loaded == {2}


@pytest.mark.parametrize("refusing", ["scorer", "engine", "worker"])
async def test_one_that_refuses_leaves_everybody_with_what_served(service: Service, refusing: str) -> None:
    child = {"scorer": service.scorer, "engine": service.engine, "worker": service.workers[1]}[refusing]
    service.line(child).refuses = "prepare" if refusing == "worker" else "load"
    with pytest.raises(BundleRefused, match="not with me"):
        await service.generations.reload(Path("local"))
    assert service.heard(service.workers[0], "commit") == []
    assert service.heard(service.workers[0], "discard") == ([None] if refusing == "worker" else [])
    assert 2 in service.heard(service.scorer, "retire")
    assert (service.scorer.loaded, service.engine.loaded) == ({1}, set())
    service.line(child).refuses = ""
    await service.generations.reload(Path("local"))
    assert service.heard(service.workers[0], "commit") == [3]  # nothing that is still loading as 2 is taken for it


@pytest.mark.parametrize("lost", ["scorer", "engine"])
async def test_one_that_had_loaded_and_ended_before_all_had_prepared_calls_it_off(service: Service, lost: str) -> None:
    child = service.scorer if lost == "scorer" else service.engine
    service.line(service.workers[1]).on["prepare"] = lambda: service.ends_and_comes_back(child)
    with pytest.raises(BundleRefused, match=f"the {lost}'s process 0 had loaded the bundle and ended meanwhile"):
        await service.generations.reload(Path("local"))
    assert service.heard(service.workers[0], "commit") == []
    await service.generations.bring_up(child)
    assert child.loaded == {1}
    service.line(service.workers[1]).on.clear()
    await service.generations.reload(Path("local"))
    assert 3 in child.loaded


async def test_one_that_comes_back_during_a_reload_ends_with_what_serves_after_it(service: Service) -> None:
    await service.generations.reload(Path("local"))
    service.ends_and_comes_back(service.engine)
    bringing = []

    def reloaded() -> None:  # while the engine loads what serves, another bundle begins to serve
        service.line(service.engine).on.clear()
        bringing.append(asyncio.ensure_future(service.generations.reload(Path("local-too"))))

    service.line(service.engine).on["load"] = reloaded
    await service.generations.bring_up(service.engine)
    await bringing[0]
    assert 3 in service.engine.loaded
    assert service.heard(service.engine, "load")[0] == 2
    assert service.heard(service.workers[0], "back") == [None]


async def test_a_process_that_is_ready_with_what_no_longer_serves_is_told_what_does(service: Service) -> None:
    late = service.workers[1]
    late.ended()
    told = service.generations.joined(late.index)
    await service.generations.reload(Path("local"))
    assert service.heard(late, "prepare") == []
    told = service.generations.ready(late, {"generation": told["generation"], "bundle": "first", "members": 3})
    assert not late.ready.is_set()
    assert (told["generation"], told["path"], told["loaded"]) == (2, "local", {"scorer": [0], "engine": [0]})
    service.generations.ready(late, {"generation": 2, "bundle": "local", "members": 3})
    assert late.ready.is_set()
    assert service.generations.bundle == "local"
    await service.generations.closed(0, 1)
    await service.generations.closed(1, 1)
    assert service.heard(service.scorer, "retire") == [1]


async def test_one_that_is_ready_while_the_others_prepare_is_told_to_commit_too(service: Service) -> None:
    late = service.workers[1]
    late.ended()
    first = service.generations.joined(late.index)["generation"]

    def ready_now() -> None:
        service.generations.ready(late, {"generation": first, "bundle": "first", "members": 3})

    service.line(service.workers[0]).on["prepare"] = ready_now
    await service.generations.reload(Path("local"))
    assert [service.heard(late, what) for what in ("prepare", "commit")] == [[], [2]]
    await service.generations.closed(0, 2)
    assert service.heard(service.scorer, "retire") == []


async def test_one_reload_at_a_time(service: Service) -> None:
    first = asyncio.ensure_future(service.generations.reload(Path("local")))
    await asyncio.sleep(0)
    with pytest.raises(ReloadNotNow, match="another reload is under way"):
        await service.generations.reload(Path("other"))
    await first


async def test_an_engine_that_is_away_calls_a_reload_off(service: Service) -> None:
    service.engine.control = None
    with pytest.raises(ReloadNotNow, match="the engine's process 0 has ended"):
        await service.generations.reload(Path("local"))
    assert service.heard(service.scorer, "retire") == [2]


async def test_a_retirement_that_fails_hides_no_refusal(service: Service) -> None:
    service.line(service.workers[0]).refuses = "prepare"

    def gone() -> None:
        raise NotReady("the process on the other side has ended")

    service.line(service.scorer).on["retire"] = gone
    with pytest.raises(BundleRefused, match="1 of 2 processes refused: not with me"):
        await service.generations.reload(Path("local"))


async def test_the_end_of_the_last_process_that_needed_a_bundle_retires_it(service: Service) -> None:
    await service.generations.reload(Path("local"))
    await service.generations.closed(0, 1)
    await service.generations.left(1)  # in the middle of an answer that held the first bundle
    assert service.heard(service.scorer, "retire") == [1]
    assert service.scorer.loaded == {2}
    await service.generations.left(0)  # what serves stays for those that come back
    assert service.heard(service.scorer, "retire") == [1]


async def test_the_end_of_every_process_while_they_prepare_retires_nothing_twice(service: Service) -> None:
    ends = []

    def ended() -> None:
        ends.extend(asyncio.ensure_future(service.generations.left(index)) for index in range(2))

    service.line(service.workers[1]).on["prepare"] = ended
    service.line(service.workers[1]).refuses = "prepare"
    with pytest.raises(BundleRefused, match="not with me"):
        await service.generations.reload(Path("local"))
    await asyncio.gather(*ends)
    assert service.heard(service.scorer, "retire") == [2]


async def test_one_that_comes_back_takes_what_serves_where_what_it_loads_is_called_off(service: Service) -> None:
    await service.generations.reload(Path("local"))
    service.ends_and_comes_back(service.engine)
    service.line(service.engine).holds[2] = held = asyncio.Event()
    bringing = asyncio.ensure_future(service.generations.bring_up(service.engine))
    await until(lambda: service.heard(service.engine, "load") == [2])
    await service.generations.reload(Path("local-too"))
    service.line(service.engine).refuses = "load"  # as a process does that was told to retire what it loads
    held.set()
    await bringing
    assert 3 in service.engine.loaded
    assert service.heard(service.workers[0], "back") == [None]


async def test_one_that_comes_back_is_given_the_roster_that_serves_and_it_goes_with_its_bundle(service: Service) -> None:
    await service.generations.reload(Path("local"))
    kept = service.plan.roster_of(2)
    service.ends_and_comes_back(service.engine)
    await service.generations.bring_up(service.engine)
    assert service.line(service.engine).rosters == [str(kept)]
    assert service.generations.joined(1)["roster"] == str(kept)
    service.line(service.workers[0]).refuses = "prepare"
    with pytest.raises(BundleRefused):
        await service.generations.reload(Path("local"))
    for worker in service.workers:
        await service.generations.closed(worker.index, 1)
    assert [service.plan.roster_of(generation).is_file() for generation in (1, 2, 3)] == [False, True, False]


async def test_a_reload_names_the_process_that_does_not_load(service: Service) -> None:
    def gone() -> None:
        raise NotReady("the process on the other side has ended")

    service.line(service.engine).on["load"] = gone
    with pytest.raises(BundleRefused, match="the engine's process 0 did not load the bundle: the process on the other side has ended"):
        await service.generations.reload(Path("local"))


async def test_one_that_is_back_before_all_is_retired_that_its_predecessor_used_keeps_what_it_uses(service: Service) -> None:
    await service.generations.reload(Path("local"))
    await service.generations.closed(0, 1)  # the other one still holds the first bundle, for an answer that lasts
    retiring = asyncio.Event()
    service.line(service.scorer).on["retire"] = retiring.set
    leaving = asyncio.ensure_future(service.generations.left(1))
    await retiring.wait()
    service.ends_and_comes_back(service.workers[1])
    told = service.generations.joined(1)
    await leaving
    service.generations.ready(service.workers[1], {"generation": told["generation"], "bundle": "local", "members": 3})
    await service.generations.reload(Path("local-too"))
    await service.generations.closed(0, 2)
    assert service.heard(service.scorer, "retire") == [1]  # the second bundle is still in use there
    await service.generations.closed(1, 2)
    assert service.heard(service.scorer, "retire") == [1, 2]
