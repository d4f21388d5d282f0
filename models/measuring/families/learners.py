"""Served families as learners of the few-shot harness: events are learned and pairs predicted by the functions that the server runs.

    context ─> Families.learn ─> sum of evidence ─> family.chances, family.score

Axis letters: `T` targets, `K` heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparisons
from attune.models.measuring.rows import Rows, rows_from_heads
from attune.models.seam.families import Families, Family, Row
from attune.models.seam.family import reward_difference
from attune.models.seam.trust import ALWAYS
from attune.models.training.heads import TrainedFamily
from attune.models.training.learner import Learner, Predicted

Array = NDArray[np.float64]


class ServedLearner:
    """One family of a bundle, or fresh from training, with its trust."""

    def __init__(self, family: Family, rows: Rows, trust: float = ALWAYS) -> None:
        self.name = family.name
        self._families = Families([family], {family.name: trust})
        self._family = family
        self._rows = rows
        self._told: list[tuple[int, int, int, bool]] = []
        self._evidence = self._families.prior()

    def predict(self, context: Comparisons, targets: Comparisons) -> Predicted:
        """Returns the predictions; see `Learner`.

        The spread is that of the family's score for the pair's difference, in logits: every family's score is linear in
        rewards, so what it says of candidates it says of differences.
        """
        evidence = self._learn(context)
        chosen, rejected, prompts = self._families.stacked([self._of(targets, row) for row in range(len(targets))])
        found = self._families.predict_all(evidence, chosen, rejected, prompts)[self.name]
        differences = reward_difference(f"{self.name}_rewards", chosen, rejected)
        scored = self._families.score(self.name, evidence, differences, prompts if self._family.scores_with_prompt else None)
        weights = scored.weights if scored.weights.ndim == 1 else scored.weights.mean(axis=0)
        return Predicted(found, self._family.logit_scale * scored.stds, weights)

    def _learn(self, context: Comparisons) -> Array:
        """Returns the sum after the context, told in its order; goes on from the context before where this one begins with it."""
        columns = (context.chosen, context.rejected, context.prompt, context.tie)
        told = [(int(a), int(b), int(c), bool(d)) for a, b, c, d in zip(*columns, strict=True)]
        if told[: len(self._told)] != self._told:
            self._told, self._evidence = [], self._families.prior()
        for row in range(len(self._told), len(told)):
            added = self._families.learn(*self._of(context, row), tie=told[row][3], known=self._evidence)
            self._evidence = self._evidence + added
        self._told = told
        return self._evidence

    def _of(self, comparisons: Comparisons, row: int) -> tuple[Row, Row, Row]:
        candidates = self._rows.candidates
        return candidates[comparisons.chosen[row]], candidates[comparisons.rejected[row]], self._rows.prompts[comparisons.prompt[row]]


def served_learners(trained: Sequence[TrainedFamily], vectors: Vectors) -> list[Learner]:
    """Returns a learner for every trained family, on the rows that the scorer graph would give."""
    rows = rows_from_heads(trained, vectors)
    return [ServedLearner(one.family, rows, one.trust) for one in trained]
