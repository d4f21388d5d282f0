"""The scorer of a bundle: engine, budget, batcher and probes in this process, or a view of those that another process has.

engine ─> outputs checked ─> calibrated, warm ─> batcher started ─> probes through it ─> OpenedScorer
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.bundle import Bundle
from attune.models.seam.families import Row
from attune.models.seam.padding import TokenRow
from attune.models.seam.precision import Precision, ScorerFile, choose_scorer, probe_difference
from attune.models.seam.text import TextEncoder
from attune.service.batching.batcher import Batcher
from attune.service.batching.calibrate import MeasuredBudget, calibrate
from attune.service.batching.engines import Engine, open_engine
from attune.service.batching.frames import RowLayout
from attune.service.batching.remote import TextScorer
from attune.service.batching.session import GpuRequired, Scored, Scorer, ScorerRefused
from attune.service.errors import AttuneError, BundleRefused
from attune.service.live.metric_adapters import watch_batch
from attune.service.observe.logs import get_logger
from attune.service.observe.metrics import Metrics

_log = get_logger(__name__)
PROBE_S = 30.0


class RefusedForSetting(BundleRefused):
    """A bundle that does not fit another setting than the one that names it.

    Args:
        detail: why.
        setting: the field of the settings that would have to change, or the bundle.
    """

    def __init__(self, detail: str, setting: str) -> None:
        super().__init__(detail)
        self.setting = setting


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
    local_max_waiting: int
    routing_price_share: float


@dataclass(frozen=True, slots=True)
class OpenedScorer:
    """What serves rows for one bundle.

    Attributes:
        batcher: running.
        provider: what runs the graph.
        budget_tokens: padded tokens of a batch.
    """

    batcher: TextScorer
    provider: str
    budget_tokens: int


ScorerOpener = Callable[[Bundle, TextEncoder, LoadPlan, Metrics], Awaitable[OpenedScorer]]


@dataclass(frozen=True, slots=True)
class SharedScorer:
    """What the scorer's process serves others from: each text's outputs as one row, float32 `[layout.width]`."""

    batcher: Batcher[NDArray[np.float32]]
    provider: str
    budget_tokens: int
    layout: RowLayout


class TableScorer:
    """An engine whose answer to a text is one row of numbers: nobody here reads them by name, and sending them costs a copy.

    Args:
        engine: which it runs.
        sample: a text that is run once, to see the shapes of its outputs.

    Attributes:
        layout: of the rows.
    """

    def __init__(self, engine: Engine, sample: TokenRow) -> None:
        self._engine = engine
        self.layout = RowLayout.of(engine.run([sample])[0])

    def run(self, items: Sequence[TokenRow]) -> list[NDArray[np.float32]]:
        """Returns one row per item, `[width]` each; raises as the engine's `run`."""
        return list(self.layout.table(self._engine.outputs, self._engine.run_arrays(items)))


async def open_own_scorer(bundle: Bundle, encoder: TextEncoder, plan: LoadPlan, metrics: Metrics) -> OpenedScorer:
    """Returns the bundle's scorer for this process alone, warm and with its probes passed.

    Raises:
        BundleRefused: a step refused; the detail has both values.
    """
    engine, measured, tolerance = await _open_engine(bundle, plan)
    batcher = _start_batcher(engine, engine.beside, engine.at_once, measured, bundle, encoder, plan, metrics)
    try:
        await replay_probes(bundle, encoder, batcher, engine.beside, tolerance, lambda rows: rows)
    except BaseException:
        await batcher.aclose()
        raise
    return OpenedScorer(batcher, engine.provider, measured.budget_tokens)


async def open_shared_scorer(bundle: Bundle, encoder: TextEncoder, plan: LoadPlan, metrics: Metrics) -> SharedScorer:
    """Returns the bundle's scorer for other processes, warm and with its probes passed.

    Raises:
        BundleRefused: a step refused; the detail has both values.
    """
    engine, measured, tolerance = await _open_engine(bundle, plan)
    scorer = TableScorer(engine, encoder.prompt("canary"))
    beside = None if engine.beside is None else TableScorer(engine.beside, encoder.prompt("canary"))
    batcher = _start_batcher(scorer, beside, engine.at_once, measured, bundle, encoder, plan, metrics)
    try:
        await replay_probes(bundle, encoder, batcher, beside, tolerance, lambda rows: scorer.layout.rows(np.stack(rows)))
    except BaseException:
        await batcher.aclose()
        raise
    return SharedScorer(batcher, engine.provider, measured.budget_tokens, scorer.layout)


