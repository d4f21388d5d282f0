"""From a bundle's folder to something that serves, in numbered steps; every one of them can refuse, and then nothing of it stays.

The same steps run at start and at a reload, so a bundle that comes later is held to what the first one was held to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import numpy as np

from attune.models.seam.bundle import Bundle, BundleInvalid, read_bundle
from attune.models.seam.precision import Precision, ScorerFile, choose_scorer, probe_difference
from attune.models.seam.text import TextEncoder
from attune.service.batching.batcher import Batcher
from attune.service.batching.calibrate import calibrate
from attune.service.batching.engines import Engine, open_engine
from attune.service.batching.session import ScorerRefused
from attune.service.errors import AttuneError, BundleRefused
from attune.service.live.runtime import Live, Serving
from attune.service.live.seating import GivenMembers, costs_of_members, load_members, read_specs, seated
from attune.service.live.watching import watch_batch
from attune.service.observe.logs import get_logger
from attune.service.observe.metrics import Metrics

_log = get_logger(__name__)
PROBE_S = 30.0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Numbers and names that a bundle is loaded with, as the settings have them.

    Attributes:
        family: that is to serve; empty takes the bundle's default.
        shadow_families: whose predictions are measured; none takes all others.
        roster: members file; empty takes the bundle's own.
        precision: of the scorer; auto takes fp32 where the bundle has it.
        threads: of the scorer; 0 takes what the cgroup grants.
        batch_budget_tokens: of a batch; 0 measures.
        routing_price_share: of the price in a member's cost, against its latency.
    """

    family: str
    shadow_families: tuple[str, ...]
    roster: str
    precision: Precision | Literal["auto"]
    require_gpu: bool
    threads: int
    batch_budget_tokens: int
    queue_max_items: int
    queue_max_tokens: int
    local_max_batch: int
    routing_price_share: float


