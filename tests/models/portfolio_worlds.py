"""Small random worlds in which the truth about a portfolio can be computed, for the tests of models/portfolio."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attune.models.portfolio.oracles import BestOfN, Oracle, OracleFailed, Solution

Array = NDArray[np.float64]


def best_of_n(seed: int, dimensions: int = 2, *, prompts: int = 12, responses: int = 6, beta: float = 0.0) -> BestOfN:
    return BestOfN(np.random.default_rng(seed).beta(1.0, 2.0, size=(prompts, responses, dimensions)), beta)


def users(dimensions: int, count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).dirichlet(np.full(dimensions, 0.5), size=count)


@dataclass
class Counting:
    """An oracle that counts, and fails at the calls it is told to."""

    oracle: Oracle
    fails_at: tuple[int, ...] = ()
    asked: list[Array] = field(default_factory=list)

    @property
    def dimensions(self) -> int:
        return self.oracle.dimensions

    @property
    def beta(self) -> float:
        return self.oracle.beta

    def solve(self, weights: Array) -> Solution:
        self.asked.append(weights)
        if len(self.asked) in self.fails_at:
            raise OracleFailed(f"call {len(self.asked)} ran out of memory")
        return self.oracle.solve(weights)
