"""A member is a sum: what one answer tells of whoever wrote it, and how such sums are read (reconstruction).

    rewards of an answer, by family ─> EvidenceLayout.evidence ─> one vector, added up wherever it is kept ─> EvidenceLayout.observed

For each family of `K` heads: the rewards, and their products (upper triangle where `K` is at most `MOST_FULL`, else squares). Numbers lie
on a dyadic grid, so that sums of doubles are exact and do not depend on their order. What a sum says of the member's worth is
`member_worth`'s business; this module knows neither members nor users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.families import Families
from attune.models.seam.family import Row

Array = NDArray[np.float64]

VERSION = "m1"
"""Of the vector's layout; sums of another one mean nothing here and are kept under another name."""

MOST_FULL = 32
"""Heads of a family up to which products of different heads are summed: 528 numbers; beyond it their squares alone."""

GRID = 2.0**-20
MOST = 32.0
"""Greatest size of a reward that is summed, products being at most its square: eight million such answers before a sum rounds."""


@dataclass(frozen=True, slots=True)
class ObservedRewards:
    """Answers of one member under one family.

    Attributes:
        count: how many.
        total: `[K]` sum of their rewards.
        products: `[K, K]` sum of their products; diagonal where `K` is above `MOST_FULL`.
    """

    count: float
    total: Array
    products: Array

    @property
    def mean(self) -> Array:
        """`[K]`; zeros of no answers."""
        return self.total / max(self.count, 1e-300) if self.count > 0 else np.zeros_like(self.total)

    def __add__(self, other: ObservedRewards) -> ObservedRewards:
        return ObservedRewards(self.count + other.count, self.total + other.total, self.products + other.products)

    def __sub__(self, other: ObservedRewards) -> ObservedRewards:
        return ObservedRewards(self.count - other.count, self.total - other.total, self.products - other.products)

    def scatter(self) -> Array:
        """Returns `[K, K]` the sum of products of deviations from the mean: within-member variation times its degrees of freedom."""
        centred = self.products - self.count * np.outer(self.mean, self.mean)
        return np.diag(np.diagonal(centred)) if len(self.total) > MOST_FULL else centred


def nothing_observed(heads: int) -> ObservedRewards:
    """Returns what is known of a member that has answered nothing, under a family of so many heads."""
    return ObservedRewards(0.0, np.zeros(heads), np.zeros((heads, heads)))


@dataclass(frozen=True, slots=True)
class EvidenceLayout:
    """Where in the vector which family is: `[K]` rewards and then their products, family after family.

    Attributes:
        heads: family -> `K`, in the order of the vector.
    """

    heads: Mapping[str, int]

    @classmethod
    def of(cls, families: Families) -> EvidenceLayout:
        """Returns the layout of a bundle's families."""
        return cls({name: len(families[name].heads) for name in families.names})

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(map(_size, self.heads.values()))

    def evidence(self, row: Row) -> Array:
        """Returns what an answer adds to its author's sum, `[size]` on the grid.

        Args:
            row: the scorer's outputs for the answer; `<family>_rewards` `[K]` of every family are read.

        Raises:
            KeyError: a family's rewards are missing.
            ValueError: rewards are of another size, or not finite: nothing of them may ever reach a sum.
        """
        return np.concatenate([np.zeros(0), *(_evidence(name, heads, row) for name, heads in self.heads.items())])

    def observed(self, family: str, count: float, vector: Array) -> ObservedRewards:
        """Returns what a sum of `count` answers says under one family.

        Raises:
            ValueError: the vector is not of this layout.
        """
        if vector.shape != (self.size,):
            raise ValueError(f"a member's sum is {vector.shape}; ({self.size},) was expected")
        names = list(self.heads)
        start = sum(_size(self.heads[name]) for name in names[: names.index(family)])
        heads = self.heads[family]
        total, entries = vector[start : start + heads], vector[start + heads : start + _size(heads)]
        if heads > MOST_FULL:
            return ObservedRewards(count, total, np.diag(entries))
        products = np.empty((heads, heads))
        rows, columns = _upper(heads)
        products[rows, columns] = products[columns, rows] = entries
        return ObservedRewards(count, total, products)

    def summed(self, count: float, means: Mapping[str, Array], covariances: Mapping[str, Array]) -> Array:
        """Returns the vector of a member whose answers were measured elsewhere, so that they enter as if they had been added here.

        Args:
            count: of answers.
            means: family -> `[K]` of their rewards.
            covariances: family -> `[K, K]` of their rewards, normalised by `count`.
        """
        parts = []
        for name, heads in self.heads.items():
            products = count * (covariances[name] + np.outer(means[name], means[name]))
            entries = np.diagonal(products) if heads > MOST_FULL else products[_upper(heads)]
            parts.append(np.concatenate([count * means[name], entries]))
        return _on_grid(np.concatenate([np.zeros(0), *parts]))


@cache
def _upper(heads: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns rows and columns of the upper triangle, diagonal included; making them anew takes longer than all the rest."""
    rows, columns = np.triu_indices(heads)
    return rows, columns


def _size(heads: int) -> int:
    return heads + (heads if heads > MOST_FULL else heads * (heads + 1) // 2)


def _evidence(name: str, heads: int, row: Row) -> Array:
    rewards = np.asarray(row[f"{name}_rewards"], dtype=np.float64)
    if rewards.shape != (heads,) or not np.isfinite(rewards).all():
        raise ValueError(
            f"rewards of {name} are {rewards.shape}, {int(np.sum(~np.isfinite(rewards)))} of them not finite; ({heads},) is read"
        )
    rewards = _on_grid(np.clip(rewards, -MOST, MOST))
    products = rewards**2 if heads > MOST_FULL else np.outer(rewards, rewards)[_upper(heads)]
    return np.concatenate([rewards, _on_grid(products)])


def _on_grid(numbers: Array) -> Array:
    rounded: Array = np.rint(numbers / GRID) * GRID
    return rounded + 0.0