async def load_serving(path: Path, plan: LoadPlan, given: GivenMembers, metrics: Metrics, client: httpx.AsyncClient) -> Serving:
    """Returns the bundle at `path`, verified, warm, with its probes passed and its members loaded.

    Raises:
        BundleRefused: any of the steps refused; the detail names file, family, probe or member with both values.
    """
    try:
        # 1. The files, each against its hash.
        bundle = await asyncio.to_thread(read_bundle, path)
        family, shadows = _families(bundle, plan)
        encoder = bundle.text_encoder()
        # 2. The session, on the provider that is required.
        precision, scorer = _scorer(bundle, plan)
        session = await asyncio.to_thread(
            open_engine, bundle.path / scorer.file, precision, threads=plan.threads or None, require_gpu=plan.require_gpu
        )
        _check_outputs(bundle, session)
        # 3. The budget of a batch, which also warms every shape.
        longest = bundle.template.max_tokens
        measured = await asyncio.to_thread(
            lambda: calibrate(session, max_text_tokens=longest, fixed_budget_tokens=plan.batch_budget_tokens or None)
        )
        _log.info("scorer calibrated", provider=session.provider, precision=precision, **measured.told())
    except (BundleInvalid, ScorerRefused, OSError) as error:
        raise BundleRefused(str(error)) from error
    batcher = Batcher(
        session,
        max_items=plan.queue_max_items,
        max_tokens=max(plan.queue_max_tokens, longest),
        max_text_tokens=longest,
        budget_tokens=measured.budget_tokens,
        overhead_tokens=measured.overhead_tokens,
        tokens_per_s=measured.tokens_per_s,
        canary=encoder.prompt("canary"),
        on_batch=watch_batch(metrics),
        on_drop=metrics.text_dropped,
    )
    batcher.start()
    try:
        # 4. The probes, through the batcher as a request would go.
        await replay_probes(bundle, encoder, batcher, scorer.tolerance)
        # 5. The members: those of the roster, with what the bundle knows of them.
        specs = read_specs(bundle, plan, given)
        bundle = seated(bundle, specs, given)
        roster = await load_members(bundle, specs, plan, given, metrics, client)
        costs = costs_of_members(bundle, specs, plan.routing_price_share)
    except BaseException:
        await batcher.aclose()
        raise
    candidate_outputs, prompt_outputs = bundle.families.outputs_to_keep()
    return Serving(
        bundle=bundle,
        encoder=encoder,
        batcher=batcher,
        roster=roster,
        family=family,
        shadows=shadows,
        candidate_outputs=candidate_outputs,
        prompt_outputs=prompt_outputs,
        provider=session.provider,
        budget_tokens=measured.budget_tokens,
        owns_members=given is None,
        costs=costs,
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
            BundleRefused: the bundle does not pass, or another reload is under way; the old one keeps serving.
        """
        if self._one_at_a_time.locked():
            raise BundleRefused("another reload is under way")
        async with self._one_at_a_time:
            fresh = await self._load(path)
            old, self._live.serving = self._live.serving, fresh
            self._announce(fresh)
            if old is not None:
                task = asyncio.ensure_future(_close_when_idle(old))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            return fresh

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


async def replay_probes(bundle: Bundle, encoder: TextEncoder, batcher: Batcher, tolerance: float) -> None:
    """Returns when every probe was answered as the training framework answered it, within `tolerance` (see `probe_difference`).

    Raises:
        BundleRefused: one was not; the detail has the probe, the output, the difference and the tolerance.
    """
    probes = bundle.probes
    texts = [
        encoder.candidates(prompt, [response])[0] if response else encoder.prompt(prompt)
        for prompt, response in zip(probes.prompts, probes.responses, strict=True)
    ]
    try:
        rows = [(await batcher.submit([text], PROBE_S)).rows[0] for text in texts]  # one by one: a small queue has room for that
    except AttuneError as error:
        raise BundleRefused(f"{bundle.id}: the probes could not be run: {error.detail}") from error
    worst = 0.0
    for name, answers in probes.answers.items():
        if name not in rows[0]:
            raise BundleRefused(f"{bundle.id}: the probes have answers for {name}, which the scorer does not give")
        shapes = {row[name].shape for row in rows}
        if shapes != {answers.shape[1:]}:
            raise BundleRefused(f"{bundle.id}: {name} has rows of {shapes}; the probes have {answers.shape[1:]}")
        found = np.stack([row[name] for row in rows])
        difference = probe_difference({name: found}, {name: answers})
        if not difference <= tolerance:  # so written, NaN does not pass
            apart = np.abs(found - answers).reshape(len(rows), -1).max(axis=1)
            index = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
            raise BundleRefused(f"{bundle.id}: probe {index} differs by {difference:.3g} in {name}; the tolerance is {tolerance:.3g}")
        worst = max(worst, difference)
    _log.info("probes passed", probes=len(rows), worst_difference=worst, tolerance=tolerance)


def _scorer(bundle: Bundle, plan: LoadPlan) -> tuple[Precision, ScorerFile]:
    try:
        return choose_scorer(bundle.scorers, None if plan.precision == "auto" else plan.precision)
    except ValueError as error:
        raise BundleRefused(f"{bundle.id}: {error}") from error


def _families(bundle: Bundle, plan: LoadPlan) -> tuple[str, tuple[str, ...]]:
    names = bundle.families.names
    unknown = [name for name in (*([plan.family] if plan.family else []), *plan.shadow_families) if name not in names]
    if unknown:
        raise BundleRefused(f"{bundle.id} has no family {', '.join(unknown)}; it has {', '.join(names)}")
    family = plan.family or bundle.default_family
    return family, tuple(name for name in (plan.shadow_families or names) if name != family)


def _check_outputs(bundle: Bundle, session: Engine) -> None:
    candidate, prompt = bundle.families.outputs_to_keep()
    needed = {*candidate, *prompt, *(f"{name}_rewards" for name in bundle.families.names)}
    missing = sorted(needed - set(session.outputs))
    if missing:
        raise BundleRefused(f"{bundle.id}: the scorer does not give {', '.join(missing)}, which its families read")
