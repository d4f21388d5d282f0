"""`values.npz`: what each member is worth for a given prompt, a linear head a member and family on the prompt's pooled vector.

The vector is the scorer graph's output `POOLED` of the prompt's row; the heads are numpy, so that a member is added, renamed or left out
without a graph, an export or torch. `M` members, `K` heads of a family, `D` size of the vector. The means over prompts are not here:
`portfolio.json` has them.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.arrays import expect_finite, expect_shape
from attune.models.seam.json_lines import parse_json

Array = NDArray[np.float64]

POOLED = "pooled"
"""Output of the scorer graph that value heads read: the row's pooled vector `[D]`."""

_MEMBERS = "members"
_GAIN = "heldout_gain"
LEAST_SHARE = 0.01
"""Of what choosing among the members is worth, the least that the prompt must add for a pass through the trunk to pay."""


@dataclass(frozen=True, slots=True)
class ValueHeads:
    """One family's value heads, `weight` `[M, K, D]` and `bias` `[M, K]`, in the order of the members.

    Attributes:
        heldout_gain: reward that looking at the prompt gained people on prompts that the heads were not fitted on, as against the member
            that is usually best; None where nobody measured it.
        heldout_error: its standard error over prompts.
        heldout_stake: reward that the member who is usually best gives people over the average member: what is at stake at all.

    Raises:
        ValueError: the shapes do not agree, or a number is not finite.
    """

    weight: Array
    bias: Array
    heldout_gain: float | None = None
    heldout_error: float = 0.0
    heldout_stake: float = 0.0

    @property
    def decides(self) -> bool:
        """Whether the prompt is worth a look: nobody measured it, or it gained more than chance (one-sided, 95 %) and than a trifle."""
        if self.heldout_gain is None:
            return True
        return self.heldout_gain > max(1.645 * self.heldout_error, LEAST_SHARE * self.heldout_stake)

    def __post_init__(self) -> None:
        if self.weight.ndim != 3:
            raise ValueError(f"weight is {self.weight.shape}; (members, heads, vector) was expected")
        expect_shape("bias", self.bias, self.weight.shape[:2])
        expect_finite(weight=self.weight, bias=self.bias)

    def at(self, vector: NDArray[np.float32]) -> Array:
        """Returns the predicted rewards `[M, K]` of the members for a prompt with this pooled vector `[D]`.

        Raises:
            ValueError: the vector is of another size.
        """
        exact = np.asarray(vector, dtype=np.float64)
        expect_shape(POOLED, exact, self.weight.shape[2:])
        predicted: Array = self.weight @ exact + self.bias
        return predicted

    def of(self, chosen: Sequence[int | None]) -> ValueHeads:
        """Returns the heads of these members by index; None is one of whom nothing is known, who gets the mean of all."""
        rest = (self.weight.mean(axis=0), self.bias.mean(axis=0)) if len(self.weight) else None
        if rest is None:
            return ValueHeads(np.zeros((len(chosen), *self.weight.shape[1:])), np.zeros((len(chosen), *self.bias.shape[1:])))
        parts = [rest if index is None else (self.weight[index], self.bias[index]) for index in chosen]
        weight = np.array([part[0] for part in parts]).reshape(-1, *self.weight.shape[1:])
        bias = np.array([part[1] for part in parts]).reshape(-1, *self.bias.shape[1:])
        return replace(self, weight=weight, bias=bias)


def write_values(members: Sequence[str], heads: Mapping[str, ValueHeads]) -> bytes:
    """Returns the contents of `values.npz`, float32; equal heads give equal bytes.

    Raises:
        ValueError: a family's heads are not of these members.
    """
    arrays: dict[str, NDArray[np.float32]] = {}
    for family, head in heads.items():
        expect_shape(f"bias of {family}", head.bias, (len(members), head.bias.shape[1]))
        arrays |= {f"{family}/weight": head.weight.astype(np.float32), f"{family}/bias": head.bias.astype(np.float32)}
        if head.heldout_gain is not None:
            arrays[f"{family}/{_GAIN}"] = np.array([head.heldout_gain, head.heldout_error, head.heldout_stake], dtype=np.float32)
    names = np.frombuffer(json.dumps(list(members)).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **{_MEMBERS: names}, **{name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})  # type: ignore[arg-type]  # numpy's stub takes the names for its allow_pickle flag
    return buffer.getvalue()


def read_values(content: bytes) -> tuple[tuple[str, ...], dict[str, ValueHeads]]:
    """Returns the members' names and every family's heads, as `write_values` wrote them.

    Raises:
        ValueError: the file is damaged, or its arrays do not fit each other; the message names it and the family.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            members = tuple(map(str, parse_json(arrays[_MEMBERS].tobytes())))
            stored = {name: np.asarray(arrays[name], dtype=np.float64) for name in arrays.files if name != _MEMBERS}
    except (AttributeError, KeyError, OSError, EOFError, MemoryError, TypeError, ValueError, struct.error, zipfile.BadZipFile) as error:
        raise ValueError(f"values.npz cannot be read: {error}") from error
    heads: dict[str, ValueHeads] = {}
    for family in sorted({name.rsplit("/", 1)[0] for name in stored}):
        try:
            gain = stored.get(f"{family}/{_GAIN}")  # files of before did not say
            if gain is not None:
                expect_shape(_GAIN, gain, (3,))
                expect_finite(heldout_gain=gain)
            measured = () if gain is None else tuple(map(float, gain))
            heads[family] = ValueHeads(stored[f"{family}/weight"], stored[f"{family}/bias"], *measured)
            expect_shape("bias", heads[family].bias, (len(members), heads[family].bias.shape[1]))
        except KeyError as error:
            raise ValueError(f"values.npz: family {family!r} lacks {error}") from error
        except ValueError as error:
            raise ValueError(f"values.npz: family {family!r}: {error}") from error
    return members, heads
