"""Two opposed groups: what one likes the other dislikes (Shen et al. 2025, Theorem 3.2: one Bradley-Terry head stays at chance).

Group A likes answers by `+taste`, group B by `-taste`; nothing in a prompt tells who asks. Families are trained from scratch
on both groups, without group labels, and measured on users and prompts that training has not met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparisons, Texts
from attune.models.measuring.families.fewshot import FewShot, few_shot
from attune.models.measuring.rows import rows_from_heads
from attune.models.training.heads import TrainedFamily, families_of
from attune.models.training.loop import TrainingData
from demo.corpus.texts import MANNERS
from demo.drawn import draw_comparisons, flipped_choice

Array = NDArray[np.float64]
Trainer = Callable[[TrainingData, int], TrainedFamily]
"""A trainer with its settings bound: data and seed -> family."""

TASTES: Mapping[str, Mapping[str, float]] = {
    "concise or detailed": {"concise": 1.0, "detailed": -1.0},
    "playful or formal": {"playful": 1.0, "formal": -1.0},
    "cautious or bold": {"cautious": 1.0, "bold": -1.0},
}
NOISE = 0.1
LEAST_GAP = 0.5


@dataclass(frozen=True, slots=True)
class OpposedGroups:
    """One experiment.

    Attributes:
        taste: which axis the groups disagree on.
        seed: of users, comparisons and training.
        curves: few-shot curves on unseen users and prompts; half of the users are of either group.
    """

    taste: str
    seed: int
    curves: FewShot


@dataclass(frozen=True, slots=True)
class Material:
    """Answers with vectors and true scores `[N, 6]`, and which prompts are for training, validation and test."""

    texts: Texts
    vectors: Vectors
    scores: Array
    prompts: Mapping[str, NDArray[np.int64]]


def opposed_groups(
    material: Material, trainers: Sequence[Trainer], taste: str, *, seed: int, users: int = 400, test_users: int = 100, per_user: int = 40
) -> OpposedGroups:
    """Returns how families trained from scratch on two opposed groups do on strangers.

    Args:
        material: answers; `prompts` has the keys `train`, `validation` and `test`.
        trainers: `(data, seed) -> TrainedFamily`, the settings bound.
        taste: a key of `TASTES`.
        seed: of everything.
        users: training users, half of either group.
        test_users: likewise.
        per_user: comparisons of a training user.
    """
    liking = material.scores @ np.array([TASTES[taste].get(manner, 0.0) for manner in MANNERS])
    # Comparisons that are learned and those that are predicted are on different prompts, none of them a training prompt.
    asked = dict(material.prompts)
    middle = len(asked["test"]) // 2
    asked |= {"context": asked["test"][:middle], "targets": asked["test"][middle:]}

    def told(part: str, count: int, each: int) -> Comparisons:
        return draw_comparisons(
            material.texts,
            np.outer(liking, np.where(np.arange(count) % 2 == 0, 1.0, -1.0)),
            per_user=each,
            choose=flipped_choice(NOISE),
            seed=seed * 100 + list(asked).index(part),
            prompts=asked[part],
            least_gap=LEAST_GAP,
            name=part,
        )

    data = TrainingData(told("train", users, per_user), told("validation", users // 4, per_user), material.vectors)
    trained = [train(data, seed) for train in trainers]
    rows = rows_from_heads(trained, material.vectors)
    curves = few_shot(families_of(trained), rows, told("context", test_users, 20), told("targets", test_users, 40))
    return OpposedGroups(taste, seed, curves)
