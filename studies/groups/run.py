"""`python -m studies groups`: opposed groups from two to eight, too few and too many heads, as report.md and results.json.

Settings were chosen on the world of seed 100; the seeds that are reported are others. Intervals are over all users of all
seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.command_line import aside
from attune.models.measuring.figures import bootstrap
from attune.models.measuring.report_files import bar, interval, made_by, table, write_report
from attune.models.seam.bradley_terry import NAME as BASELINE
from attune.models.seam.micro import NAME as MICRO
from attune.models.seam.sparse_moe import NAME as SPARSE_MOE
from attune.models.seam.vrf import NAME as VRF
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.heads import TrainedFamily
from attune.models.training.loop import LoopSettings, TrainingData
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.sparse_moe import SparseMoeSettings, train_sparse_moe
from attune.models.training.vrf import VrfSettings, train_vrf
from studies.groups.groups import GroupsFound, find_groups
from studies.groups.worlds import World, WorldSizes, opposed_world

Array = NDArray[np.float64]
Trainer = Callable[[TrainingData, int], TrainedFamily]
COUNTS = (0, 5, 10, 20)
SHARE_LEAST, RECOVERED_LEAST, CHANCE = 0.95, 0.95, 0.03


@dataclass(frozen=True, slots=True)
class GroupsStudy:
    """How much to measure.

    Attributes:
        groups: numbers of opposed groups.
        studied: the number of groups of the study of too few and too many heads, and the numbers of heads in it.
        seeds: how many worlds of each.
        steps: most steps of a training.
        sizes: of the worlds.
    """

    groups: tuple[int, ...] = (2, 3, 4, 6, 8)
    studied: tuple[int, tuple[int, ...]] = (4, (2, 3, 4, 6, 8, 12))
    seeds: int = 3
    steps: int = 1000
    sizes: WorldSizes = field(default_factory=lambda: WorldSizes(users=800))


def trainers(heads: int, steps: int) -> dict[str, Trainer]:
    """Returns the trainers of one experiment, with as many heads as there are groups; `vrf` has bases to spare."""
    loop = LoopSettings(steps=steps, patience=6)
    # Prompts say nothing of the groups: a gate has nothing to be sparse about, and no expert sleeps.
    # Twice the steps: its encoder is learned too, and the heads of the others start at clusters of users.
    longer = LoopSettings(steps=2 * steps, patience=6)
    return {
        BASELINE: lambda data, seed: train_bradley_terry(data, BradleyTerrySettings(loop=loop), seed),
        MICRO: lambda data, seed: train_micro(data, MicroSettings(heads=heads, alpha=0.0, start="users", loop=loop), seed),
        SPARSE_MOE: lambda data, seed: train_sparse_moe(
            data, SparseMoeSettings(experts=heads, active=min(2, heads), local=0.0, sleeping=False, loop=loop), seed
        ),
        VRF: lambda data, seed: train_vrf(data, VrfSettings(heads=16, latent=8, kl=1e-3, loop=longer), seed),
    }


def evaluate_groups(out: Path, *, seed: int = 1, study: GroupsStudy | None = None) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out` and returns the results."""
    study = study or GroupsStudy()
    seeds = list(range(seed, seed + study.seeds))
    started = time.process_time()
    results: dict[str, Any] = {
        "attune": made_by(),
        "seeds": seeds,
        "counts": list(COUNTS),
        "study": asdict(study),
        "groups": {},
        "heads": {},
    }

    def keep() -> None:
        # After every experiment: an hour's work is not lost to an interruption.
        results["cpu_s"] = round(time.process_time() - started)
        write_report(out, results, render_groups(results))

    for groups in study.groups:
        found = []
        for number in seeds:
            aside(f"{groups} opposed groups, seed {number}")
            world = opposed_world(groups, study.sizes, seed=number)
            found.append(_run(world, trainers(groups, study.steps), number))
        results["groups"][str(groups)] = summarise(found)
        keep()
    groups, counts = study.studied
    for heads in counts:
        aside(f"{heads} heads for {groups} opposed groups")
        only = {name: train for name, train in trainers(heads, study.steps).items() if name in {MICRO, SPARSE_MOE}}
        found = [_run(opposed_world(groups, study.sizes, seed=number), only, number) for number in seeds]
        results["heads"][str(heads)] = summarise(found)
        keep()
    return results


