"""`python -m studies small-data`: families and simple heads on real sets of 500 to 2,000 comparisons; report.md and results.json.

    set ─> cut by people or prompts ─> today's heads, ridge and simple baselines, families ─> accuracy and log-loss of strangers

Layers 0, middle and last of the trunk are pooled; "last layer" learners see the last alone. Intervals are over people (or
prompts) of all seeds. Strengths, starts and trust are chosen on validation people; the test is looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import Vectors, embed_texts
from attune.models.data.preferences import Comparisons
from attune.models.data.trunk import load_trunk
from attune.models.measuring.families.learners import served_learners
from attune.models.measuring.figures import bootstrap
from attune.models.measuring.report_files import write_report
from attune.models.seam.additive import NAME as ADDITIVE
from attune.models.seam.bradley_terry import NAME as BRADLEY_TERRY
from attune.models.seam.micro import NAME as MICRO
from attune.models.training.additive import AdditiveSettings, train_additive, train_in_line_up
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Subspace
from attune.models.training.last_head import with_last_head
from attune.models.training.learner import Learner
from attune.models.training.loop import LoopSettings, TrainingData
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.prior_trust import with_trust
from attune.models.training.simple_heads import SIMPLE
from attune.models.training.sureness import with_sureness
from attune.models.training.trainers import LineUp
from studies.small_data.cutting import SETS, Cut, SmallSet, cut

Array = NDArray[np.float64]
Progress = Callable[[str], None]

TODAY = "bradley_terry, last layer"
"""The global head by gradient steps on the last layer: what differences are to."""

WITHOUT = "bradley_terry, without validation people"
"""Everybody's head before it is fitted again."""

LAYERS = (0, 3, 6)
COUNTS = (0, 5, 10)


@dataclass(frozen=True, slots=True)
class SmallDataSettings:
    """How much is measured: sizes in comparisons, seeds, most people (or prompts) tested for each, and whether heads alone are trained."""

    sizes: tuple[int, ...] = (500, 1000, 2000)
    seeds: tuple[int, ...] = (0, 1, 2)
    tested: int = 150
    steps: int = 400
    heads_alone: bool = False


def learners(data: TrainingData, settings: SmallDataSettings, seed: int) -> list[Learner]:
    """Returns everything that is compared, trained on one cut."""
    width = (data.vectors.candidates.shape[1] - 1) // len(LAYERS)
    last = replace(data, vectors=_last_layer(data.vectors, width))
    loop = LoopSettings(steps=settings.steps, patience=6)
    tastes = Subspace(16)
    start = Subspace(16, everybody=True)
    found: list[Learner] = [train(data) for train in SIMPLE.values()]
    found.append(Renamed(SIMPLE["ridge"](last), "ridge, last layer"))
    first = train_bradley_terry(data, BradleyTerrySettings(subspace=start), seed)
    trained = [
        (TODAY, last, train_bradley_terry(last, BradleyTerrySettings(subspace=tastes, loop=loop), seed)),
        (WITHOUT, data, first),
        (BRADLEY_TERRY, data, with_last_head(first, data)),
    ]
    if not settings.heads_alone:
        additive = with_trust(train_in_line_up(data, LineUp(start, axes=8, most_axes=16), seed), data)
        micro = with_sureness(train_micro(data, MicroSettings(heads=6, subspace=start, loop=loop), seed), data)
        trained += [
            ("additive, last layer", last, train_additive(last, AdditiveSettings(axes=8, subspace=tastes), seed)),
            (ADDITIVE, data, with_last_head(additive, data)),
            (MICRO, data, with_trust(micro, data)),
        ]
    return [*found, *(Renamed(served_learners([one], table.vectors)[0], name) for name, table, one in trained)]


def evaluate_small_data(
    folder: Path, out: Path, *, cache: Path | None, settings: SmallDataSettings | None = None, sets: Sequence[str] = (), progress: Progress
) -> Path:
    """Writes `report.md` and `results.json` into `out` and returns the report; sets that are not in `folder` are left out by name.

    Args:
        folder: with a folder for each set.
        out: made if absent.
        cache: of the embeddings.
        settings: how much to measure.
        sets: names; all if empty.
        progress: told what is done.
    """
    settings = settings or SmallDataSettings()
    results: dict[str, Any] = {"settings": asdict(settings), "layers": list(LAYERS), "sets": {}, "absent": []}
    trunk = load_trunk(layers=LAYERS)
    out.mkdir(parents=True, exist_ok=True)
    for name, small in SETS.items():
        if sets and name not in sets:
            continue
        if not (folder / small.folder).is_dir():
            results["absent"].append(name)
            continue
        whole = small.read(folder / small.folder)
        of_size = {}
        for size in settings.sizes:
            said: dict[str, dict[str, list[_Said]]] = {}
            for seed in settings.seeds:
                parts = cut(whole, small, size=size, seed=seed, most_tested=settings.tested)
                for learner, group, one in _one(parts, small, trunk, cache, settings, seed):
                    said.setdefault(learner, {}).setdefault(group, []).append(one)
                progress(f"{name}: {size} comparisons, seed {seed} done")
            # Who was tested under several seeds is one person.
            of_size[str(size)] = _summary({learner: [_mean(ones) for ones in groups.values()] for learner, groups in said.items()})
            results["sets"][name] = {"apart": small.apart, "sizes": of_size}
            write_report(out, results, render(results))
    return out / "report.md"


