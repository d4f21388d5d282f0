"""`attune serve` with several processes: the store and the sockets that the parent owns, and the processes behind.

ATTUNE_WORKERS=N   this process: embedded store, N listening sockets, `live.processes` ─> ATTUNE_SCORERS x serve-scorer, N x serve-worker,
                   and a serve-engine where there are local members
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import uvloop

from attune.service.cores import usable_cores
from attune.service.ending import EXIT_PART, end_process
from attune.service.errors import AttuneError, BundleRefused
from attune.service.live.engine_process import serve_engine
from attune.service.live.hangup import answer_hangups
from attune.service.live.listeners import shared_sockets
from attune.service.live.opened_scorer import LoadPlan
from attune.service.live.private_folder import private_folder
from attune.service.live.process_plan import KeptRoster, ProcessPlan, Role, StartFailed
from attune.service.live.processes import Processes
from attune.service.live.scorer_process import serve_scorer
from attune.service.live.seating import roster_file
from attune.service.machine import cautions, find_bundle, scorer_devices
from attune.service.members.build import local_specs
from attune.service.members.member import UnusableMember
from attune.service.members.roster_file import copy_roster
from attune.service.observe.logs import get_logger, log_ready, log_stopped, log_stopping
from attune.service.settings import CONFIG_VARIABLE, LARGEST_BODY, Settings, SettingsError, numbers_for, variable
from attune.service.state.embedded import EmbeddedRedis, EmbeddedRedisError

_log = get_logger(__name__)
LONGEST_FOLDER = 70


def serve_many(settings: Settings) -> int:
    """Serves with `settings.workers` processes until SIGTERM or Ctrl-C; returns the exit code.

    Raises:
        OSError: the address cannot be had.
        SettingsError: there are fewer GPUs than scorers.
    """
    devices = scorer_devices(settings)
    listeners = shared_sockets(settings.host, settings.port, settings.workers)
    for caution in cautions(settings):
        _log.warning("settings", caution=caution)
    return uvloop.run(_parent(settings, listeners, devices))


async def _parent(settings: Settings, listeners: list[socket.socket], devices: list[dict[str, str]]) -> int:
    loop = asyncio.get_running_loop()
    stopped, at_once = asyncio.Event(), asyncio.Event()

    def stop(by: int) -> None:
        if stopped.is_set() or by == signal.SIGINT:
            at_once.set()
        stopped.set()

    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop, each)
    async with AsyncExitStack() as parts:
        url, where = settings.redis_url, "external"
        if not url:
            try:
                url = (await parts.enter_async_context(EmbeddedRedis(settings.data_dir))).url
            except EmbeddedRedisError as error:
                _log.error("cannot start", kind="store", reason=str(error))
                return EXIT_PART
            where = "embedded"
        folder = parts.enter_context(private_folder(_short_folder()))
        host, port = listeners[0].getsockname()[:2]
        processes = Processes(
            ProcessPlan(
                command=_command,
                environment={**os.environ, **_settings_of_children(settings, url, port), **_kept_files(settings, folder)},
                devices=devices,
                listeners=listeners,
                folder=folder,
                find_bundle=lambda: _find_bundle(settings),
                keep_roster=lambda path, copy: _keep_roster(settings, path, copy),
                drain_s=settings.drain_notice_s + settings.drain_s,
            )
        )
        try:
            bundle = await _unless(stopped, processes)
        except (StartFailed, AttuneError) as error:
            _log.error("cannot start", reason=getattr(error, "detail", str(error)))
            await processes.stop()
            return EXIT_PART
        if bundle is not None:
            address = f"http://[{host}]:{port}" if listeners[0].family == socket.AF_INET6 else f"http://{host}:{port}"
            log_ready(address, bundle, processes.members, where)
            answer_hangups(lambda: processes.reload(None))
            await stopped.wait()
            log_stopping(settings.drain_notice_s + settings.drain_s)
        await processes.stop(at_once)
    log_stopped()
    return 0


def _short_folder() -> Path:
    """Returns where sockets may lie: where temporary files do, unless their paths were longer than the 104 bytes that all systems allow."""
    usual = tempfile.gettempdir()
    return Path(usual if len(os.fsencode(usual)) <= LONGEST_FOLDER else "/tmp")  # noqa: S108  a private folder is made there


async def _unless(stopped: asyncio.Event, processes: Processes) -> str | None:
    """Returns the id of the bundle once all processes are ready; None where a signal came first.

    Raises:
        StartFailed, AttuneError: see `Processes.start`.
    """
    starting = asyncio.ensure_future(processes.start())
    signalled = asyncio.ensure_future(stopped.wait())
    await asyncio.wait({starting, signalled}, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if starting.done() and not stopped.is_set():
        return starting.result()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)  # whatever it says now comes of being stopped
    return None


def _command(role: Role, index: int, control: str) -> list[str]:
    return [sys.executable, "-m", "attune.service", f"serve-{role}", control, str(index)]


def _settings_of_children(settings: Settings, url: str, port: int) -> dict[str, str]:
    """Returns what differs from the environment: arguments of this command, the port and the store that the parent has."""
    return {
        variable("host"): settings.host,
        variable("port"): str(port),
        variable("bundle"): settings.bundle,
        variable("roster"): settings.roster,
        variable("data_dir"): str(settings.data_dir),
        variable("redis_url"): url,
        # One process's share; a refusal says the share, and all together are what was set.
        variable("max_in_flight"): str(max(1, settings.max_in_flight // settings.workers)),
        variable("large_bodies_bytes"): str(max(LARGEST_BODY, settings.large_bodies_bytes // settings.workers)),
        variable("redis_pool_size"): str(max(1, settings.redis_pool_size // settings.workers)),
    }


def _kept_files(settings: Settings, folder: Path) -> dict[str, str]:
    """Returns where copies of the files lie that settings and keys stand in: one that is started again reads what the others have read."""
    files = {CONFIG_VARIABLE: os.environ.get(CONFIG_VARIABLE, "").strip(), variable("api_keys_file"): settings.api_keys_file}
    kept = {}
    for index, (name, file) in enumerate(files.items()):
        if file:
            kept[name] = str(folder / f"settings-{index}{Path(file).suffix}")
            shutil.copyfile(file, kept[name])
    return kept


def _find_bundle(settings: Settings) -> Path:
    try:
        return find_bundle(settings).resolve()
    except SettingsError as error:
        raise BundleRefused(str(error)) from error


def _keep_roster(settings: Settings, bundle: Path, copy: Path) -> KeptRoster:
    file = roster_file(bundle, settings.roster)
    if not settings.roster and not file.is_file():
        return KeptRoster("", has_locals=False)
    try:
        return KeptRoster(str(copy), has_locals=bool(local_specs(copy_roster(file, copy))))
    except UnusableMember as error:
        raise BundleRefused(str(error)) from error


def run_scorer(settings: Settings, control_path: str, index: int, socket_path: str) -> NoReturn:
    """Serves rows to several processes until the parent says so, and ends this process."""
    cores = usable_cores()
    # Where there are cores for everybody, those that take requests keep theirs; several scorers share the rest.
    left = cores - settings.workers if cores >= 2 * settings.workers else cores
    threads = settings.threads or max(1, left // settings.scorers)
    plan = replace(numbers_for(LoadPlan, settings), threads=threads)

    _run_behind(lambda: serve_scorer(plan, control_path=control_path, index=index, socket_path=socket_path))


def run_engine(settings: Settings, control_path: str, index: int, socket_path: str) -> NoReturn:
    """Serves local members' answers to several processes until the parent says so, and ends this process."""
    plan = numbers_for(LoadPlan, settings)
    _run_behind(lambda: serve_engine(plan, control_path=control_path, index=index, socket_path=socket_path))


def _run_behind(serve: Callable[[], Awaitable[int]]) -> NoReturn:
    async def until_ended() -> NoReturn:
        # Within the loop, whose end would wait for the thread that loads a bundle: minutes, where it measures large batches.
        end_process(await serve())

    uvloop.run(until_ended())
