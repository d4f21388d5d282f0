"""The sets that `attune evaluate families` knows, and the runs that are made on each: settings by set, chosen on validation users.

Every set has a main run of all learners; others change one thing (the features, the length, whether texts recur) for those
learners that tell what it does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from attune.models.data.adapters import read_comparisons
from attune.models.data.preferences import Comparisons
from attune.models.data.trunk import load_trunk
from attune.models.measuring.families.line_up import LineUp
from attune.models.measuring.families.report import Run, Sizes, evaluate_families
from attune.models.training.features import Subspace
from studies.families.public_sets import read_jester, read_ukpconvarg

JESTER, UKP = "jester", "ukpconvarg1"
JESTER_PER_USER = 100
"""Comparisons drawn per user of Jester: training sees 40 of them at most, and a cut by texts keeps 36 and 16."""

FEW = ("vrf", "additive", "hierarchical")


def evaluate_set(data: str, folder: Path | None, out: Path, *, cache: Path | None, seeds: int, users: int, only: tuple[str, ...]) -> None:
    """Writes the report of one set; see `evaluate_families`.

    Raises:
        typer.BadParameter: a public set was asked for without its folder, or a run that is not made on this set.
    """
    comparisons = read_set(data, folder)
    runs = [replace(run, seeds=tuple(range(seeds)) if index == 0 else run.seeds) for index, run in enumerate(runs_on(data))]
    unknown = set(only) - {run.name for run in runs}
    if unknown:
        raise typer.BadParameter(f"{sorted(unknown)} are no runs; there are {[run.name for run in runs]}")
    runs = [run for run in runs if not only or run.name in only]
    sizes = Sizes(users=users, per_user=40 if data == JESTER else None)
    evaluate_families(data, comparisons, runs, out, trunk=load_trunk(), cache=cache, sizes=sizes)
    typer.echo(out / "report.md")


def read_set(data: str, folder: Path | None) -> Comparisons:
    """Returns the comparisons of a public set in `folder`, or of a file.

    Raises:
        typer.BadParameter: the folder or the file is not there.
        ComparisonInvalid: the file's rows are no comparisons; the message names them.
    """
    if data in (JESTER, UKP):
        if folder is None or not folder.is_dir():
            raise typer.BadParameter(f"{data} is not distributed with this project: give the folder that holds it (is {folder})")
        return read_jester(folder, per_user=JESTER_PER_USER) if data == JESTER else read_ukpconvarg(folder)
    if not Path(data).exists():
        raise typer.BadParameter(f"{data!r} is neither {JESTER!r} nor {UKP!r} nor a file")
    return read_comparisons(Path(data))


def runs_on(data: str) -> list[Run]:
    """Returns the runs that are made on a set, the main one first."""
    main = LineUp(Subspace(16))
    principal = replace(main, subspace=Subspace(16, kind="principal"))
    runs = [
        Run("All learners", main),
        Run("16 principal components and the length", principal, learners=FEW),
        Run("Without the length", main, learners=FEW, length="without"),
        Run("The length alone", replace(principal, axes=1), learners=FEW, length="only"),
    ]
    if data == JESTER:
        runs.append(Run("Context and targets share no text", main, learners=FEW, texts_apart=True))
    return runs