@dataclass(frozen=True, slots=True)
class _Said:
    """What one learner said of one person's (or prompt's) targets: accuracy and log-loss at each count.

    Attributes:
        told: comparisons of the person that were told at the last count; none where there are too few, and then all counts say the same.
    """

    accuracy: Array
    nll: Array
    told: int


def _one(
    parts: Cut, small: SmallSet, trunk: Any, cache: Path | None, settings: SmallDataSettings, seed: int
) -> Iterator[tuple[str, str, _Said]]:
    """Yields learner, person (or prompt) and what was said of them."""
    records = [*parts.train.records(), *parts.validation.records(), *parts.test.records()]
    every = Comparisons.from_records(records)  # the texts of this cut alone
    first, then = len(parts.train), len(parts.train) + len(parts.validation)
    rows = np.arange(len(every))
    vectors = embed_texts(every.texts, trunk, cache, progress=lambda _done, _all: None)
    data = TrainingData(every.take(rows < first), every.take((rows >= first) & (rows < then)), vectors)
    test = every.take(rows >= then)
    groups = test.user if small.apart == "people" else test.prompt
    counts = COUNTS if small.apart == "people" else COUNTS[:1]
    for learner in learners(data, settings, seed):
        for group in np.unique(groups).tolist():
            name = test.users[group] if small.apart == "people" else test.texts.prompts[group][0]
            yield learner.name, name, _said(learner, test.take(groups == group), counts)


def _mean(ones: Sequence[_Said]) -> _Said:
    accuracy, nll = (np.mean([getattr(one, name) for one in ones], axis=0) for name in ("accuracy", "nll"))
    return _Said(accuracy, nll, max(one.told for one in ones))


def _said(learner: Learner, mine: Comparisons, counts: Sequence[int]) -> _Said:
    """Returns what is said of the comparisons after the first `max(counts)`, after so many of them; of all where there are too few."""
    most = max(counts) if len(mine) >= max(counts) + 2 else 0
    targets, found = mine.take(np.arange(most, len(mine))), []
    for count in counts:
        told = mine.take(np.arange(min(count, most)))
        found.append(np.clip(learner.predict(told, targets).probabilities, 1e-9, 1.0))
    table = np.array(found)
    return _Said(((table > 0.5) + 0.5 * (table == 0.5)).mean(axis=1), -np.log(table).mean(axis=1), most)


def _summary(said: Mapping[str, Sequence[_Said]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    today = np.array([one.accuracy for one in said[TODAY]])
    for name, mine in said.items():
        accuracy, nll = np.array([one.accuracy for one in mine]), np.array([one.nll for one in mine])
        summary[name] = {
            "groups": len(mine),
            "told": sum(one.told > 0 for one in mine),
            "accuracy": [asdict(bootstrap(accuracy[:, at])) for at in range(accuracy.shape[1])],
            "gain": [asdict(bootstrap(accuracy[:, at] - today[:, 0])) for at in range(accuracy.shape[1])],
            "nll": [asdict(bootstrap(nll[:, at])) for at in range(accuracy.shape[1])],
        }
    return summary


def render(results: Mapping[str, Any]) -> str:
    """Returns the report for people."""
    lines = ["# Small data", ""]
    lines += [f"Layers {results['layers']} of the trunk; seeds {results['settings']['seeds']}; 95 % intervals over people or prompts."]
    lines += [f"Gains are in points of accuracy over `{TODAY}` before any comparison of the person.", ""]
    for name, found in results["sets"].items():
        for size, learners_of in found["sizes"].items():
            groups, told = (learners_of[TODAY][key] for key in ("groups", "told"))
            lines += [f"## {name}, {size} comparisons ({found['apart']} apart, {groups} tested)", ""]
            if found["apart"] == "people":
                lines += [
                    f"{told} of them have told {COUNTS[-1]} comparisons in the last columns, and the others none.",
                    "",
                ]
            lines += ["| learner | accuracy at 0 | gain | log-loss at 0 | gain after 5 | after 10 | log-loss after 10 |"]
            lines += ["|---|---|---|---|---|---|---|"]
            for learner, one in learners_of.items():
                cells = [f"{one['accuracy'][0]['mean']:.3f}", _points(one["gain"][0]), f"{one['nll'][0]['mean']:.3f}"]
                if len(one["gain"]) > 2:
                    cells += [_points(one["gain"][1]), _points(one["gain"][2]), f"{one['nll'][2]['mean']:.3f}"]
                lines.append("| " + " | ".join([learner, *cells, *[""] * (6 - len(cells))]) + " |")
            lines.append("")
    return "\n".join(lines)


def _points(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['mean']:+z.1f} [{100 * interval['low']:z.1f}, {100 * interval['high']:z.1f}]"


def _last_layer(vectors: Vectors, width: int) -> Vectors:
    return Vectors(vectors.prompts[:, -width - 1 :], vectors.candidates[:, -width - 1 :])


class Renamed:
    """A learner under another name."""

    def __init__(self, learner: Learner, name: str) -> None:
        self.name, self.predict = name, learner.predict