async def _open_engine(bundle: Bundle, plan: LoadPlan) -> tuple[Engine, MeasuredBudget, float]:
    """Returns the engine, calibrated, which also warms every shape, and the tolerance of its precision."""
    precision, scorer = _scorer(bundle, plan)
    try:
        engine = await asyncio.to_thread(
            open_engine, bundle.path / scorer.file, precision, threads=plan.threads or None, require_gpu=plan.require_gpu
        )
        _check_outputs(bundle, engine)
        measured = await asyncio.to_thread(
            lambda: calibrate(engine, max_text_tokens=bundle.template.max_tokens, fixed_budget_tokens=plan.batch_budget_tokens or None)
        )
    except (ScorerRefused, OSError) as error:
        by = "require_gpu" if isinstance(error, GpuRequired) else "precision" if plan.precision != "auto" else "bundle"
        raise RefusedForSetting(str(error), by) from error
    _log.info("scorer calibrated", provider=engine.provider, precision=precision, **measured.told())
    return engine, measured, scorer.tolerance


def _start_batcher(
    scorer: Scorer[Scored],
    beside: Scorer[Scored] | None,
    at_once: int,
    measured: MeasuredBudget,
    bundle: Bundle,
    encoder: TextEncoder,
    plan: LoadPlan,
    metrics: Metrics,
) -> Batcher[Scored]:
    longest = bundle.template.max_tokens
    batcher = Batcher(
        scorer,
        at_once=at_once,
        beside=beside,
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
    return batcher


async def replay_probes(
    bundle: Bundle,
    encoder: TextEncoder,
    batcher: Batcher[Scored],
    beside: Scorer[Scored] | None,
    tolerance: float,
    read: Callable[[Sequence[Scored]], Sequence[Row]],
) -> None:
    """Returns once all probes were answered as the training framework did, within `tolerance` (see `probe_difference`).

    Probes are asked one by one, so the batcher answers from all cores; what it runs batches beside others with is asked by itself.

    Raises:
        BundleRefused: one was not; the detail has the probe, the output, the difference and the tolerance.
    """
    probes = bundle.probes
    texts = [
        encoder.candidates(prompt, [response])[0] if response else encoder.prompt(prompt)
        for prompt, response in zip(probes.prompts, probes.responses, strict=True)
    ]
    try:
        # One by one: a small queue has room for that.
        answered = [read([(await batcher.submit([text], PROBE_S)).rows[0] for text in texts])]
    except AttuneError as error:
        raise BundleRefused(f"{bundle.id}: the probes could not be run: {error.detail}") from error
    if beside is not None:
        try:
            answered.append(read(await asyncio.to_thread(beside.run, texts)))
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise BundleRefused(f"{bundle.id}: the probes could not be run beside each other: {error}") from error
    worst = max(_worst_probe(bundle, rows, tolerance) for rows in answered)
    _log.info("probes passed", probes=len(texts), worst_difference=worst, tolerance=tolerance)


def _worst_probe(bundle: Bundle, rows: Sequence[Row], tolerance: float) -> float:
    """Returns by how much an answer to a probe differs at most; raises BundleRefused where that is more than the tolerance."""
    worst = 0.0
    for name, answers in bundle.probes.answers.items():
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
    return worst


def _scorer(bundle: Bundle, plan: LoadPlan) -> tuple[Precision, ScorerFile]:
    try:
        return choose_scorer(bundle.scorers, None if plan.precision == "auto" else plan.precision)
    except ValueError as error:
        raise RefusedForSetting(f"{bundle.id}: {error}", "bundle" if plan.precision == "auto" else "precision") from error


def _check_outputs(bundle: Bundle, session: Engine) -> None:
    candidate, prompt = bundle.families.outputs_to_keep()
    needed = {*candidate, *prompt, *(f"{name}_rewards" for name in bundle.families.names)}
    missing = sorted(needed - set(session.outputs))
    if missing:
        raise BundleRefused(f"{bundle.id}: the scorer does not give {', '.join(missing)}, which its families read")
