"""Which families and baselines are compared on a set: all on the same comparisons and vectors.

Settings were chosen on validation users (`models/LOG.md` says how); nothing here was chosen by looking at test users.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from attune.models.measuring.families.learners import served_learners
from attune.models.seam.bradley_terry import NAME as BASELINE
from attune.models.training.hierarchical import train_hierarchical, train_per_user_logistic
from attune.models.training.learner import Learner
from attune.models.training.loop import TrainingData
from attune.models.training.lore import LoreSettings, train_lore
from attune.models.training.trainers import LineUp, trainers
from attune.models.training.vpl import VplSettings, train_vpl

__all__ = ["BASELINE", "train_line_up"]


def baselines() -> Mapping[str, Callable[[TrainingData, LineUp, int], Learner]]:
    """Returns the trainers of baselines that no bundle can serve, since their state is no sum."""
    return {
        "hierarchical": lambda data, line_up, _: train_hierarchical(data, line_up.subspace, line_up.population),
        "per_user_logistic": lambda data, line_up, _: train_per_user_logistic(data, line_up.subspace),
        "lore": lambda data, line_up, seed: train_lore(
            data, LoreSettings(heads=line_up.heads, subspace=line_up.subspace, loop=line_up.short()), seed
        ),
        "vpl": lambda data, line_up, seed: train_vpl(
            data, VplSettings(subspace=line_up.subspace, loop=replace(line_up.short(), learning_rate=2e-3)), seed
        ),
    }


def train_line_up(
    line_up: LineUp, data: TrainingData, seed: int, names: tuple[str, ...] = (), *, everybody: TrainingData | None = None
) -> tuple[list[Learner], dict[str, float]]:
    """Returns the learners of a line-up, and how many seconds each took to train.

    Args:
        line_up: what to train.
        data: what everybody is trained on.
        seed: of every training.
        names: the ones to train; all if empty. The baseline of all differences is always there.
        everybody: what the baseline, which knows no persons, is trained on; `data` if None.
    """
    served, others = trainers(), baselines()
    wanted = [name for name in (*served, *others) if not names or name in names or name == BASELINE]
    learners: list[Learner] = []
    took: dict[str, float] = {}
    for name in wanted:
        started = time.perf_counter()
        if name in served:
            learners += served_learners([served[name](everybody or data if name == BASELINE else data, line_up, seed)], data.vectors)
        else:
            learners.append(others[name](data, line_up, seed))
        took[name] = time.perf_counter() - started
        sys.stderr.write(f"trained {name} in {took[name]:.1f} s\n")
    return learners, took
