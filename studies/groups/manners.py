"""`python -m studies opposed`: two opposed groups on the demo's own answers, as report.md and results.json.

Settings are those of the demo's heads, which were chosen elsewhere; users and prompts are strangers to the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from attune.command_line import aside
from attune.models.data.embeddings import Embedder, embed_texts
from attune.models.data.preferences import Texts
from attune.models.data.trunk import load_demo_trunk
from attune.models.measuring.figures import Interval
from attune.models.measuring.report_files import bar, interval, made_by, table, write_report
from attune.models.portfolio.pool import Pool
from attune.models.seam.bradley_terry import NAME as BASELINE
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.vrf import VrfSettings, train_vrf
from demo.corpus.tastes import manner_scores
from demo.heads import DemoSettings, combine, written_pool
from studies.groups.opposed import NOISE, TASTES, Material, OpposedGroups, Trainer, opposed_groups

AnySettings = TypeVar("AnySettings", BradleyTerrySettings, MicroSettings, VrfSettings)
CHANCE, OPPOSED_LEAST = 0.03, 0.90


@dataclass(frozen=True, slots=True)
class MannersStudy:
    """How much to measure: for each taste and seed, `users` to train on, `test_users` to predict, and at most `steps` steps a family.

    One axis is learned sooner than six manners, so the steps are fewer than the demo's; `demo` has the sizes that make the texts.
    """

    seeds: int = 1
    tastes: tuple[str, ...] = tuple(TASTES)
    users: int = 400
    test_users: int = 100
    steps: int = 800
    demo: DemoSettings = field(default_factory=DemoSettings)


def evaluate_manners(
    out: Path, *, seed: int = 1, study: MannersStudy | None = None, trunk: Embedder | None = None, cache: Path | None = None
) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out` and returns the results.

    Args:
        out: made if absent.
        seed: the first of the seeds.
        study: how much to measure.
        trunk: the demo's own if None.
        cache: folder of the embedding cache.
    """
    study = study or MannersStudy()
    results: dict[str, Any] = {"attune": made_by(), "opposed": _experiments(study, trunk or load_demo_trunk(), cache, seed)}
    write_report(out, results, render_manners(results))
    return results


def render_manners(results: Mapping[str, Any]) -> str:
    """Returns the report of `evaluate_manners`."""
    rows = []
    for one in results["opposed"]:
        for family, curve in one["curves"].items():
            share = one["share_of_bayes_optimal_at_20"][family]
            rows.append([one["taste"], str(one["seed"]), family, *(interval(point["accuracy"]) for point in curve), interval(share)])
    counts = [str(point["comparisons"]) for point in next(iter(results["opposed"][0]["curves"].values()))]
    header = ["taste", "seed", "family", *(f"n = {count}" for count in counts), "of Bayes-optimal"]
    title = ["# Two opposed groups, unseen users and prompts", "", f"Attune {results['attune']}", ""]
    return "\n".join([*title, *table(header, rows), "", "## Bars", "", *_bars(results["opposed"])]) + "\n"


def _bars(experiments: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in experiments:
        where = f"({one['taste']}, seed {one['seed']})"
        for family, share in one["share_of_bayes_optimal_at_20"].items():
            if family == BASELINE:
                chance = one["curves"][family][-1]["accuracy"]
                lines.append(bar(f"global head 50 ± 3 % {where}", interval(chance), kept=abs(chance["mean"] - 0.5) <= CHANCE))
            else:
                what = f"{family} at least {OPPOSED_LEAST:.0%} of Bayes-optimal {where}"
                lines.append(bar(what, interval(share), kept=share["mean"] >= OPPOSED_LEAST))
    return lines


def _experiments(study: MannersStudy, trunk: Embedder, cache: Path | None, seed: int) -> list[dict[str, Any]]:
    pools = {part: written_pool(part, study.demo, seed=0) for part in ("train", "validation", "test")}
    texts = combine(list(pools.values()))
    material = Material(
        texts,
        embed_texts(texts, trunk, cache),
        np.array([manner_scores(text) for _, text in texts.candidates]),
        {part: _positions(texts, pool) for part, pool in pools.items()},
    )
    demo, steps = study.demo, study.steps
    trainers: list[Trainer] = [
        lambda data, number: train_bradley_terry(data, _shorter(demo.bradley_terry, steps), number),
        lambda data, number: train_micro(data, _shorter(demo.micro, steps), number),
        lambda data, number: train_vrf(data, _shorter(demo.vrf, steps), number),
    ]
    found = []
    for number in range(seed, seed + study.seeds):
        for taste in study.tastes:
            aside(f"opposed groups, {taste}, seed {number}")
            found.append(_entry(opposed_groups(material, trainers, taste, seed=number, users=study.users, test_users=study.test_users)))
    return found


def _shorter(settings: AnySettings, steps: int) -> AnySettings:
    return replace(settings, loop=replace(settings.loop, steps=min(steps, settings.loop.steps)))


def _entry(experiment: OpposedGroups) -> dict[str, Any]:
    curves = {name: [asdict(point) for point in points] for name, points in experiment.curves.curves.items()}
    last = {name: points[-1].accuracy for name, points in experiment.curves.curves.items()}
    return {
        "taste": experiment.taste,
        "seed": experiment.seed,
        "bayes_optimal_accuracy": 1.0 - NOISE,
        "share_of_bayes_optimal_at_20": {name: asdict(_scaled(value, 1.0 / (1.0 - NOISE))) for name, value in last.items()},
        "curves": curves,
    }


def _scaled(found: Interval, factor: float) -> Interval:
    return replace(found, mean=found.mean * factor, low=found.low * factor, high=found.high * factor)


def _positions(texts: Texts, pool: Pool) -> NDArray[np.int64]:
    asked = set(pool.prompts)
    return np.array([index for index, (prompt, _) in enumerate(texts.prompts) if prompt in asked], dtype=np.int64)
