"""`attune train families`: from a table of comparisons to a folder of families, and an honest word on whether to personalise.

    table ─> vectors (kept by content) ─┬─ folds by people: train, validation, strangers ─> curves of strangers ─┐
                                        └─ all but validation people ─> families ─> folder                       └─> verdict, report

Which family serves is chosen by validation people alone; strangers are only reported on. The simple heads (length, style, ridge) stand
beside every family. A family that does not beat the best of them for people of whom nothing is known is not served, unless what they gain
as they are known makes up for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attune.models.data.embedding_workers import quick
from attune.models.data.embeddings import Vectors, embed_texts
from attune.models.data.preferences import Comparisons
from attune.models.data.probes import draw_probes, write_probes
from attune.models.data.progress import duration
from attune.models.data.splits import SplitInvalid
from attune.models.data.trunk import Trunk
from attune.models.data.trunk_file import write_trunk_file
from attune.models.measuring.families.curves import Observed
from attune.models.measuring.families.held_out import all_but_validation, hold_out
from attune.models.measuring.families.kept import FOLDER, LAST, Kept, training_key
from attune.models.measuring.families.learners import served_learners
from attune.models.measuring.families.line_up import BASELINE
from attune.models.measuring.families.own_report import render_own
from attune.models.measuring.families.own_verdict import own_verdict
from attune.models.measuring.families.strangers import (
    LEAST_MEASURED,
    counts_told,
    curves_of,
    measured_on,
    most_told,
    observe_strangers,
)
from attune.models.measuring.report_files import made_by, write_report
from attune.models.seam.counts import counted
from attune.models.seam.registry import KINDS, expect_trainable
from attune.models.seam.trust import NEVER
from attune.models.training.additive import told_apart_by
from attune.models.training.beside import PROVENANCE, Beside
from attune.models.training.cards import write_cards
from attune.models.training.family_folder import expect_writable, family_folder
from attune.models.training.features import Subspace
from attune.models.training.heads import TrainedFamily, save_heads
from attune.models.training.last_head import with_last_head
from attune.models.training.loop import TrainingData
from attune.models.training.met import people_of, write_met
from attune.models.training.prior_trust import LEAST_PEOPLE, told_twice, with_trust
from attune.models.training.simple_heads import SIMPLE
from attune.models.training.sureness import with_sureness
from attune.models.training.trainers import LineUp, trainers
from attune.models.training.yardstick import Yardstick, below, made_up, with_standing

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class OwnData:
    """What to train and how to measure it.

    Attributes:
        names: families, those of the registry that are trained unasked if empty; `BASELINE` is always among them.
        personalise: also where too few people were seen, because somebody asked for it.
        apart: `question` keeps the questions of a person's context out of what is predicted.
        folds: how often people are cut anew; 0 decides by how many there are.
        axes: of tastes, `D`; fewer where there are few comparisons.
        most_axes: of `additive`, where validation people lose less with so many; fewer as for `axes`.
        steps: at most, of families that learn by gradients.
        processes: that embed texts, where there is no CUDA.
    """

    names: Sequence[str] = ()
    personalise: bool = False
    apart: str = ""
    folds: int = 0
    axes: int = 16
    most_axes: int = 32
    steps: int = 600
    processes: int = 1
    seed: int = 0


def train_own(
    comparisons: Comparisons,
    trunk: Trunk,
    out: Path,
    settings: OwnData,
    *,
    cache: Path | None,
    tell: Tell,
    beside: Beside | None = None,
) -> dict[str, Any]:
    """Trains families on `comparisons`, writes the folder `out`, and returns what was found.

    Families `beside` are imported ones on the same trunk: measured with the others, in the folder whatever they are worth, not trained.

    Written: `heads.json`, `heads.safetensors`, `trunk.json`, `probes.jsonl`, `cards.json`, `people.json`, `report.md`,
    `results.json`, all at the end and together. In `cache` are kept vectors by content, families as they are trained and folds as
    they are measured, so a run that was killed goes on where it was.

    Raises:
        ComparisonInvalid: there is nothing to learn: no rows, or ties alone.
        SplitInvalid: all comparisons are on one prompt and of one person.
        ValueError: a family of this name cannot be trained.
        OSError: `out` or `cache` cannot be written to; said before the work, or where a disk is full, with all kept that was finished.
    """
    comparisons.expect_decided()
    line_up = _line_up(len(comparisons), settings)
    expect_trainable(settings.names)
    for folder in filter(None, (out, cache)):
        expect_writable(folder)
    people = told_twice(comparisons)
    with quick(trunk, settings.processes) as embedder:
        vectors = embed_texts(comparisons.texts, embedder, cache)
    imported = beside.families if beside else ()
    kept = _kept_of(comparisons, trunk, line_up, settings, beside, cache)
    measured, why_not = _measure(comparisons, vectors, line_up, settings, imported, _Part(kept, "", tell))
    tell("training the families that are kept, on everybody but validation people")
    data = TrainingData(*all_but_validation(comparisons, seed=settings.seed), vectors)
    asked = Yardstick.of(data)
    trained_last = _trained(line_up, data, settings, people, _Part(kept, LAST, tell))
    standing = [with_standing(one, data, asked) for one in (*trained_last, *(with_trust(one, data) for one in imported))]
    # Everybody's head is kept whatever it is worth, for what is found of it is told; `bundle build` refuses it then.
    stays = {BASELINE, *(one.family.name for one in imported)}
    worse = {one.family.name: below(one) for one in standing if one.family.name not in stays and below(one)}
    left_out = {} if settings.personalise else worse
    trained = [one for one in standing if one.family.name not in left_out]
    default, verdict = own_verdict(trained, people, measured, personalise=settings.personalise, some_left_out=bool(left_out))
    # Nothing that follows asks validation people again.
    served = [with_last_head(one, data) for one in trained]
    for sentence in [*left_out.values(), *filter(None, map(below, trained))]:
        tell(f"below a simple head: {sentence}")
    at_first = [*filter(None, map(made_up, trained))]
    for sentence in at_first:
        tell(f"below a simple head at first: {sentence}")
    results = {
        **measured_on(comparisons, trunk, settings.seed),
        "families": {one.family.name: one.summary.get("trust", {}) | _validation_loss(one) for one in trained},
        "default": default,
        "verdict": verdict,
        "at_first": {one.family.name: one.summary.get("at_first", {}) for one in standing},
        "fitted_again": [one.family.name for one in served if one.summary.get("fitted_again")],
        "told_apart_by": {one.family.name: words for one in trained if one.trust != NEVER and (words := told_apart_by(one))},
        "left_out": [*left_out.values()],
        "made_up": at_first,
        "curves": measured,
        "not_measured": why_not,
    }
    with family_folder(out) as staging:
        save_heads(staging, served, default)
        write_trunk_file(staging, trunk, home=out)
        write_probes(staging, draw_probes(comparisons.texts, settings.seed))
        write_met(staging, people_of(comparisons))
        write_cards(staging, served, comparisons.texts, vectors.candidates)
        write_report(staging, results, render_own(results))
        if beside and beside.provenance:
            (staging / PROVENANCE).write_bytes(beside.provenance)
    return results


def _kept_of(comparisons: Comparisons, trunk: Trunk, line_up: LineUp, settings: OwnData, beside: Beside | None, cache: Path | None) -> Kept:
    """Returns where work on these comparisons is kept: of whatever could change what is trained, no part may differ."""
    how = {"settings": asdict(replace(settings, processes=1)), "line_up": asdict(line_up), "by": made_by()}
    how |= {"beside": beside.sha256} if beside else {}
    named = training_key(comparisons=comparisons.sha256(), trunk=trunk.sha256, template=trunk.template.to_json(), **how)
    return Kept(None if cache is None else cache / FOLDER, named)


@dataclass(frozen=True, slots=True)
class _Part:
    """One training of all families: a fold, or the one whose families are kept."""

    kept: Kept
    name: str
    tell: Tell


def _line_up(comparisons: int, settings: OwnData) -> LineUp:
    """Returns the sizes, with fewer axes of taste where little was told: a tenth of a thousand comparisons supports one more."""
    axes, most = (max(2, min(one, comparisons // 100)) for one in (settings.axes, settings.most_axes))
    return LineUp(Subspace(axes, everybody=True), axes=axes, most_axes=most, heads=min(8, max(2, axes)), steps=settings.steps)


def _trained(line_up: LineUp, data: TrainingData, settings: OwnData, people: int, part: _Part) -> list[TrainedFamily]:
    personal = people >= LEAST_PEOPLE or settings.personalise
    wanted = settings.names or [name for name, kind in KINDS.items() if kind.by_default]
    names = [name for name in trainers() if name == BASELINE or (name in wanted and personal)]

    def train(name: str) -> TrainedFamily:
        part.tell(f"  family {name}, {names.index(name) + 1} of {len(names)}")
        anew.add(name)
        one = trainers()[name](data, line_up, settings.seed)
        return one if name == BASELINE else with_trust(with_sureness(one, data), data)

    anew: set[str] = set()
    found = [part.kept.family(part.name, name, partial(train, name)) for name in names]
    before = [name for name in names if name not in anew]
    if before:
        part.tell(f"  trained before, and taken as they are: {', '.join(before)}")
    return [replace(one, trust=0.0) if settings.personalise and one.trust == NEVER else one for one in found]


def _measure(
    comparisons: Comparisons,
    vectors: Vectors,
    line_up: LineUp,
    settings: OwnData,
    imported: Sequence[TrainedFamily],
    part: _Part,
) -> tuple[dict[str, Any], str]:
    """Returns the curves of strangers, or nothing and the reason."""
    people = len(np.unique(comparisons.user[~comparisons.anonymous]))
    folds = settings.folds or (5 if people < 100 else 3 if people < 400 else 1)
    # Below so many people only everybody's head is trained, whose curve is flat: not worth a training for each cut.
    together = folds if settings.personalise or told_twice(comparisons) >= LEAST_PEOPLE else 1
    too_few = f"fewer than {LEAST_MEASURED} people who were kept apart told enough to be predicted"
    context = most_told(comparisons)
    parts: list[Observed] = []
    taken_s: list[float] = []
    for fold in range(folds):
        found = part.kept.fold(str(fold))
        if found is not None:
            part.tell(f"fold {fold + 1} of {folds} was measured before")
            parts.append(found)
            continue
        try:
            held = hold_out(comparisons, seed=settings.seed + fold, context=context, texts_apart=settings.apart == "question")
        except SplitInvalid as error:
            return {}, f"there are too few people to keep some apart: {error}"
        if not counts_told(*held.unseen, together):
            return {}, too_few
        data = TrainingData(held.train, held.validation, vectors)
        part.tell(f"fold {fold + 1} of {folds}: training on {counted(len(held.train), 'comparison')}{_left(taken_s, folds - fold + 1)}")
        began = time.monotonic()
        trained = _trained(line_up, data, settings, told_twice(held.train), replace(part, name=str(fold)))
        trained += [with_trust(one, data) for one in imported]
        learners = [*served_learners([with_last_head(one, data) for one in trained], vectors), *(train(data) for train in SIMPLE.values())]
        parts.append(observe_strangers(learners, *held.unseen, together))
        part.kept.keep_fold(str(fold), parts[-1])
        taken_s.append(time.monotonic() - began)
    curves = curves_of(parts, BASELINE)
    return (curves, "") if curves["people"] >= LEAST_MEASURED else ({}, too_few)


def _left(taken_s: Sequence[float], trainings: int) -> str:
    """Returns how long so many trainings will take, the last one among them, where one was timed."""
    return f", about {duration(sum(taken_s) / len(taken_s) * trainings)} left in all" if taken_s else ""


def _validation_loss(trained: TrainedFamily) -> dict[str, Any]:
    """Returns what training found on validation people; nothing for a family that was not trained here."""
    return {name: trained.summary[name] for name in ("validation_nll",) if name in trained.summary}
