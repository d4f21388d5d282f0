"""`attune measure families`: heads that are trained already, on people whom they never met; nothing of them is trained here.

    folder of families ─> trunk, heads, trust ─┐
    table ─> people who are in people.json are left out ─> context and targets ─> the curves of `train families`, verdict, report

What has no state of a person needs none: length, style and ridge are fitted on the other people of the table and predict the rest, so
that they know these texts better than the heads do. A verdict against the heads is then the surer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attune.models.data.adapters import read_comparisons
from attune.models.data.embedding_workers import quick
from attune.models.data.embeddings import Vectors, embed_texts
from attune.models.data.preferences import ComparisonInvalid, Comparisons
from attune.models.data.splits import SplitInvalid, draw, split
from attune.models.data.table_shapes import Reading
from attune.models.data.trunk_file import load_trunk_of
from attune.models.measuring.families.fewshot import cut
from attune.models.measuring.families.learners import served_learners
from attune.models.measuring.families.line_up import BASELINE
from attune.models.measuring.families.own_report import render_more
from attune.models.measuring.families.strangers import (
    LEAST_MEASURED,
    LEAST_TARGETS,
    counts_told,
    curves_of,
    measured_on,
    most_told,
    observe_strangers,
)
from attune.models.measuring.report_files import write_report
from attune.models.seam.counts import counted
from attune.models.seam.trust import NEVER
from attune.models.training.heads import TrainedFamily, load_heads
from attune.models.training.learner import Learner, Predicted
from attune.models.training.loop import TrainingData
from attune.models.training.met import are_met, read_met
from attune.models.training.simple_heads import SIMPLE

EVERYBODY = "everybody"
"""What the default family says of somebody unknown, where the folder has no family that is the same for all."""

TARGETS = 20
FOLDS = 3
"""Of people, for the simple heads: two predict the third."""


@dataclass(frozen=True, slots=True)
class MorePeople:
    """How to measure: where the trunk is if it has moved, a seed, `question` for other questions than were told, processes that embed."""

    trunk: str | None = None
    seed: int = 0
    apart: str = ""
    processes: int = 1


def measure_more(
    folder: Path, table: str, reading: Reading, out: Path, settings: MorePeople, *, cache: Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Returns how well the families of `folder` predict people of a table, and writes report.md and results.json into `out`.

    People whom training met are left out; where too few others are left, everybody is measured and the verdict says so first.

    Raises:
        HeadsInvalid, FileNotFoundError, TrunkUnavailable: the folder holds no usable families, or its trunk is not there.
        ComparisonInvalid: the table cannot be used, or too few people told enough to be predicted; nothing is written.
    """
    trained, default = load_heads(folder)
    known = read_met(folder)
    comparisons = read_comparisons(table, reading)
    measured, met, left_out = _strangers(comparisons, known)
    context, targets = cut(
        measured, context=most_told(measured), targets=TARGETS, seed=settings.seed, texts_apart=settings.apart == "question"
    )
    if not counts_told(context, targets):
        raise ComparisonInvalid(
            f"{table}: fewer than {LEAST_MEASURED} people have {LEAST_TARGETS} choices that can be predicted; "
            "no interval can be given for so few"
        )
    trunk = load_trunk_of(folder, settings.trunk)
    with quick(trunk, settings.processes) as embedder:
        vectors = embed_texts(comparisons.texts, embedder, cache)
    served = served_learners(trained, vectors)
    baseline, added = _baseline(trained, served, default)
    simple, why_not = _simple(measured, vectors, settings.seed, tell)
    tell(f"predicting {counted(len(targets), 'choice')} of {counted(len(np.unique(targets.user)), 'person', 'people')}")
    observed = observe_strangers([*served, *added, *simple], context, targets)
    curves = curves_of([observed], baseline)
    results = {
        **measured_on(comparisons, trunk, settings.seed),
        "met": met,
        "left_out": left_out,
        "families": {one.family.name: {"trust": "never" if one.trust == NEVER else one.trust} for one in trained},
        "default": default,
        "baseline": baseline,
        "verdict": _verdict(trained, default, baseline, curves, flattered=met > left_out),
        "curves": curves,
        "not_measured": why_not,
    }
    write_report(out, results, render_more(results))
    return results


class _Unknown:
    """A family as it predicts somebody who told nothing."""

    def __init__(self, family: Learner) -> None:
        self.name = EVERYBODY
        self._family = family

    def predict(self, context: Comparisons, targets: Comparisons) -> Predicted:
        return self._family.predict(context.take(np.zeros(0, dtype=np.int64)), targets)


