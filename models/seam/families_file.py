"""Families on disk: `families.json` names and shapes, `families.npz` arrays (`<family>/<array>`).

Writing and reading are inverse to each other; a file that does not fit is refused with the family and the array named.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.seam.families import BradleyTerry, Families, Family, Micro, Vrf
from models.seam.gaussian import Bases, PairEncoder
from models.seam.hedge import HedgeSettings

Array = NDArray[np.float64]


class FamiliesInvalid(ValueError):
    """`families.json` and `families.npz` do not describe families that this version can serve."""


def write_families(families: Sequence[Family], default: str) -> dict[str, bytes]:
    """Returns `families.json` and `families.npz` as file contents.

    The npz has fixed timestamps inside (numpy writes 1980-01-01), so equal families give equal bytes.
    """
    entries: list[dict[str, Any]] = []
    arrays: dict[str, Array] = {}
    for family in families:
        entry: dict[str, Any] = {"name": family.name, "heads": list(family.heads), "evidence_size": family.evidence_size}
        match family:
            case BradleyTerry():
                entry |= {"kind": "bradley_terry", "logit_scale": family.logit_scale}
            case Micro():
                entry |= {"kind": "micro", "logit_scale": family.logit_scale, "eta": family.settings.eta, "cap": family.settings.cap}
                arrays |= {f"{family.name}/log_prior": family.log_prior, f"{family.name}/mask": family.mask.astype(np.float64)}
            case Vrf():
                entry |= {"kind": "vrf", "logit_scale": family.logit_scale, "tau": family.bases.tau}
                named = {"base_means": family.bases.means, "base_stds": family.bases.stds, **family.encoder.to_arrays()}
                arrays |= {f"{family.name}/{name}": value for name, value in named.items()}
            case _:
                raise FamiliesInvalid(f"family {family.name!r} is a {type(family).__name__}, which has no file format")
        entries.append(entry)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its allow_pickle flag
    document = {"schema": 1, "default": default, "families": entries}
    return {"families.json": (json.dumps(document, indent=1, sort_keys=True) + "\n").encode(), "families.npz": buffer.getvalue()}


def read_families(document: bytes, arrays: bytes) -> tuple[Families, str]:
    """Returns the families and the name of the default one.

    Raises:
        FamiliesInvalid: unknown schema or kind, a missing array, or shapes that do not agree; the message names which.
    """
    try:
        data = json.loads(document)
        with np.load(io.BytesIO(arrays), allow_pickle=False) as loaded:
            stored: dict[str, Array] = {name: np.asarray(loaded[name], dtype=np.float64) for name in loaded.files}
    except (ValueError, OSError) as error:
        raise FamiliesInvalid(f"families.json or families.npz cannot be read: {error}") from error
    if data.get("schema") != 1:
        raise FamiliesInvalid(f"families.json has schema {data.get('schema')!r}; this version reads 1")
    families = [_family(entry, stored) for entry in data["families"]]
    default = data["default"]
    if default not in {family.name for family in families}:
        raise FamiliesInvalid(f"the default family {default!r} is not one of {[family.name for family in families]}")
    return Families(families), default


def _family(entry: Mapping[str, Any], stored: Mapping[str, Array]) -> Family:
    name, heads = entry["name"], tuple(entry["heads"])
    mine = {key.removeprefix(f"{name}/"): value for key, value in stored.items() if key.startswith(f"{name}/")}
    try:
        family: Family
        match entry["kind"]:
            case "bradley_terry":
                family = BradleyTerry(name, heads, entry["logit_scale"])
            case "micro":
                settings = HedgeSettings(entry["eta"], entry["cap"])
                family = Micro(name, heads, entry["logit_scale"], settings, mine["log_prior"], mine["mask"] > 0)
                _expect(name, "log_prior", mine["log_prior"], (len(heads),))
                _expect(name, "mask", mine["mask"], (len(heads),))
                if not family.mask.any():
                    raise FamiliesInvalid(f"family {name!r} has all {len(heads)} heads masked")
            case "vrf":
                bases = Bases(mine["base_means"], mine["base_stds"], entry["tau"])
                family = Vrf(name, heads, entry["logit_scale"], bases, PairEncoder.from_arrays(mine))
                latent = bases.means.shape[1]
                _expect(name, "base_means", bases.means, (len(heads), latent))
                _expect(name, "vote", mine["vote"], (latent, mine["vote"].shape[-1]))
                _expect(name, "precision_bias", mine["precision_bias"], (latent,))
            case kind:
                raise FamiliesInvalid(f"family {name!r} is of kind {kind!r}; this version serves bradley_terry, micro and vrf")
    except KeyError as error:
        raise FamiliesInvalid(f"family {name!r} lacks {error}") from error
    if family.evidence_size != entry["evidence_size"]:
        raise FamiliesInvalid(f"family {name!r} reads {family.evidence_size} doubles of evidence; its entry says {entry['evidence_size']}")
    return family


def _expect(family: str, name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise FamiliesInvalid(f"array {family}/{name} is {array.shape}; {shape} was expected")
