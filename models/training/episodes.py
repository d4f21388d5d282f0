"""Episodes: a user's comparisons cut into a context to learn from and disjoint targets to predict (SCIENCE §5).

The number of context comparisons is log-uniform from 0, so that a family is trained for strangers and regulars alike.
A batch is padded arrays of row numbers with masks. Axis letters: `B` users, `C` context, `T` targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attune.models.data.preferences import Comparisons
from attune.models.training.features import Calibration
from attune.models.training.loop import TrainingData

VALIDATION_COUNTS = (0, 2, 5, 10, 20)
"""Context sizes that a training is stopped by: strangers count as much as regulars."""

LONG_COUNTS = (100, 300)
"""Further context sizes, where at least `LEAST_REGULARS` validation users have told more than that."""

LEAST_REGULARS = 10


@dataclass(frozen=True, slots=True)
class EpisodeSettings:
    """Sizes of episodes: users a batch, most context comparisons, most targets."""

    users: int = 64
    max_context: int = 32
    max_targets: int = 16


@dataclass(frozen=True, slots=True)
class EpisodeBatch:
    """Padded row numbers: `context` `[B, C]`, `targets` `[B, T]`, and which are real."""

    context: Tensor
    context_mask: Tensor
    targets: Tensor
    target_mask: Tensor


@dataclass(frozen=True, slots=True)
class ComparisonFeatures:
    """What a family's loss reads of comparisons, row by row, and of prompts.

    Attributes:
        difference: `[C, F]` features of the chosen minus the rejected candidate.
        prompt: `[C]` row of `prompts`.
        prompts: `[P, F_e]` features of prompts.
        tie: `[C]` bool.
        weight: `[C]`.
    """

    difference: Tensor
    prompt: Tensor
    prompts: Tensor
    tie: Tensor
    weight: Tensor

    @classmethod
    def of(cls, comparisons: Comparisons, data: TrainingData, calibration: Calibration) -> ComparisonFeatures:
        """Returns the features of `comparisons`, a part of `data`."""
        features = calibration.candidate(data.vectors.candidates)
        return cls(
            torch.from_numpy(features[comparisons.chosen] - features[comparisons.rejected]),
            torch.from_numpy(comparisons.prompt),
            torch.from_numpy(calibration.prompt(data.vectors.prompts)),
            torch.from_numpy(comparisons.tie),
            torch.from_numpy(comparisons.weight.astype(np.float32)),
        )


class Episodes:
    """Draws episodes from the comparisons of users who have at least two."""

    def __init__(self, comparisons: Comparisons, settings: EpisodeSettings) -> None:
        self._settings = settings
        self._rows = [rows for rows in comparisons.rows_of_users().values() if len(rows) > 1]
        if not self._rows:
            raise ValueError(f"no user has two comparisons among {len(comparisons)}: episodes need a context and a target")

    @property
    def users(self) -> int:
        return len(self._rows)

    def draw(self, rng: np.random.Generator) -> EpisodeBatch:
        """Returns a batch of users drawn with replacement, contexts of log-uniform length."""
        picked = rng.integers(0, len(self._rows), size=self._settings.users)
        lengths = log_uniform(rng, self._settings.max_context, self._settings.users)
        return self._batch([rng.permutation(self._rows[user]) for user in picked], lengths)

    def fixed(self, count: int, *, seed: int, users: int) -> EpisodeBatch:
        """Returns one batch of at most `users` users with exactly `count` context comparisons each, where they have them.

        Above the last of `VALIDATION_COUNTS` only users who have more are taken.
        """
        rng = np.random.default_rng([seed, count])
        everybody = np.random.default_rng(seed).permutation(len(self._rows))
        enough = [user for user in everybody if count <= VALIDATION_COUNTS[-1] or len(self._rows[user]) > count]
        picked = np.sort(np.array(enough[:users], dtype=np.int64))
        return self._batch([rng.permutation(self._rows[user]) for user in picked], np.full(len(picked), count))

    def validation_batches(self, *, users: int = 256) -> list[EpisodeBatch]:
        """Returns the same batches at every call, one for each of `VALIDATION_COUNTS` and what `LONG_COUNTS` can be asked for."""
        long = [count for count in LONG_COUNTS if sum(len(rows) > count for rows in self._rows) >= LEAST_REGULARS]
        return [self.fixed(count, seed=0, users=users) for count in (*VALIDATION_COUNTS, *long)]

    def _batch(self, orders: list[NDArray[np.int64]], lengths: NDArray[np.int64]) -> EpisodeBatch:
        # At least one comparison is left to be predicted.
        contexts = [order[: min(length, len(order) - 1)] for order, length in zip(orders, lengths, strict=True)]
        targets = [order[len(context) :][: self._settings.max_targets] for order, context in zip(orders, contexts, strict=True)]
        return EpisodeBatch(*_padded(contexts), *_padded(targets))


def log_uniform(rng: np.random.Generator, most: int, size: int) -> NDArray[np.int64]:
    """Returns `size` whole numbers in 0..`most`, `1 + n` log-uniform."""
    drawn = np.floor(np.exp(rng.uniform(0.0, np.log(most + 2.0), size))).astype(np.int64) - 1
    return np.clip(drawn, 0, most)


def _padded(rows: list[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    lengths = np.array([len(row) for row in rows])
    # One column at least: an empty axis would need a case of its own in every loss.
    mask = np.arange(max(1, lengths.max()))[None] < lengths[:, None]
    table = np.zeros(mask.shape, dtype=np.int64)
    table[mask] = np.concatenate(rows)
    return torch.from_numpy(table), torch.from_numpy(mask)
