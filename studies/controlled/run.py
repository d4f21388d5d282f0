"""`python -m studies controlled`: the attribute-style controlled set as report.md and results.json.

Settings were chosen on the world of seed 100; the seeds that are reported are others. Intervals are over all users of all
seeds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.command_line import aside
from attune.models.measuring.expert_cards import expert_cards, weight_shift
from attune.models.measuring.figures import accuracy, bootstrap
from attune.models.measuring.report_files import bar, interval, made_by, table, write_report
from attune.models.measuring.rows import Rows, rows_from_heads
from attune.models.seam.bradley_terry import NAME as BASELINE
from attune.models.seam.family import Family
from attune.models.seam.sparse_moe import NAME as MIXTURE
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Subspace
from attune.models.training.heads import TrainedFamily
from attune.models.training.loop import LoopSettings
from attune.models.training.sparse_moe import SparseMoeSettings, train_sparse_moe
from attune.models.training.sureness import with_sureness
from studies.controlled.controlled import AXES, COUNTS, ControlledFound, ControlledSizes, controlled_world, measure_controlled
from studies.groups.groups import evidence_of_users
from studies.groups.worlds import World, bayes_probabilities

Array = NDArray[np.float64]

EFFECTIVE_LEAST, GLOBAL_MOST, PER_PROMPT_WITHIN = 0.7, 0.01, 0.5
GAINS_LEAST = {20: 0.20, 100: 0.25}
"""After so many comparisons; one choice in ten is turned round, so nobody gains more than 0.26."""
USERS_EXPLAINED = 60


@dataclass(frozen=True, slots=True)
class ControlledStudy:
    """How much to measure: how many worlds, their sizes, and the trainings' settings."""

    seeds: int = 3
    sizes: ControlledSizes = field(default_factory=ControlledSizes)
    baseline: BradleyTerrySettings = field(
        default_factory=lambda: BradleyTerrySettings(subspace=Subspace(8), loop=LoopSettings(steps=1000))
    )
    mixture: SparseMoeSettings = field(
        default_factory=lambda: SparseMoeSettings(
            start="kinds", local=0.01, balance=0.2, subspace=Subspace(8), loop=LoopSettings(steps=1000, patience=8)
        )
    )


