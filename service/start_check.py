"""`attune check`: everything that a start would do and refuse, without serving, and to its end: one refusal hides no other.

settings, keys, secret, roster ─┐
store: opened and written to ───┼─> a line each, and whether `attune serve` would start
bundle: hashes, session, probes ┤
members: loaded, and asked ─────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Literal

from attune.models.seam.counts import counted
from attune.service.errors import AttuneError
from attune.service.live.loading import load_serving
from attune.service.live.opened_scorer import LoadPlan
from attune.service.machine import cautions, find_bundle, load_user_secret
from attune.service.members.openai import OpenAIMember
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.observe.metrics import Metrics
from attune.service.parts import check_cheap, explain, open_store
from attune.service.settings import Settings, SettingsError, numbers_for

MEMBERS_S = 15.0


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one check.

    Attributes:
        part: settings, store, bundle, members or the name of a member.
        state: `ok`; `warning` where serving starts all the same; `refused` where it does not.
        detail: what was found, or why it was refused.
        setting: the environment variable that changes it; empty where none does.
    """

    part: str
    state: Literal["ok", "warning", "refused"]
    detail: str
    setting: str = ""

    def to_json(self) -> dict[str, str]:
        """Returns the fields."""
        return asdict(self)


def run_checks(settings: Settings) -> list[Checked]:
    """Returns what became of every check, in the order of a start; nothing of it goes on running."""
    return asyncio.run(_run_checks(settings))


async def _run_checks(settings: Settings) -> list[Checked]:
    found = _settings(settings)
    metrics = Metrics()
    async with AsyncExitStack() as parts:
        refused = {row.setting for row in found if row.state == "refused"}
        if "ATTUNE_REDIS_URL" not in refused:
            found += await _guarded(lambda: _store(settings, metrics, parts))
        if not refused & {"ATTUNE_BUNDLE", "ATTUNE_ROSTER"}:
            found += await _guarded(lambda: _bundle(settings, metrics, parts))
    return found


def _settings(settings: Settings) -> list[Checked]:
    found = [Checked("settings", "warning", caution) for caution in cautions(settings)]
    for check in (check_cheap, load_user_secret):
        try:
            check(settings)
        except SettingsError as error:
            found += [Checked("settings", "refused", f"{problem.source}: {problem.message}", problem.name) for problem in error.problems]
    return found if any(row.state == "refused" for row in found) else [Checked("settings", "ok", "read"), *found]


async def _guarded(check: Callable[[], Awaitable[list[Checked]]]) -> list[Checked]:
    try:
        return await check()
    except Exception as error:  # noqa: BLE001  whatever a start would refuse with, it is one row here
        refusal = explain(error)
        return [Checked(refusal.kind, "refused", refusal.reason, refusal.setting)]


async def _store(settings: Settings, metrics: Metrics, parts: AsyncExitStack) -> list[Checked]:
    store, where = await open_store(settings, metrics, parts)
    try:
        await store.check_writes()
    except AttuneError as error:  # a start goes on without it, and learns nothing
        return [Checked("store", "warning", error.detail, "ATTUNE_REDIS_URL")]
    return [Checked("store", "ok", f"{where}, takes writes")]


async def _bundle(settings: Settings, metrics: Metrics, parts: AsyncExitStack) -> list[Checked]:
    connections = await parts.enter_async_context(UpstreamPool())
    serving = await load_serving(find_bundle(settings), numbers_for(LoadPlan, settings), None, metrics, connections)
    parts.push_async_callback(serving.aclose)
    names = serving.bundle.portfolio.names
    found = [Checked("bundle", "ok", f"{serving.bundle.id} on {serving.provider}, probes passed, {counted(len(names), 'member')}")]
    try:
        async with asyncio.timeout(MEMBERS_S):
            unable = await serving.roster.check()
    except TimeoutError:
        return [*found, Checked("members", "warning", f"not all of them answered within {MEMBERS_S:g} s", "ATTUNE_ROSTER")]
    away = [Checked(f"member {name}", "warning", unable[name], "ATTUNE_ROSTER") for name in names if name in unable]
    there = {name: member for name, member in serving.roster.members.items() if name not in unable}
    doubts = {name: member.doubt for name, member in there.items() if isinstance(member, OpenAIMember)}
    return (
        found
        + away
        + [
            Checked(f"member {name}", "warning", f"answers; {doubts[name]}", "ATTUNE_ROSTER")
            if doubts.get(name)
            else Checked(f"member {name}", "ok", "answers")
            for name in there
        ]
    )
