"""What a file or folder is that one of our commands or routes writes, and who reads it: for messages about a path in the wrong place.

    path that a command cannot use ─> it_is(path) ─> "; it is a folder of families, which `attune bundle build` … reads"

Looks at names and at the first lines alone. Knows no format further than that: whether a thing is whole is its readers' business.
"""

from __future__ import annotations

import json
import tomllib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GZIP = b"\x1f\x8b"
LOOKED_AT = 1 << 20
"""Bytes of a file that are looked at."""

_MANIFEST = "manifest.json"
_BUNDLE = "a bundle, which `attune serve`, `attune check` and `attune train router` read with --bundle, and `attune bundle show` shows"
_FAMILIES = "a folder of families, which `attune bundle build` packs into a bundle and `attune measure families` measures"
COMPARISONS = "a table of comparisons"
ROSTER = "a roster"
_COMPARISONS = f"{COMPARISONS}, which `attune data check`, `attune train` and `attune users import` read"
_EXPORT = "an export of users, which `attune users import`, `attune train router` and `attune measure policy` read"

# The first name that is there decides, so what is packed comes before its parts.
_FOLDERS: tuple[tuple[str, str], ...] = (
    (_MANIFEST, _BUNDLE),
    ("portfolio.json", "a portfolio, which `attune bundle build --portfolio` and `attune portfolio show` read"),
    ("palm.json", "a portfolio built by `attune portfolio build`, whose roster.json `attune bundle build --roster` reads"),
    ("heads.json", _FAMILIES),
    ("adapter_config.json", "a member's adapter, which a roster names and `attune measure members` reads from the folder above"),
    ("results.json", "a report that `attune measure` wrote for people; no command reads it"),
    ("config.json", "a model, which `attune import reward` reads, and other commands with --trunk or --base"),
    ("roster.json", "a folder with a roster, which `attune serve --roster` and `attune portfolio vllm` read"),
)
_ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".whl"})
_EXPORTED = frozenset({"user", "sum", "comparison", "decision", "last-member", "taken-back", "replayed"})
_KINDS_OF_MEMBERS = frozenset({"local", "openai"})


def it_is(path: str | Path) -> str:
    """Returns what `path` is, as the rest of a sentence that begins with a semicolon; empty where it is nothing of ours."""
    found = recognised(path)
    return f"; it is {found}" if found else ""


def recognised(path: str | Path) -> str:
    """Returns what a path is and who reads it; empty where it is not there, or nothing of ours."""
    try:
        return _of_address(str(path)) or _of_folder(Path(path)) or _of_file(Path(path))
    except (OSError, ValueError, EOFError, zlib.error):  # a path that cannot be one, a file that cannot be read
        return ""


def _of_address(text: str) -> str:
    scheme, colon, _ = text.partition(":/")
    if colon and scheme.lower() in {"http", "https", "s3", "gs", "az", "file"}:
        return "an address; `attune bundle fetch` brings a bundle from there into a folder on this machine"
    return ""


def _of_folder(path: Path) -> str:
    if not path.is_dir():
        return ""
    if (path / "scorer.onnx").is_file() and not (path / _MANIFEST).is_file():  # the manifest is written last
        return "what is left of a bundle whose writing was cut short; build it again"
    for name, what in _FOLDERS:
        if (path / name).is_file():
            return what
    bundles = sorted(found.parent.name for found in path.glob(f"*/{_MANIFEST}"))
    return f"a folder of bundles; name one of them: {', '.join(bundles[-3:])}" if bundles else ""


def _of_file(path: Path) -> str:
    if not path.is_file():
        return ""
    for name, what in _FOLDERS[:5]:
        if path.name == name:
            return f"a part of {what}; name its folder"
    if path.suffix.lower() == ".safetensors" and (path.parent / "heads.json").is_file():
        return f"a part of {_FAMILIES}; name its folder"
    if path.suffix.lower() in _ARCHIVES or path.name.lower().endswith(".tar.gz"):
        return "an archive; unpack it and name the folder"
    content = _beginning(path)
    if path.suffix.lower() == ".toml":
        return _of_document(tomllib.loads(content.decode("utf-8-sig")))
    lines = [line for line in content.decode("utf-8-sig", errors="replace").split("\n", 2)[:2] if line.strip()]
    if lines and (line := _json(lines[0])) is not None and isinstance(line, dict) and not _of_document(line):
        return _of_line(line)
    whole = _json(content.decode("utf-8-sig", errors="replace"))
    return _of_document(whole) if isinstance(whole, dict) else ""


def _of_line(line: Mapping[str, Any]) -> str:
    kinds: tuple[tuple[bool, str], ...] = (
        (isinstance(line.get("type"), str) and line["type"] in _EXPORTED, _EXPORT),
        ("decision_id" in line and "candidates" in line, "a file of decisions, which `attune measure policy --decisions` reads"),
        ("chosen" in line and "rejected" in line, _COMPARISONS),
        ("member" in line and "prompt" in line, "what `attune members measure` keeps beside its --out, and reads itself"),
    )
    return next((what for fits, what in kinds if fits), "")


def _of_document(document: Mapping[str, Any]) -> str:
    values = list(document.values())
    if values and all(isinstance(value, dict) and value.get("kind") in _KINDS_OF_MEMBERS for value in values):
        return f"{ROSTER}, which `attune serve --roster`, `attune bundle build --roster` and `attune members measure --roster` read"
    if isinstance(document.get("members"), dict) and "certificate" in document:
        return "what `attune members measure` found, whose --url sends it to a running server"
    return ""


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        content = stream.read(LOOKED_AT)
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, LOOKED_AT) if content.startswith(GZIP) else content


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
