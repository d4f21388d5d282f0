"""What validation people lose under a family, by the functions that the server runs: the loss that trainings are compared by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attune.models.seam.evidence import quantise
from attune.models.seam.family import Family, Row
from attune.models.training.episodes import Episodes, EpisodeSettings
from attune.models.training.heads import TrainedFamily, compute_outputs
from attune.models.training.loop import TrainingData


def validation_nll(trained: TrainedFamily, data: TrainingData, *, users: int = 128) -> float:
    """Returns the mean log-loss on validation users at the counts that other trainings stop by."""
    return validation_nlls(trained, [trained.family], data, users=users)[0]


def validation_nlls(trained: TrainedFamily, readings: Sequence[Family], data: TrainingData, *, users: int = 128) -> list[float]:
    """Returns the same for several families that learn alike and read what was learned in different ways.

    Args:
        trained: whose heads give the rows, and whose family learns.
        readings: predict, each from the same evidence.
        data: whose validation people are asked.
        users: of them, at each count.
    """
    told, family = data.validation, trained.family
    candidates, asked = compute_outputs([trained], data.vectors.candidates), compute_outputs([trained], data.vectors.prompts)

    def rows(row: int) -> tuple[Row, Row, Row]:
        chosen, rejected, prompt = int(told.chosen[row]), int(told.rejected[row]), int(told.prompt[row])
        return (
            {name: values[chosen] for name, values in candidates.items()},
            {name: values[rejected] for name, values in candidates.items()},
            {name: values[prompt] for name, values in asked.items()},
        )

    losses = []
    for batch in Episodes(told, EpisodeSettings()).validation_batches(users=users):
        total, count = np.zeros(len(readings)), 0
        for context, real, targets, predicted in zip(batch.context, batch.context_mask, batch.targets, batch.target_mask, strict=True):
            evidence = np.zeros(family.evidence_size)
            for row in context[real].tolist():
                evidence = evidence + quantise(family.learn(*rows(row), tie=bool(told.tie[row])))
            for row in targets[predicted].tolist():
                found = np.array([one.predict(evidence, *rows(row)) for one in readings])
                total -= 0.5 * (np.log(found) + np.log1p(-found)) if told.tie[row] else np.log(found)
                count += 1
        losses.append(total / count)
    mean: list[float] = np.mean(losses, axis=0).tolist()
    return mean
