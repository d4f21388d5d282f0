"""`attune measure learners`: every family and baseline on the choices of real people, as report.md, results.json and plots.

    comparisons ─> hold_out by seed ─> train_line_up ─> observe unseen and seen users ─> summary ─> report, plots

Each run has its own text vectors (with the length, without it, the length alone) or its own features; within a run all
learners share splits, vectors, features, contexts and targets. Nothing is chosen here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attune.command_line import finite
from attune.models.data.embeddings import Embedder, Vectors, embed_texts
from attune.models.data.preferences import ComparisonInvalid, Comparisons
from attune.models.measuring.families.curves import (
    By,
    Observed,
    accuracy_by_quartile,
    effective_heads,
    observe,
    over_users,
    paired_gain,
    reliability,
    told_enough,
)
from attune.models.measuring.families.fewshot import COUNTS
from attune.models.measuring.families.held_out import HeldOut, hold_out
from attune.models.measuring.families.line_up import BASELINE, train_line_up
from attune.models.measuring.families.plots import draw_plots
from attune.models.measuring.families.render import render_families
from attune.models.measuring.figures import ACCURACY, LOG_LOSS
from attune.models.measuring.report_files import made_by, write_text
from attune.models.training.loop import TrainingData
from attune.models.training.trainers import LineUp

Length = Literal["with", "without", "only"]
UNCERTAINTIES: tuple[By, ...] = ("probability", "doubt", "spread")
AT_CALIBRATION = 5
"""Comparisons at which calibration and uncertainty are reported."""

LEAST_TARGETS = {"unseen": 5, "seen": 3}
"""Predicted comparisons below which somebody is not measured: of regulars fewer, for few prompts are held out, and intervals are
over users anyway."""


@dataclass(frozen=True, slots=True)
class Run:
    """One way to look at a set.

    Attributes:
        name: in the report.
        line_up: what is trained.
        learners: which of it; all if empty.
        length: whether the texts' vectors hold the length, or nothing else.
        texts_apart: no text of an unseen user's context is in their targets.
        seeds: of splits and trainings.
    """

    name: str
    line_up: LineUp
    learners: tuple[str, ...] = ()
    length: Length = "with"
    texts_apart: bool = False
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: most users of each kind and seed, most targets a user, most training comparisons a user."""

    users: int = 400
    targets: int = 20
    per_user: int | None = None
    counts: tuple[int, ...] = COUNTS


def evaluate_families(
    name: str, comparisons: Comparisons, runs: Sequence[Run], out: Path, *, trunk: Embedder, cache: Path | None, sizes: Sizes
) -> dict[str, Any]:
    """Writes `report.md`, `results.json` and plots into `out` and returns the results.

    Args:
        name: of the set.
        comparisons: of users with ids.
        runs: what to compare, one or more; the first is the main one.
        out: made if absent.
        trunk: embeds the texts.
        cache: folder of the embedding cache.
        sizes: how much is measured.

    Raises:
        ComparisonInvalid: all comparisons are ties, or a run has nobody who told enough to be measured; nothing was embedded.
        SplitInvalid: there are too few users with a name.
    """
    comparisons.expect_decided()
    _expect_measurable(comparisons, runs, sizes)
    vectors = embed_texts(comparisons.texts, trunk, cache)
    results: dict[str, Any] = {
        "data": {
            "name": name,
            "comparisons": len(comparisons),
            "users": len(np.unique(comparisons.user[~comparisons.anonymous])),
            "without_user": int(comparisons.anonymous.sum()),
            "texts": len(comparisons.texts.candidates),
            "prompts": len(comparisons.texts.prompts),
            "sha256": comparisons.sha256(),
            "trunk_sha256": trunk.sha256,
        },
        "attune": made_by(),
        "counts": list(sizes.counts),
        "baseline": BASELINE,
        "sizes": asdict(sizes),
        "runs": [],
    }
    out.mkdir(parents=True, exist_ok=True)
    shown = results
    for run in runs:
        results["runs"].append(_measure(run, comparisons, masked(vectors, run.length), sizes))
        # After every run: an evaluation that is broken off has lost what it was at and nothing else.
        written = json.dumps(finite(results), indent=1, allow_nan=False) + "\n"
        write_text(out / "results.json", written)
        # What is drawn and returned is what was written: a report can be made again from its file.
        shown = dict(json.loads(written))
        write_text(out / "report.md", render_families(shown, draw_plots(shown, out)))
    return shown


def masked(vectors: Vectors, length: Length) -> Vectors:
    """Returns the vectors with the length, without it, or with nothing else; what is left out is zero everywhere."""
    if length == "with":
        return vectors
    keep = np.zeros(vectors.candidates.shape[1], dtype=np.float32)
    keep[-1] = 1.0
    mask = keep if length == "only" else 1.0 - keep
    return replace(vectors, candidates=vectors.candidates * mask, prompts=vectors.prompts * mask)


