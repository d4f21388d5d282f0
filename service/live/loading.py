"""From a bundle's folder to something that serves, in numbered steps; every one of them can refuse, and then nothing of it stays.

The same steps run at start and at a reload, so a bundle that comes later is held to what the first one was held to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from attune.models.seam.bundle import Bundle, BundleInvalid, read_bundle
from attune.service.errors import BundleRefused, ReloadNotNow
from attune.service.live.opened_scorer import LoadPlan, RefusedForSetting, ScorerOpener, open_own_scorer
from attune.service.live.runtime import Live, Serving
from attune.service.live.seating import (
    GivenMembers,
    LocalOpener,
    costs_of_members,
    load_members,
    open_own_locals,
    prices_of,
    read_specs,
    seated,
)
from attune.service.live.standing import Standings
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.observe.logs import get_logger
from attune.service.observe.metrics import Metrics

_log = get_logger(__name__)


async def load_serving(
    path: Path,
    plan: LoadPlan,
    given: GivenMembers,
    metrics: Metrics,
    connections: UpstreamPool,
    open_scorer: ScorerOpener = open_own_scorer,
    open_locals: LocalOpener = open_own_locals,
) -> Serving:
    """Returns the bundle at `path`, verified, warm, with its probes passed and its members loaded.

    Args:
        path: the bundle's folder.
        plan: numbers and names to load it with.
        given: members in place of the roster's.
        metrics: what batches and members report to.
        connections: of members that are asked over HTTP.
        open_scorer: loads the bundle's scorer; by default into this process.
        open_locals: loads local members, likewise.

    Raises:
        BundleRefused: any of the steps refused; the detail names file, family, probe or member with both values.
    """
    try:
        # 1. The files, each against its hash.
        bundle = await asyncio.to_thread(read_bundle, path)
        family, shadows = _families(bundle, plan)
        encoder = bundle.text_encoder()
        # ... and what the roster says of its members: cheap, so it comes before all that takes time.
        specs = read_specs(bundle, plan, given)
    except (BundleInvalid, OSError) as error:
        raise BundleRefused(str(error)) from error
    # 2. The scorer: engine, budget, batcher, probes; here, or in the process that has it.
    opened = await open_scorer(bundle, encoder, plan, metrics)
    try:
        # 3. The members: those of the roster, with what the bundle knows of them.
        bundle = seated(bundle, specs, given)
        roster = await load_members(bundle, specs, plan, given, metrics, connections, open_locals)
        costs = costs_of_members(bundle, specs, plan.routing_price_share)
    except BaseException:
        await opened.batcher.aclose()
        raise
    candidate_outputs, prompt_outputs = bundle.families.outputs_to_keep()
    return Serving(
        bundle=bundle,
        encoder=encoder,
        batcher=opened.batcher,
        roster=roster,
        family=family,
        shadows=shadows,
        candidate_outputs=candidate_outputs,
        prompt_outputs=prompt_outputs,
        provider=opened.provider,
        budget_tokens=opened.budget_tokens,
        owns_members=given is None,
        costs=costs,
        priced=tuple(name for name in bundle.portfolio.names if name in prices_of(specs)),
        standings=Standings(bundle, family, metrics.member_drifted),
    )


class Reloader:
    """Puts another bundle in place while requests go on: they finish on the one that they hold, and then it is closed.

    Args:
        live: what serves.
        load: the steps above, with everything but the path filled in; None is the configured or newest bundle.
        announce: told of what serves from now on.
    """

    def __init__(self, live: Live, load: Callable[[Path | None], Awaitable[Serving]], announce: Callable[[Serving], None]) -> None:
        self._live = live
        self._load = load
        self._announce = announce
        self._one_at_a_time = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def __call__(self, path: Path | None) -> Serving:
        """Returns what serves now.

        Raises:
            BundleRefused: the bundle does not pass; the old one keeps serving.
            ReloadNotNow: another reload is under way; likewise.
        """
        if self._one_at_a_time.locked():
            raise ReloadNotNow("another reload is under way")
        async with self._one_at_a_time:
            fresh = await self._load(path)
            self.put(fresh)
            return fresh

    def put(self, fresh: Serving) -> None:
        """Lets `fresh` serve from now on; what served is closed once nobody holds it."""
        old, self._live.serving = self._live.serving, fresh
        self._announce(fresh)
        if old is not None:
            if fresh.bundle.basis == old.bundle.basis:
                _log.info("a bundle was loaded; users keep what was learned", bundle=fresh.bundle.id, before=old.bundle.id)
            else:
                _log.warning(
                    "a bundle of another basis was loaded; users begin at the prior until `attune replay` has learned their choices again",
                    bundle=fresh.bundle.id,
                    before=old.bundle.id,
                )
            task = asyncio.ensure_future(_close_when_idle(old))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Closes what was replaced and is still held by somebody."""
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)


async def _close_when_idle(old: Serving) -> None:
    try:
        await old.leases.idle()
    finally:
        await old.aclose()


def _families(bundle: Bundle, plan: LoadPlan) -> tuple[str, tuple[str, ...]]:
    names = bundle.families.names
    for setting, asked in (("family", [plan.family] if plan.family else []), ("shadow_families", plan.shadow_families)):
        if unknown := [name for name in asked if name not in names]:
            raise RefusedForSetting(f"{bundle.id} has no family {', '.join(unknown)}; it has {', '.join(names)}", setting)
    family = plan.family or bundle.default_family
    return family, tuple(name for name in (plan.shadow_families or names) if name != family)
