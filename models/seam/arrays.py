"""What is asked of arrays before they are trusted: shapes that agree and numbers that are numbers.

Asked once, where an object is built, so that a damaged file is refused with the array's name and nothing is asked per event.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def expect_shape(name: str, array: Array | NDArray[np.bool_], shape: tuple[int, ...]) -> None:
    """Raises ValueError that names the array unless it has this shape."""
    if array.shape != shape:
        raise ValueError(f"array {name} is {array.shape}; {shape} was expected")


def expect_finite(**arrays: Array) -> None:
    """Raises ValueError that names the first array with an entry that is not finite."""
    for name, array in arrays.items():
        broken = int(np.sum(~np.isfinite(array)))
        if broken:
            raise ValueError(f"array {name} has {broken} of {array.size} entries that are not finite")
