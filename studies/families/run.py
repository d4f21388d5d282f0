"""`python -m studies families`: few-shot curves on two public sets of real people's choices, with the runs that are made on each.

Every set has a main run of all learners; others change one thing (the features, the length, whether texts recur) for those
learners that tell what it does. Settings were chosen on validation users.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from attune.models.data.preferences import Comparisons
from attune.models.data.trunk import load_trunk, spread_layers
from attune.models.measuring.families.line_up import baselines
from attune.models.measuring.families.report import Run, Sizes, evaluate_families
from attune.models.measuring.families.runs import FEW, chosen_runs, standard_runs
from attune.models.training.trainers import trainers
from studies.families.public_sets import read_jester, read_ukpconvarg

JESTER, UKP = "jester", "ukpconvarg1"
JESTER_PER_USER = 100
"""Comparisons drawn per user of Jester: training sees 40 of them at most, and a cut by texts keeps 36 and 16."""


def evaluate_set(
    data: str,
    folder: Path,
    out: Path,
    *,
    cache: Path | None,
    seeds: int,
    users: int,
    only: tuple[str, ...],
    learners: tuple[str, ...] = (),
) -> Path:
    """Writes the report of one public set and returns where it is; see `evaluate_families`.

    Args:
        data: the set.
        folder: that holds it.
        out: made if absent.
        cache: of the embeddings.
        seeds: of the main run.
        users: of each kind and seed, at most.
        only: names of runs; all if empty.
        learners: families and baselines to train, beside the head for everybody; those of each run if empty.

    Raises:
        typer.BadParameter: there is no such set, folder or learner, or a run that is not made on this set was asked for.
    """
    if unknown := sorted(set(learners) - {*trainers(), *baselines()}):
        raise typer.BadParameter(f"{', '.join(unknown)}: no such learner; there are {', '.join((*trainers(), *baselines()))}")
    comparisons = read_set(data, folder)
    sizes = Sizes(users=users, per_user=40 if data == JESTER else None)
    runs = [replace(run, learners=learners or run.learners) for run in chosen_runs(runs_on(data), only, seeds)]
    evaluate_families(data, comparisons, runs, out, trunk=load_trunk(layers=spread_layers()), cache=cache, sizes=sizes)
    return out / "report.md"


def read_set(data: str, folder: Path) -> Comparisons:
    """Returns the comparisons of a public set in `folder`.

    Raises:
        typer.BadParameter: there is no such set, or its folder is not there.
    """
    if data not in (JESTER, UKP):
        raise typer.BadParameter(f"{data!r} is neither {JESTER!r} nor {UKP!r}; a file of your own is for `attune measure learners`")
    if not folder.is_dir():
        raise typer.BadParameter(f"{data} is not distributed with this project: give the folder that holds it (is {folder})")
    return read_jester(folder, per_user=JESTER_PER_USER) if data == JESTER else read_ukpconvarg(folder)


def runs_on(data: str) -> list[Run]:
    """Returns the runs that are made on a set, the main one first."""
    runs = standard_runs()
    if data == JESTER:
        runs.append(Run("texts-apart", runs[0].line_up, learners=FEW, texts_apart=True))
    return runs
