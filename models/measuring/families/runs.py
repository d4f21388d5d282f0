"""The runs that `attune measure learners` makes on a table of comparisons.

A main run of all learners; others change one thing (the features, the length) for those learners that tell what it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attune.models.data.adapters import read_comparisons
from attune.models.data.table_shapes import Reading
from attune.models.data.trunk import load_trunk, spread_layers
from attune.models.measuring.families.report import Run, Sizes, evaluate_families
from attune.models.seam.additive import NAME as ADDITIVE
from attune.models.seam.vrf import NAME as VRF
from attune.models.training.features import Subspace
from attune.models.training.trainers import LineUp

FEW = (VRF, ADDITIVE, "hierarchical")


class RunUnknown(ValueError):
    """A run was asked for that is not made; the message names those that are."""


def evaluate_file(data: str, reading: Reading, out: Path, *, cache: Path | None, seeds: int, users: int, only: tuple[str, ...]) -> Path:
    """Writes the report on a table of comparisons and returns where it is; see `evaluate_families`.

    Raises:
        RunUnknown: `only` names a run that is not made.
        ComparisonInvalid: the table cannot be read, or its rows are no comparisons; the message names them.
    """
    runs = chosen_runs(standard_runs(), only, seeds)
    comparisons = read_comparisons(data, reading)
    trunk = load_trunk(layers=spread_layers())
    evaluate_families(Path(data).name, comparisons, runs, out, trunk=trunk, cache=cache, sizes=Sizes(users=users))
    return out / "report.md"


def chosen_runs(runs: Sequence[Run], only: Sequence[str], seeds: int) -> list[Run]:
    """Returns the runs named in `only`, all of them if it is empty; the main one, which is first, over `seeds` seeds.

    Raises:
        RunUnknown: there is no run of a name.
    """
    unknown = sorted(set(only) - {run.name for run in runs})
    if unknown:
        raise RunUnknown(f"{', '.join(unknown)}: no such run; there are {', '.join(run.name for run in runs)}")
    seeded = [replace(runs[0], seeds=tuple(range(seeds))), *runs[1:]]
    return [run for run in seeded if not only or run.name in only]


def standard_runs() -> list[Run]:
    """Returns the runs that are made on any table, the main one first."""
    main = LineUp(Subspace(16), bases=20)
    principal = replace(main, subspace=Subspace(16, kind="principal"))
    return [
        Run("all", main),
        Run("principal-components", principal, learners=FEW),
        Run("without-length", main, learners=FEW, length="without"),
        Run("length-alone", replace(principal, axes=1), learners=FEW, length="only"),
    ]
