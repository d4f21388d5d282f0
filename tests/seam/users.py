"""Users and pairs that the tests of families share."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from attune.models.seam.families import Families, Row
from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.micro import Micro
from attune.models.seam.registry import KINDS
from tests.seam import examples

LN3 = math.log(3.0)
FAMILY_NAMES = tuple(KINDS)

seeds = st.integers(0, 2**32 - 1)
finite = st.floats(-8, 8, width=32)


def evidence_of(families: Families, rng: np.random.Generator, comparisons: int = 6) -> np.ndarray:
    total = families.prior()
    for _ in range(comparisons):
        total = total + families.learn(examples.row(rng), examples.row(rng), examples.row(rng))
    return total


def hedge_pair(margins: tuple[float, float]) -> tuple[Micro, Row, Row, Row]:
    """A mixture of two heads without a prior opinion, and rows whose margins are exactly these."""
    family = Micro("micro", ("a", "b"), 1.0, HedgeSettings(), np.log([0.5, 0.5]), np.array([True, True]))
    chosen, rejected = {"micro_rewards": np.array(margins)}, {"micro_rewards": np.zeros(2)}
    return family, chosen, rejected, {"micro_gate": np.log([0.5, 0.5])}