@dataclass(frozen=True, slots=True)
class _OfOthers:
    """A head for everybody, fitted without the person whom it predicts: `fitted` by the fold of each person `[U]`."""

    name: str
    fitted: Sequence[Learner]
    fold: Mapping[int, int]

    def predict(self, context: Comparisons, targets: Comparisons) -> Predicted:
        return self.fitted[self.fold[int(targets.user[0])]].predict(context, targets)


def _strangers(comparisons: Comparisons, met: frozenset[str]) -> tuple[Comparisons, int, int]:
    """Returns the comparisons that are measured, how many people training met, and how many of them were left out."""
    people = comparisons.take(~comparisons.anonymous)
    known = are_met(comparisons.users, met)[people.user]
    count, others = len(np.unique(people.user[known])), people.take(~known)
    enough = [mine for mine in others.rows_of_users().values() if np.sum(~others.tie[mine]) >= LEAST_TARGETS]
    if count and len(enough) < LEAST_MEASURED:
        return people, count, 0
    return others, count, count


def _baseline(trained: Sequence[TrainedFamily], served: Sequence[Learner], default: str) -> tuple[str, list[Learner]]:
    """Returns the name of the learner that gains are counted from, and that learner where it is none of the families."""
    alike = [one.family.name for one in trained if not one.family.evidence_size]
    if alike:
        return (BASELINE if BASELINE in alike else alike[0]), []
    return EVERYBODY, [_Unknown(next(one for one in served if one.name == default))]


def _simple(comparisons: Comparisons, vectors: Vectors, seed: int, tell: Callable[[str], None]) -> tuple[list[Learner], str]:
    """Returns length, style and ridge, each fitted on other people than it predicts; none, and why, where people are too few."""
    try:
        parts = draw(np.unique(comparisons.user), (1 / 3, 1 / 3, 1 / 3), seed=seed, what="user")
        data = []
        for part in parts:
            others = split(comparisons.take(~np.isin(comparisons.user, part)), "user", (0.8, 0.2, 0.0), seed=seed)
            data.append(TrainingData(others.train, others.validation, vectors))
    except SplitInvalid as error:
        return [], f"length, style and ridge are not beside them, since people are too few: {error}"
    tell("fitting length, style and ridge on other people than they predict")
    fold = {int(user): number for number, part in enumerate(parts) for user in part}
    return [_OfOthers(name, [train(one) for one in data], fold) for name, train in SIMPLE.items()], ""


def _verdict(
    trained: Sequence[TrainedFamily], default: str, baseline: str, curves: Mapping[str, Any], *, flattered: bool
) -> dict[str, str]:
    """Returns which family should serve these people, and why: by the gain in accuracy after the most comparisons, and its interval."""
    told, learners = curves["counts"][-1], curves["learners"]
    names = [one.family.name for one in trained if one.family.evidence_size and one.trust != NEVER]
    gains = {name: learners[name]["gain"][-1] for name in names}
    surely = [name for name in names if gains[name]["low"] > 0]
    best = max(names, key=lambda name: float(gains[name]["mean"]), default="")
    kept = default if default in surely else max(surely, key=lambda name: float(gains[name]["low"]), default="")
    if kept:
        why, serve = f"Serve `{kept}`: after {told} comparisons people gain {_points(gains[kept])} over `{baseline}`.", kept
    elif best:
        serve = baseline if baseline != EVERYBODY else default
        why = f"Do not personalise: no gain over `{baseline}` was found; `{best}` has {_points(gains[best])} after {told} comparisons."
    else:
        serve, why = default, f"No family here personalises: everybody is served by `{default}` alike."
    if flattered:
        why = "These people were in training, so the figures are better than for new people: do not compare them with others. " + why
    simple = {name: learners[name]["nll"][0]["mean"] for name in SIMPLE if name in learners}
    lead = min(simple, key=lambda name: simple[name], default="")
    first = learners[serve]["nll"][0]["mean"]
    compared = f"before the first comparison `{serve}` {first:.3f}"
    if lead:
        compared += f", {lead} alone {simple[lead]:.3f}"
        if simple[lead] < first:
            why += f" Nobody's comparisons known, {lead} alone predicts these people better."
    return {"serve": serve, "personalise": "yes" if kept else "no", "why": why, "baselines": f"{compared} (log-loss)"}


def _points(gain: Mapping[str, float]) -> str:
    return f"{100 * gain['mean']:+z.1f} [{100 * gain['low']:+z.1f}, {100 * gain['high']:+z.1f}] points of accuracy"
