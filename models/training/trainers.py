"""What is trained on one table of comparisons, and who trains each family: the trainers that the registry of the seam names.

LineUp (sizes for this table) + TrainingData + seed ─> trainer of a kind ─> TrainedFamily
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name

from attune.models.seam.registry import KINDS
from attune.models.training.features import Subspace
from attune.models.training.heads import TrainedFamily
from attune.models.training.hierarchical import PopulationSettings
from attune.models.training.loop import LoopSettings, TrainingData


@dataclass(frozen=True, slots=True)
class LineUp:
    """What is compared on one set, in the sizes that any family may ask for.

    Attributes:
        subspace: the features that everybody's heads may use.
        heads: `K` of mixtures and of `lore`.
        axes: `D`, of tastes.
        most_axes: of `additive`, whose state is small: as many where validation people lose less with them than with `axes`.
        bases: `K` of `vrf`; two more than there are axes if None.
        population: of families that start at the closed form of a population of linear tastes.
        steps: at most, of whatever learns by gradients.
    """

    subspace: Subspace
    heads: int = 8
    axes: int = 16
    most_axes: int = 32
    bases: int | None = None
    population: PopulationSettings = field(default_factory=PopulationSettings)
    steps: int = 1500

    def short(self) -> LoopSettings:
        """Returns the loop of what learns by gradients and needs no settings of its own."""
        return LoopSettings(steps=self.steps, patience=6)


Trainer = Callable[[TrainingData, LineUp, int], TrainedFamily]
"""Trains one family on comparisons, in the sizes of a line-up, from a seed."""


def trainers() -> Mapping[str, Trainer]:
    """Returns the trainer of every kind that learns from comparisons alone, in the registry's order."""
    return {name: resolve_name(kind.trainer) for name, kind in KINDS.items() if kind.trainer}
