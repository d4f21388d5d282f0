"""Families on disk: `families.json` names and shapes, `families.npz` arrays (`<family>/<array>`).

Writing and reading are inverse to each other; a file that does not fit is refused with the family and the array named.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.documents import read_document
from attune.models.seam.families import Families, Family
from attune.models.seam.family_format import Stored
from attune.models.seam.member_effects import MemberEffects
from attune.models.seam.registry import KINDS
from attune.models.seam.trust import ALWAYS, NEVER

Array = NDArray[np.float64]

SCHEMA = 2

_TRUST_WORDS = {ALWAYS: "always", NEVER: "never"}  # JSON has no infinity


class FamiliesInvalid(ValueError):
    """`families.json` and `families.npz` do not describe families that this version can serve."""


def write_families(
    families: Sequence[Family], default: str, trust: Mapping[str, float] | None = None, effects: MemberEffects | None = None
) -> dict[str, bytes]:
    """Returns `families.json` and `families.npz` as file contents.

    The npz has fixed timestamps inside (numpy writes 1980-01-01), so equal families give equal bytes.

    Args:
        families: in the order in which they share the evidence vector.
        default: the family that serves where none is asked for.
        trust: see `Families`; a family that is not named is always trusted.
        effects: of members, beside one of the families; None keeps none.

    Raises:
        FamiliesInvalid: names repeat or hold a slash, the default is none of them, or a family has no file format.
    """
    _expect_names([family.name for family in families], default)
    entries: list[dict[str, Any]] = []
    arrays: dict[str, Array] = {}
    for family in families:
        form = next((kind.form for kind in KINDS.values() if type(family) is kind.form.type), None)
        if form is None:
            raise FamiliesInvalid(f"family {family.name!r} is a {type(family).__name__}, which has no file format")
        entry, mine = form.write(family)
        entry |= {"name": family.name, "heads": list(family.heads), "evidence_size": family.evidence_size, "kind": form.kind}
        entry["trust"] = _TRUST_WORDS.get(given := (trust or {}).get(family.name, ALWAYS), given)
        entries.append(entry)
        arrays |= {f"{family.name}/{name}": value for name, value in mine.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.array(value, dtype=np.float64, order="C") for name, value in arrays.items()})  # type: ignore[arg-type]  # numpy's stub takes the names for its allow_pickle flag
    document: dict[str, Any] = {"schema": SCHEMA, "default": default, "families": entries}
    if effects is not None:
        document["member_effects"] = asdict(effects)
    return {"families.json": (json.dumps(document, indent=1, sort_keys=True) + "\n").encode(), "families.npz": buffer.getvalue()}


def read_families(document: bytes, arrays: bytes) -> tuple[Families, str]:
    """Returns the families and the name of the default one.

    Raises:
        FamiliesInvalid: unknown schema or kind, a missing array, or shapes that do not agree; the message names which.
    """
    data = read_document(document, file="families.json", schema=SCHEMA, invalid=FamiliesInvalid)
    entries = data.get("families")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries):
        raise FamiliesInvalid("families.json needs 'families', a list of entries with a 'name' each")
    _expect_names([entry["name"] for entry in entries], data.get("default"))
    stored = _read_arrays(arrays)
    families = [_family(entry, stored) for entry in entries]
    effects = data.get("member_effects")
    try:
        read = None if effects is None else MemberEffects(**effects)
        return Families(families, {entry["name"]: _trust(entry) for entry in entries}, read), data["default"]
    except (TypeError, ValueError) as error:
        if isinstance(error, FamiliesInvalid):
            raise
        raise FamiliesInvalid(f"families.json: {error}") from error


def _read_arrays(content: bytes) -> dict[str, Array]:
    # Not np.load: it takes some damage for a pickle, and reports the rest as four kinds of error without the array's name.
    stored: dict[str, Array] = {}
    name = "the archive"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                with archive.open(name) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                stored[name.removesuffix(".npy")] = np.asarray(array, dtype=np.float64)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise FamiliesInvalid(f"families.npz: {name.removesuffix('.npy')} cannot be read: {error}") from error
    return stored


def _family(entry: Mapping[str, Any], stored: Mapping[str, Array]) -> Family:
    name = entry["name"]
    mine = {key.removeprefix(f"{name}/"): value for key, value in stored.items() if key.startswith(f"{name}/")}
    try:
        parts = Stored(name, tuple(map(str, entry["heads"])), entry, mine)
        if entry["kind"] not in KINDS:
            raise ValueError(f"kind {entry['kind']!r} is unknown; this version serves {', '.join(KINDS)}")  # noqa: TRY301 - named below
        family = KINDS[entry["kind"]].form.read(parts)
        size = entry["evidence_size"]
    except KeyError as error:
        raise FamiliesInvalid(f"family {name!r} lacks {error}") from error
    except (OverflowError, TypeError, ValueError) as error:
        raise FamiliesInvalid(f"family {name!r}: {error}") from error
    if family.evidence_size != size:
        raise FamiliesInvalid(f"family {name!r} reads {family.evidence_size} doubles of evidence; its entry says {size}")
    return family


def _trust(entry: Mapping[str, Any]) -> float:
    said = entry.get("trust")
    words = {word: value for value, word in _TRUST_WORDS.items()}
    if isinstance(said, str) and said in words:
        return words[said]
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        raise FamiliesInvalid(f"family {entry['name']!r} has trust {said!r}; a number of nats, or one of {', '.join(words)}, is needed")
    return float(said)


def _expect_names(names: Sequence[str], default: object) -> None:
    if len(set(names)) != len(names) or not all(name and "/" not in name for name in names):
        raise FamiliesInvalid(f"families need names of their own without '/'; they are {list(names)}")
    if default not in names:
        raise FamiliesInvalid(f"the default family {default!r} is not one of {list(names)}")
