"""Values of settings as people write them: spaces and carriage returns of env files, any case, lists with commas, hosts.

Pure functions of text; they know no setting beyond the name that they are given.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LISTS = frozenset({"shadow_families", "allowed_hosts", "cors_origins"})
_AS_GIVEN = frozenset({"user_secret"})
"""Values of which every character counts: a secret that loses a space makes other ids of the same users."""
MOST_CHARS = 60
_HOST = re.compile(r"\*|[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s?#@]+")


def as_meant(name: str, text: str, annotation: object) -> str | tuple[str, ...]:
    """Returns a setting's text without what stands around it; a list at its commas; a host, and a word of a `Literal`, in lower case."""
    if name in _AS_GIVEN:
        return text
    text = text.strip()
    if name in LISTS:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if name == "host":
        return text.lower().removeprefix("[").removesuffix("]")
    return text.lower() if text.lower() in getattr(annotation, "__args__", ()) else text


def check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Returns them if each can be what a `Host` names.

    Raises:
        ValueError: one can never be.
    """
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host[:80]!r} is no name of a host; write it without scheme, port and path, an IPv6 address in brackets")
    return hosts


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Returns them if each can be what an `Origin` names.

    Raises:
        ValueError: one can never be.
    """
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin[:80]!r} is no origin; write scheme://host or scheme://host:port in lower case, without a path")
    return origins


def read_toml(path: Path) -> dict[str, object]:
    """Returns what the file holds, with or without a byte-order mark.

    Raises:
        OSError, ValueError, RecursionError: it cannot be read.
    """
    return tomllib.loads(path.read_text(encoding="utf-8-sig"))


def said_of(error: Mapping[str, Any]) -> str:
    """Returns what is wrong with a value, in our words, of one of pydantic's errors; a text that is not to be a number may be a secret."""
    wanted, given = str(error["msg"]).removeprefix("Value error, "), error["input"]
    if not wanted.startswith("Input should "):
        return wanted
    wanted = "must " + wanted.removeprefix("Input should ").partition(", unable to ")[0]
    told = not str(error["type"]).startswith("string") and isinstance(given, str | int | float)
    return f"is {str(given)[:MOST_CHARS]!r}; {wanted}" if told else wanted
