"""`people.json` in a folder of families: whom training met, so that a measurement can leave them out. Names are kept as hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.seam.documents import read_document

FILE = "people.json"
SCHEMA = 1
DIGITS = 16
"""Of a hash: two of a million people share one with a chance of 3e-8."""


class MetInvalid(ValueError):
    """`people.json` is of another make, or damaged."""


def write_met(folder: Path, users: Iterable[str]) -> None:
    """Writes the people of a training into `folder`."""
    document = {"schema": SCHEMA, "people": sorted({_hashed(user) for user in users})}
    (folder / FILE).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def people_of(comparisons: Comparisons) -> list[str]:
    """Returns the names of all who are known by one."""
    return [comparisons.users[user] for user in np.unique(comparisons.user[~comparisons.anonymous])]


def read_met(folder: Path) -> frozenset[str]:
    """Returns the hashes of the people of a training; none where nobody was met or the folder does not say.

    Raises:
        MetInvalid: the file cannot be used.
    """
    try:
        content = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return frozenset()
    people = read_document(content, file=str(folder / FILE), schema=SCHEMA, invalid=MetInvalid).get("people")
    if not isinstance(people, list) or not all(isinstance(one, str) for one in people):
        raise MetInvalid(f"{folder / FILE} needs 'people', a list of hashes")
    return frozenset(people)


def are_met(users: Sequence[str], met: frozenset[str]) -> NDArray[np.bool_]:
    """Returns for each name whether it is of somebody whom training met."""
    return np.array([bool(met) and _hashed(user) in met for user in users], dtype=np.bool_)


def _hashed(user: str) -> str:
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
