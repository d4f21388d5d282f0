"""Every kind of family that this version serves and trains, one line each; nothing else in the library names them all.

A family is added by its module beside this one (a `Family` and a `FORMAT`), its trainer in `models/training`, and a line here.
Trainers are named and not imported: they need torch, and the seam needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attune.models.seam import additive, attributes, bradley_terry, micro, sparse_moe, sparserm, vrf
from attune.models.seam.family_format import Format


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of family.

    Attributes:
        form: names it and keeps it in files.
        trainer: where the function is that trains it on comparisons alone, as `module:name` (see `models.training.trainers`); empty for a
            kind that needs more than comparisons.
        by_default: whether `attune train families` trains it where no family is named.
    """

    form: Format
    trainer: str = ""
    by_default: bool = False


KINDS: dict[str, Kind] = {
    kind.form.kind: kind
    for kind in (
        Kind(bradley_terry.FORMAT, "attune.models.training.bradley_terry:train_in_line_up", by_default=True),
        Kind(micro.FORMAT, "attune.models.training.micro:train_in_line_up"),
        Kind(sparse_moe.FORMAT, "attune.models.training.sparse_moe:train_in_line_up"),
        # These two did best on every set that was measured, beside everybody's head.
        Kind(vrf.FORMAT, "attune.models.training.vrf:train_in_line_up", by_default=True),
        Kind(additive.FORMAT, "attune.models.training.additive:train_in_line_up", by_default=True),
        Kind(attributes.FORMAT),  # learns from ratings
        Kind(sparserm.FORMAT),  # learns from the states of every token
    )
}
"""By name, in the order in which they are trained."""


def expect_trainable(names: Sequence[str]) -> None:
    """Raises a `ValueError` that names those of `names` which no trainer learns from comparisons alone, and those that there are."""
    there = [name for name, kind in KINDS.items() if kind.trainer]
    if unknown := sorted(set(names) - set(there)):
        raise ValueError(f"{', '.join(name or 'an empty name' for name in unknown)}: no such family; there are {', '.join(there)}")
