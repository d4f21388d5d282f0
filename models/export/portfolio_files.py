"""What a bundle gets of its members: `portfolio.json`, `values.npz`, the roster, and the folders of local models that it names.

Paths in a roster are relative to the folder that it stands in, and stay so inside the bundle; a model that is elsewhere (an absolute
path, a hub id, a server) is left where it is. What a description means is the service's business, and checked when it loads.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from attune.models.seam.bundle import PORTFOLIO, VALUES
from attune.models.seam.json_lines import kind_of

ROSTER = "roster.json"
_FOLDERS = ("base", "adapter")


class MembersInvalid(ValueError):
    """A roster or a portfolio folder that nothing can be taken from; the message names the file and the member."""


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """Files of a bundle by their path inside it, the roster's names in order, and the family of the portfolio's certificate."""

    files: Mapping[str, bytes | Path]
    roster: tuple[str, ...]
    certified_family: str | None


def read_members(portfolio: Path | None, roster: Path | None) -> MemberFiles:
    """Returns what there is of members in a portfolio's folder and a roster's file; nothing for None and None.

    Raises:
        MembersInvalid: the folder has no portfolio, a file is not what its name says, a name stands twice, or a local member's folder is
            missing.
    """
    files: dict[str, bytes | Path] = {}
    certified = None
    if portfolio is not None:
        if not (portfolio / PORTFOLIO).is_file():
            raise MembersInvalid(
                f"{portfolio} has no {PORTFOLIO}: it is no portfolio, it is not finished, or it was built for rewards in Python "
                f"(without --families), and then --roster {portfolio / ROSTER} takes its members at the prior"
            )
        content = (portfolio / PORTFOLIO).read_bytes()
        files[PORTFOLIO] = content
        document = _object(content, str(portfolio / PORTFOLIO))
        certificate = document.get("certificate")
        certified = str(certificate.get("family")) if isinstance(certificate, dict) else None
        if (portfolio / VALUES).is_file():
            files[VALUES] = (portfolio / VALUES).read_bytes()
        if roster is None and (portfolio / ROSTER).is_file():
            roster = portfolio / ROSTER
    described: dict[str, Any] = {}
    if roster is not None:
        try:
            content = roster.read_bytes()
        except OSError as error:
            raise MembersInvalid(f"{roster} cannot be read: {error.strerror}") from error
        described = _toml(content, str(roster)) if roster.suffix == ".toml" else _object(content, str(roster))
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in described.items())
        files[ROSTER] = ("{\n" + lines + "\n}\n").encode()
        for name, entry in described.items():
            files |= _folders(name, entry, roster.parent)
    return MemberFiles(files, tuple(described), certified)


def without_certificate(content: bytes) -> bytes:
    """Returns a `portfolio.json` without its certificate."""
    document = json.loads(content) | {"certificate": None}
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _folders(name: str, entry: object, root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if not isinstance(entry, dict) or entry.get("kind") != "local":
        return found
    for field in _FOLDERS:
        path = entry.get(field)
        if not isinstance(path, str) or Path(path).is_absolute():
            continue
        if not (root / path).is_dir():
            raise MembersInvalid(f"member {name!r}: {field} {path!r} is no folder below {root}; name one there, or an absolute path")
        if ".." in PurePosixPath(path).parts:
            raise MembersInvalid(f"member {name!r}: {field} {path!r} leads out of {root}; an absolute path stays where it is")
        found |= {file.relative_to(root).as_posix(): file for file in sorted((root / path).rglob("*")) if file.is_file()}
    return found


def _object(content: bytes, name: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [key for key, _ in pairs]
        twice = sorted({key for key in names if names.count(key) > 1})
        if twice:
            raise MembersInvalid(f"{name}: {', '.join(map(repr, twice))} stands twice in one object")
        return dict(pairs)

    try:
        document = json.loads(content, object_pairs_hook=once)
    except MembersInvalid:
        raise
    except (ValueError, RecursionError) as error:
        raise MembersInvalid(f"{name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise MembersInvalid(f"{name} holds {kind_of(document)}; an object is needed")
    return document


def _toml(content: bytes, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise MembersInvalid(f"{name} is not TOML: {error}") from error