def _run(world: World, makers: Mapping[str, Trainer], seed: int) -> GroupsFound:
    return find_groups(world, [train(world.data, seed) for train in makers.values()], seed=seed, counts=COUNTS)


def summarise(found: Sequence[GroupsFound]) -> dict[str, Any]:
    """Returns accuracy, its share of exact Bayes and recovery of every family, with intervals over the users of all worlds."""
    bayes = np.concatenate([one.bayes for one in found])
    families = {}
    for name in found[0].recovered:
        right = np.concatenate([one.curves.per_user[name] for one in found])
        families[name] = {
            "accuracy": [asdict(bootstrap(right[:, index])) for index in range(len(COUNTS))],
            "share_of_bayes_optimal": asdict(bootstrap(right[:, -1] / bayes[:, -1].mean())),
            "share_by_seed": [round(float(one.curves.per_user[name][:, -1].mean() / one.bayes[:, -1].mean()), 4) for one in found],
            "recovered": asdict(bootstrap(np.concatenate([one.recovered[name] for one in found]).astype(float))),
            "recovered_by_clusters": asdict(bootstrap(np.concatenate([one.clustered[name] for one in found]).astype(float))),
            "summaries": [dict(one.summaries[name]) for one in found],
        }
    return {
        "bayes": [asdict(bootstrap(bayes[:, index])) for index in range(len(COUNTS))],
        "bayes_recovered": asdict(bootstrap(np.concatenate([one.bayes_recovered for one in found]).astype(float))),
        "families": families,
    }


def render_groups(results: Mapping[str, Any]) -> str:
    """Returns the report of `evaluate_groups`."""
    study, last = results["study"], f"n = {results['counts'][-1]}"
    lines = [
        "# Opposed groups",
        "",
        f"- Attune `{results['attune']}`, seeds {results['seeds']}, {results['cpu_s']} s of CPU time",
        (
            f"- worlds of {study['sizes']['users']} training and {study['sizes']['test_users']} unseen users, "
            f"{study['sizes']['noise']:.0%} of choices turned round; prompts say nothing of the groups"
        ),
        (
            "- exact Bayes knows every group's taste and the noise, but not that close pairs are never asked: before anything is told it "
            "can be beaten; groups are recovered by the strongest head, or by clusters of users"
        ),
        "",
    ]
    rows = []
    for groups, entry in results["groups"].items():
        rows.append([groups, "exact Bayes", *map(interval, entry["bayes"]), "", interval(entry["bayes_recovered"]), ""])
        rows += [[groups, *_row(name, family)] for name, family in entry["families"].items()]
    header = ["groups", "family", *(f"n = {count}" for count in results["counts"]), f"share of Bayes, {last}", "by head", "by clusters"]
    lines += [*table(header, rows), "", f"## Too few and too many heads, {study['studied'][0]} groups", ""]
    rows = [[heads, *_row(name, family)] for heads, entry in results["heads"].items() for name, family in entry["families"].items()]
    lines += [*table(["heads", *header[1:]], rows), "", "## Bars", "", *_bars(results)]
    return "\n".join(lines) + "\n"


def _row(name: str, family: Mapping[str, Any]) -> list[str]:
    shares = (family[key] for key in ("share_of_bayes_optimal", "recovered", "recovered_by_clusters"))
    return [name, *map(interval, family["accuracy"]), *map(interval, shares)]


def _bars(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for groups, entry in results["groups"].items():
        for name, family in entry["families"].items():
            if name == BASELINE:
                chance = family["accuracy"][-1]
                lines.append(bar(f"one head at chance, {groups} groups", interval(chance), kept=abs(chance["mean"] - 0.5) <= CHANCE))
                continue
            share, by_head, by_cluster = (family[key] for key in ("share_of_bayes_optimal", "recovered", "recovered_by_clusters"))
            lines.append(
                bar(f"{name} at least {SHARE_LEAST:.0%} of Bayes, {groups} groups", interval(share), kept=share["mean"] >= SHARE_LEAST)
            )
            # The heads of `vrf` are corners of a space of users and not groups; its users' positions are what is clustered.
            found = by_cluster if name == VRF else by_head
            what = f"{name} recovers at least {RECOVERED_LEAST:.0%} of users' groups, {groups} groups"
            lines.append(bar(what, interval(found), kept=found["mean"] >= RECOVERED_LEAST))
    return lines
