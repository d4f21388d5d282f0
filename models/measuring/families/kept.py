"""What one run of `train families` has finished and the next need not do again: families as they are trained, folds as measured.

    <cache>/folds/<key>-<fold>.json          what strangers were predicted to choose in a fold
    <cache>/folds/<key>-<part>/<family>/     heads of one family, of a fold that is not measured yet or of those that are kept

The key is a hash of the table, the trunk, its template, all settings and the version: whatever changes makes everything new. What
cannot be read, because a run was killed while it was written, counts as not there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attune.models.measuring.families.curves import Observed
from attune.models.measuring.report_files import write_json
from attune.models.seam.staging import put_in_place, staging_folder
from attune.models.training.heads import HeadsInvalid, TrainedFamily, load_heads, save_heads
from attune.models.training.learner import Predicted

FOLDER = "folds"
"""In the cache."""

LAST = "kept"
"""The part that is no fold: the families that serve."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one training.

    Attributes:
        folder: in the cache; None keeps nothing.
        key: of the training, see `training_key`.
    """

    folder: Path | None
    key: str

    def family(self, part: str, name: str, train: Callable[[], TrainedFamily]) -> TrainedFamily:
        """Returns the family `name` of `part` as it was kept, or as `train` returns it, which is kept from then on.

        Either way it is what was read from the disk, so that a run that was broken off finds what another one would have found.
        """
        if self.folder is None:
            return train()
        place = self._part(part) / name
        known = _read_family(place)
        if known is not None:
            return known
        trained = train()
        with staging_folder(place.parent) as staging:
            save_heads(staging, [trained], name)
            put_in_place(staging, place, lambda there: _read_family(there) is not None)
        return _read_family(place) or trained

    def fold(self, part: str) -> Observed | None:
        """Returns a fold that was kept; None where there is none, or none that can be read."""
        if self.folder is None:
            return None
        try:
            kept = json.loads(self._part(part).with_suffix(".json").read_text(encoding="utf-8"))
            said = {
                name: [[Predicted(np.array(one), np.zeros(len(one))) for one in user] for user in users]
                for name, users in ((name, kept["said"][name]) for name in kept["learners"])
            }
            return Observed(tuple(kept["counts"]), tuple(kept["users"]), said, int(kept["skipped"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def keep_fold(self, part: str, observed: Observed) -> None:
        """Keeps what a curve needs of a fold; its families are needed no more."""
        if self.folder is None:
            return
        said = {name: [[one.probabilities.tolist() for one in user] for user in users] for name, users in observed.said.items()}
        document = {"counts": list(observed.counts), "users": list(observed.users), "said": said, "skipped": observed.skipped}
        document["learners"] = list(said)  # in the order of a report; the keys of an object are sorted
        write_json(self._part(part).with_suffix(".json"), document)
        shutil.rmtree(self._part(part), ignore_errors=True)

    def _part(self, part: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.key}-{part}"


def training_key(**what: Any) -> str:
    """Returns the name under which a training is kept: another table, trunk, setting or version of this package is another one."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read_family(folder: Path) -> TrainedFamily | None:
    try:
        trained, _ = load_heads(folder)
    except (HeadsInvalid, OSError, ValueError):
        return None
    return trained[0] if len(trained) == 1 else None
