"""A parent and small processes that speak its line and load nothing: what is started again, whenever something ends."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import pytest

from attune.service.errors import AttuneError
from attune.service.live.listeners import shared_sockets
from attune.service.live.process_plan import KeptRoster, ProcessPlan, StartFailed
from attune.service.live.processes import Processes
from tests.batching.serving import until
from tests.log_lines import logged

CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from attune.service.live.control import call_parent

role, index, control = sys.argv[1], int(sys.argv[2]), sys.argv[3]
here = Path(control).parent

def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

async def answer(what, body):
    if what == "prepare" and (here / "kills").exists():
        engine = int((here / "engine.pid").read_text())
        (here / "kills").unlink()
        os.kill(engine, signal.SIGKILL)
        while is_there(engine):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # the thread of the parent that has taken its end has yet to tell the parent's loop
    if what == "metrics":
        return {"text": ""}
    if what == "load" and (here / "hangs").exists():
        (here / "loads").touch()
        await asyncio.Event().wait()
    return {"provider": "CPU", "budget_tokens": 256, "layout": []} if what == "load" else {}

async def main():
    (here / f"{role}.pid").write_text(str(os.getpid()))
    ended = asyncio.Event()
    line = await call_parent(control, answer, lambda _: ended.set())
    told = await line.ask("hello", deadline_s=60.0, role=role, index=index, pid=os.getpid())
    if role == "worker":
        await line.ask("ready", deadline_s=60.0, generation=told["generation"], bundle="first", members=2)
    await ended.wait()

asyncio.run(main())
"""


def parent(tmp_path: Path) -> Processes:
    """A parent whose processes cannot be started while there is a file `cannot-start`."""

    def interpreter() -> str:
        return str(tmp_path / "nothing") if (tmp_path / "cannot-start").exists() else sys.executable

    return Processes(
        ProcessPlan(
            command=lambda role, index, control: [interpreter(), "-c", CHILD, role, str(index), control],
            environment={"PYTHONPATH": ":".join(sys.path)},
            devices=[{}],
            listeners=shared_sockets("127.0.0.1", 0, 1),
            folder=tmp_path,
            find_bundle=lambda: Path("first"),
            keep_roster=lambda bundle, _: KeptRoster("", has_locals=bundle.name == "local"),
            drain_s=1.0,
        )
    )


async def test_an_engine_that_ends_while_the_first_bundle_that_needs_it_is_prepared_does_not_stay_away(tmp_path: Path) -> None:
    processes = parent(tmp_path)
    try:
        assert await processes.start() == "first"
        (tmp_path / "kills").touch()
        with pytest.raises(AttuneError, match="the engine's process 0 had loaded the bundle and ended meanwhile"):
            await processes.reload(Path("local"))
        await processes.reload(Path("local"))
        assert b'attune_processes{role="engine"} 1.0' in await processes.exposition()
    finally:
        await processes.stop()


async def test_a_process_that_is_ended_while_it_loads_again_is_no_error_of_an_orderly_stop(tmp_path: Path) -> None:
    processes = parent(tmp_path)
    with logged("error") as lines:
        try:
            await processes.start()
            (tmp_path / "hangs").touch()
            os.kill(int((tmp_path / "scorer.pid").read_text()), signal.SIGKILL)
            await until((tmp_path / "loads").exists)
        finally:
            await processes.stop()
        assert [line["event"] for line in lines()] == ["a process ended and is started again"]


async def test_a_process_that_cannot_be_started_again_at_once_is_tried_until_it_can(tmp_path: Path) -> None:
    processes = parent(tmp_path)
    with logged("error") as lines:
        try:
            await processes.start()
            (tmp_path / "cannot-start").touch()
            killed = (tmp_path / "worker.pid").read_text()
            os.kill(int(killed), signal.SIGKILL)
            await until(lambda: len(lines()) > 1)
            (tmp_path / "cannot-start").unlink()
            await until(lambda: (tmp_path / "worker.pid").read_text() not in {"", killed})
        finally:
            await processes.stop()
        assert {line["event"] for line in lines()[1:]} == {"a process cannot be started and is tried again"}


async def test_a_process_comes_back_where_no_descriptor_was_left_when_it_ended(tmp_path: Path) -> None:
    processes = parent(tmp_path)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with logged("error") as lines:
        try:
            await processes.start()
            killed = (tmp_path / "worker.pid").read_text()
            resource.setrlimit(resource.RLIMIT_NOFILE, (1, most[1]))  # what is open stays so
            os.kill(int(killed), signal.SIGKILL)
            await until(lambda: any("cannot be started" in line["event"] for line in lines()))
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
            await until(lambda: (tmp_path / "worker.pid").read_text() not in {"", killed})
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
            await processes.stop()


async def test_a_process_that_cannot_be_started_at_all_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "cannot-start").touch()
    processes = parent(tmp_path)
    with pytest.raises(StartFailed, match="the scorer's process 0 cannot be started: No such file"):
        await processes.start()
    await processes.stop()
