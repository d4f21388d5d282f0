"""Imported heads beside which families are trained: read from the folder that `attune import reward` wrote, and kept as they are.

folder ─> trunk (the reward model up to its final layer), imported family, provenance ─> `train_own` ─> one folder with all of them
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attune.models.data.trunk import Trunk
from attune.models.data.trunk_file import load_trunk_of
from attune.models.seam.artefacts import it_is
from attune.models.seam.evidence import MOST_NUMBERS
from attune.models.training.heads import HeadsInvalid, TrainedFamily, load_heads
from attune.models.training.reward_model_family import NAME

PROVENANCE = "provenance.json"

ROOM = 640
"""Numbers of a user that families may take which are trained unasked: `additive` with 32 axes, `vrf`, and their losses."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Imported families, the content of their provenance file (empty where there is none), and a digest of their weights."""

    families: Sequence[TrainedFamily]
    provenance: bytes
    sha256: str


def read_beside(folder: Path) -> tuple[Beside, Trunk]:
    """Returns what a folder has of imported heads, and the trunk on which they and all that is trained beside them stand.

    Raises:
        HeadsInvalid: the folder has no imported head, or more than leave room for others.
        TrunkUnavailable: the reward model is not where it was, or another one is there.
    """
    trained, _ = load_heads(folder)
    kept = tuple(one for one in trained if one.family.name == NAME)
    if not kept:
        names = ", ".join(one.family.name for one in trained)
        raise HeadsInvalid(f"{folder} has no head that `attune import reward` wrote; it has {names}{it_is(folder)}")
    if (taken := sum(one.family.evidence_size for one in kept)) > MOST_NUMBERS - ROOM:
        raise HeadsInvalid(
            f"{folder} has {sum(len(one.family.heads) for one in kept)} imported heads, which take {taken:,} numbers of a user; "
            f"{MOST_NUMBERS:,} can be kept, and what is trained beside them takes up to {ROOM}"
        )
    digest = hashlib.sha256()
    for one in kept:
        for name, tensor in sorted(one.heads.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    file = folder / PROVENANCE
    beside = Beside(kept, file.read_bytes() if file.is_file() else b"", digest.hexdigest())
    return beside, load_trunk_of(folder)