def evaluate_controlled(out: Path, *, seed: int = 1, study: ControlledStudy | None = None) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out` and returns the results."""
    study = study or ControlledStudy()
    seeds = list(range(seed, seed + study.seeds))
    started = time.process_time()
    counts = tuple(count for count in COUNTS if count <= study.sizes.world.told)
    found: list[ControlledFound] = []
    bayes: list[Array] = []
    explained: list[dict[str, Any]] = []
    for number in seeds:
        aside(f"controlled set, seed {number}")
        world = controlled_world(study.sizes, seed=number)
        mixture = with_sureness(train_sparse_moe(world.data, study.mixture, number), world.data)
        trained = [train_bradley_terry(world.data, study.baseline, number), mixture]
        found.append(measure_controlled(world, trained, counts=counts))
        bayes.append(np.stack([_bayes(world, count) for count in counts], axis=1))
        explained.append(explain(world, trained[1], rows_from_heads(trained, world.data.vectors)))
    results = {
        "attune": made_by(),
        "seeds": seeds,
        "study": asdict(study),
        "counts": list(counts),
        "bayes": [asdict(bootstrap(values)) for values in np.concatenate(bayes).T],
        **summarise(found),
        "explained": explained,
        "cpu_s": round(time.process_time() - started),
    }
    write_report(out, results, render_controlled(results))
    return results


def summarise(found: Sequence[ControlledFound]) -> dict[str, Any]:
    """Returns accuracies, paired differences to the single head, and the monitors of every seed."""
    right = {name: np.concatenate([one.curves.per_user[name] for one in found]) for name in (BASELINE, MIXTURE)}
    return {
        "accuracy": {name: [asdict(bootstrap(column)) for column in values.T] for name, values in right.items()},
        "gain": [asdict(bootstrap(column)) for column in (right[MIXTURE] - right[BASELINE]).T],
        "monitors": [
            {
                "effective_experts": one.effective_experts,
                "experts_per_prompt": one.experts_per_prompt,
                "open_experts": one.open_experts,
                "kind_recovered": one.kind_recovered,
                "gate_of_kind": np.round(one.gate_of_kind, 3).tolist(),
                "training": dict(one.summary),
            }
            for one in found
        ],
    }


def explain(world: World, trained: TrainedFamily, rows: Rows) -> dict[str, Any]:
    """Returns whether explanations are true of the world: cards by kind of prompt, and shifts of weights by user.

    An expert's card should be of one kind of prompt, and the expert whose weight rose most on a user's own prompts should
    order that user's pairs better than the one whose weight fell most.
    """
    family = trained.family
    cards = expert_cards(family, rows, world.targets, top=20)
    by_card = []
    for card in cards[1:]:
        kinds = world.prompt_kind[world.targets.prompt[[example.comparison for example in card.examples]]]
        counts = np.bincount(kinds, minlength=AXES)
        by_card.append({"head": card.head, "share": round(card.share, 3), "kinds": counts.tolist()})
    evidence = evidence_of_users(family, rows, world.context)[:USERS_EXPLAINED]
    rose, fell, shifts = [], [], []
    targets = world.targets.rows_of_users()
    for user, known in enumerate(evidence):
        up, down = _of_risen_and_fallen(family, known, rows, world, targets[user])
        rose.append(up)
        fell.append(down)
        shifts.append(weight_shift(family, known, [rows.prompts[prompt] for prompt in np.unique(world.targets.prompt)[:32]]))
    return {
        "cards": by_card,
        "risen_expert_right": asdict(bootstrap(np.array(rose))),
        "fallen_expert_right": asdict(bootstrap(np.array(fell))),
        "mean_absolute_shift": np.round(np.abs(shifts).mean(axis=0), 4).tolist(),
    }


def _of_risen_and_fallen(family: Family, known: Array, rows: Rows, world: World, targets: NDArray[np.int64]) -> tuple[float, float]:
    right: list[tuple[bool, bool]] = []
    name = f"{family.name}_rewards"
    for row in targets:
        shift = weight_shift(family, known, [rows.prompts[world.targets.prompt[row]]])[1:]
        chosen, rejected = (rows.candidates[side[row]][name][1:] for side in (world.targets.chosen, world.targets.rejected))
        right.append((bool((chosen - rejected)[shift.argmax()] > 0), bool((chosen - rejected)[shift.argmin()] > 0)))
    risen, fallen = np.mean(right, axis=0)
    return float(risen), float(fallen)


def _bayes(world: World, count: int) -> Array:
    probabilities = bayes_probabilities(world, count)[0]
    return np.array([accuracy(probabilities[rows]) for _, rows in sorted(world.targets.rows_of_users().items())])


def render_controlled(results: Mapping[str, Any]) -> str:
    """Returns the report of `evaluate_controlled`."""
    study = results["study"]
    lines = [
        "# The attribute-style controlled set",
        "",
        f"- Attune `{results['attune']}`, seeds {results['seeds']}, {results['cpu_s']} s of CPU time",
        (
            f"- {study['mixture']['experts']} routed experts, {study['mixture']['active']} open beside the shared one; "
            f"{study['sizes']['world']['users']} training and {study['sizes']['world']['test_users']} unseen users a seed"
        ),
        "- exact Bayes knows every kind of user and the noise",
        "",
    ]
    rows = [[name, *map(interval, curve)] for name, curve in results["accuracy"].items()]
    rows += [["exact Bayes", *map(interval, results["bayes"])], ["gain", *map(interval, results["gain"])]]
    lines += [*table(["pair accuracy", *(f"n = {count}" for count in results["counts"])], rows), "", "## How prompts are divided", ""]
    header = ["seed", "effective experts", "experts a prompt", "open for a user", "prompts' kind recovered", "greatest correlation"]
    rows = [
        [
            str(seed),
            *(f"{one[key]:.2f}" for key in ("effective_experts", "experts_per_prompt", "open_experts", "kind_recovered")),
            f"{one['training']['max_abs_correlation']:.2f}",
        ]
        for seed, one in zip(results["seeds"], results["monitors"], strict=True)
    ]
    lines += [*table(header, rows), "", "## What explanations say", ""]
    rows = []
    for seed, one in zip(results["seeds"], results["explained"], strict=True):
        pure = np.mean([max(card["kinds"]) / max(1, sum(card["kinds"])) for card in one["cards"]])
        rows.append([str(seed), f"{pure:.2f}", interval(one["risen_expert_right"]), interval(one["fallen_expert_right"])])
    header = ["seed", "cards of one kind of prompt", "risen expert orders a user's pairs", "fallen expert"]
    return "\n".join([*lines, *table(header, rows), "", "## Bars", "", *_bars(results)]) + "\n"


def _bars(results: Mapping[str, Any]) -> list[str]:
    experts, active = (results["study"]["mixture"][key] for key in ("experts", "active"))
    lines = []
    for seed, one in zip(results["seeds"], results["monitors"], strict=True):
        effective, per_prompt = one["effective_experts"], one["experts_per_prompt"]
        lines += [
            bar(
                f"effective experts at least {EFFECTIVE_LEAST} K, seed {seed}",
                f"{effective:.2f}",
                kept=effective >= EFFECTIVE_LEAST * experts,
            ),
            bar(
                f"experts a prompt within {PER_PROMPT_WITHIN} of k = {active}, seed {seed}",
                f"{per_prompt:.2f}",
                kept=abs(per_prompt - active) <= PER_PROMPT_WITHIN,
            ),
        ]
    gains = dict(zip(results["counts"], results["gain"], strict=True))
    lines.append(bar("global accuracy within one point of the single head", interval(gains[0]), kept=gains[0]["mean"] >= -GLOBAL_MOST))
    for count, least in GAINS_LEAST.items():
        if count in gains:
            found = gains[count]
            lines.append(
                bar(f"user-level gain at least {least:.0%} after {count} comparisons", interval(found), kept=found["mean"] >= least)
            )
    return lines
