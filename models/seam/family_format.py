"""How one kind of family is kept: what goes into its entry of `families.json`, and which arrays into `families.npz`.

A family's module says it in a `Format`; `families_file` lists the formats that this version serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.family import Family

Array = NDArray[np.float64]
Written = tuple[dict[str, Any], dict[str, Array]]
"""Numbers and texts for the entry, and arrays by name."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What is on disk of one family: its name and heads, its whole entry, and its arrays by name."""

    name: str
    heads: tuple[str, ...]
    entry: Mapping[str, Any]
    arrays: Mapping[str, Array]

    @property
    def logit_scale(self) -> float:
        """The entry's `logit_scale`; a `KeyError` where it has none."""
        return float(self.entry["logit_scale"])


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of family on disk.

    Attributes:
        kind: names it in `families.json`.
        type: its class.
        write: family -> what the entry holds beside name, heads, evidence size and kind; and its arrays.
        read: the inverse; a `KeyError` names what is missing, a `ValueError` says what does not fit.
    """

    kind: str
    type: type
    write: Callable[[Any], Written]
    read: Callable[[Stored], Family]