def _measure(run: Run, comparisons: Comparisons, vectors: Vectors, sizes: Sizes) -> dict[str, Any]:
    observed: dict[str, list[Observed]] = {"unseen": [], "seen": []}
    took: dict[str, list[float]] = {}
    parts: HeldOut | None = None
    for seed in run.seeds:
        sys.stderr.write(f"{run.name}, seed {seed}\n")
        parts = _hold_out(comparisons, seed, sizes, texts_apart=run.texts_apart)
        data = TrainingData(parts.train, parts.validation, vectors)
        everybody = replace(data, train=parts.train.join(comparisons.take(comparisons.anonymous)))
        learners, seconds = train_line_up(run.line_up, data, seed, run.learners, everybody=everybody)
        for name, value in seconds.items():
            took.setdefault(name, []).append(value)
        for kind, (context, targets) in _measured(parts, texts_apart=run.texts_apart).items():
            least = LEAST_TARGETS[kind]
            observed[kind].append(observe(learners, context, targets, counts=sizes.counts, least_targets=least, most_users=sizes.users))
    assert parts is not None, "a run has a seed"
    summaries = {kind: summary(parts_of) for kind, parts_of in observed.items() if parts_of}
    return {
        "name": run.name,
        "seeds": list(run.seeds),
        "length": run.length,
        "texts_apart": run.texts_apart,
        "held_by": parts.held_by,
        "train_comparisons": len(parts.train),
        "settings": asdict(run.line_up),
        "seconds": took,
        "on": summaries,
    }


def _expect_measurable(comparisons: Comparisons, runs: Sequence[Run], sizes: Sizes) -> None:
    """Returns if every run and seed has somebody to measure, which the table alone tells.

    Raises:
        ComparisonInvalid: one has nobody; the message says how many people and comparisons are needed, and how many there are.
        SplitInvalid: there are too few users with a name.
    """
    for seed, texts_apart in sorted({(seed, run.texts_apart) for run in runs for seed in run.seeds}):
        parts = _hold_out(comparisons, seed, sizes, texts_apart=texts_apart)
        for kind, (context, targets) in _measured(parts, texts_apart=texts_apart).items():
            told, least = max(sizes.counts), LEAST_TARGETS[kind]
            if told_enough(context, targets, told, least):
                continue
            named = comparisons.take(~comparisons.anonymous)
            made = [int((~named.tie[rows]).sum()) for rows in named.rows_of_users().values()]
            having = sum(one >= told + least for one in made)
            apart = "is kept out of training" if kind == "unseen" else f"is trained on, with {least} of them held back"
            raise ComparisonInvalid(
                f"too few comparisons a person: a person with {told + least} or more that are no ties is needed ({told} to learn from, "
                f"{least} to predict) who {apart}, and the draw of seed {seed} has none; of {len(made):,} people {having:,} made so "
                f"many, and the most that anybody made is {max(made):,}. Add comparisons of the same people, or more people like these"
            )


def _measured(parts: HeldOut, *, texts_apart: bool) -> dict[str, tuple[Comparisons, Comparisons]]:
    """Returns context and targets of each kind of users that is measured."""
    return {"unseen": parts.unseen} | ({} if texts_apart else {"seen": parts.seen})


def _hold_out(comparisons: Comparisons, seed: int, sizes: Sizes, *, texts_apart: bool) -> HeldOut:
    """Returns the parts of what people with a name said."""
    return hold_out(
        comparisons.take(~comparisons.anonymous),
        seed=seed,
        context=max(sizes.counts),
        targets=sizes.targets,
        per_user=sizes.per_user,
        texts_apart=texts_apart,
    )


def summary(parts: Sequence[Observed]) -> dict[str, Any]:
    """Returns what is reported of one kind of users, JSON data: a curve for every learner, and calibration at five comparisons."""
    counts = parts[0].counts
    at = counts.index(AT_CALIBRATION) if AT_CALIBRATION in counts else len(counts) - 1
    learners = {}
    for name in parts[0].said:
        curve = []
        for index, count in enumerate(counts):
            found = [part.per_user(name, index) for part in parts]
            curve.append(
                {
                    "comparisons": count,
                    "accuracy": over_users(parts, [right for right, _ in found], ACCURACY).to_json(),
                    "nll": over_users(parts, [loss for _, loss in found], LOG_LOSS).to_json(),
                    "ece": reliability(parts, name, index).ece,
                    "gain": paired_gain(parts, name, BASELINE, index).to_json(),
                }
            )
        quartiles = {by: accuracy_by_quartile(parts, name, at, by=by) for by in UNCERTAINTIES}
        learners[name] = {
            "curve": curve,
            "reliability": asdict(reliability(parts, name, at)),
            "quartiles": {by: None if found is None else [one.to_json() for one in found] for by, found in quartiles.items()},
            "effective_heads": effective_heads(parts, name, len(counts) - 1),
        }
    users = {user for part in parts for user in part.users}
    return {"users": len(users), "skipped": sum(part.skipped for part in parts), "calibrated_at": counts[at], "learners": learners}
