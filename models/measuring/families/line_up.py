"""Which families and baselines are compared, and with which settings on which set: all on the same comparisons and vectors.

Settings were chosen on validation users (`models/LOG.md` says how); nothing here was chosen by looking at test users.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from attune.models.measuring.families.learners import served_learners
from attune.models.training.additive import AdditiveSettings, train_additive
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Subspace
from attune.models.training.heads import TrainedFamily
from attune.models.training.hierarchical import PopulationSettings, train_hierarchical, train_per_user_logistic
from attune.models.training.learner import Learner
from attune.models.training.loop import LoopSettings, TrainingData
from attune.models.training.lore import LoreSettings, train_lore
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.sparse_moe import SparseMoeSettings, train_sparse_moe
from attune.models.training.vpl import VplSettings, train_vpl
from attune.models.training.vrf import VrfSettings, train_vrf

BASELINE = "bradley_terry"
VRF = VrfSettings(
    heads=20, start="population", diversity=0.01, loop=LoopSettings(steps=1500, learning_rate=1e-2, evaluate_every=50, patience=10)
)
"""`vrf` on public sets: two bases more than sixteen axes need, the start of the population, and small steps from there."""


@dataclass(frozen=True, slots=True)
class LineUp:
    """What is compared on one set.

    Attributes:
        subspace: the features that everybody's heads may use.
        heads: `K` of `micro`, `sparse_moe` and `lore`.
        axes: `D` of `additive`.
        vrf: settings of `vrf`; its subspace is replaced.
        population: of `additive` and `hierarchical`.
        steps: at most, of the other families and baselines that learn by gradients.
    """

    subspace: Subspace
    heads: int = 8
    axes: int = 16
    vrf: VrfSettings = VRF
    population: PopulationSettings = field(default_factory=PopulationSettings)
    steps: int = 1500

    def served(self) -> Mapping[str, Callable[[TrainingData, int], TrainedFamily]]:
        """Returns the trainers of families that bundles can serve, `(data, seed) -> TrainedFamily`."""
        short = LoopSettings(steps=self.steps, patience=6)
        return {
            BASELINE: lambda data, seed: train_bradley_terry(data, BradleyTerrySettings(subspace=self.subspace, loop=short), seed),
            "micro": lambda data, seed: train_micro(data, MicroSettings(heads=self.heads, subspace=self.subspace, loop=short), seed),
            "sparse_moe": lambda data, seed: train_sparse_moe(
                data, SparseMoeSettings(experts=self.heads, subspace=self.subspace, loop=short), seed
            ),
            "vrf": lambda data, seed: train_vrf(data, replace(self.vrf, subspace=self.subspace), seed),
            "additive": lambda data, seed: train_additive(data, AdditiveSettings(self.axes, self.population, self.subspace), seed),
        }

    def baselines(self) -> Mapping[str, Callable[[TrainingData, int], Learner]]:
        """Returns the trainers of baselines that no bundle can serve, since their state is no sum."""
        short = LoopSettings(steps=self.steps, patience=6)
        return {
            "hierarchical": lambda data, _: train_hierarchical(data, self.subspace, self.population),
            "per_user_logistic": lambda data, _: train_per_user_logistic(data, self.subspace),
            "lore": lambda data, seed: train_lore(data, LoreSettings(heads=self.heads, subspace=self.subspace, loop=short), seed),
            "vpl": lambda data, seed: train_vpl(data, VplSettings(subspace=self.subspace, loop=replace(short, learning_rate=2e-3)), seed),
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
    wanted = [name for name in (*line_up.served(), *line_up.baselines()) if not names or name in names or name == BASELINE]
    learners: list[Learner] = []
    took: dict[str, float] = {}
    for name in wanted:
        started = time.perf_counter()
        if name in line_up.served():
            learners += served_learners([line_up.served()[name](everybody or data if name == BASELINE else data, seed)], data.vectors)
        else:
            learners.append(line_up.baselines()[name](data, seed))
        took[name] = time.perf_counter() - started
        sys.stderr.write(f"trained {name} in {took[name]:.1f} s\n")
    return learners, took
