"""The hand-written bank of facts and phrases: its files, and an order of its entries that no seed changes."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any, cast


@cache
def load(name: str) -> dict[str, Any]:
    """Returns `content/<name>.json`, read once."""
    text = resources.files("demo.corpus").joinpath("content", f"{name}.json").read_text(encoding="utf-8")
    return cast("dict[str, Any]", json.loads(text))


def rank(salt: str, text: str) -> bytes:
    """Returns a sort key that is fixed by the content: the same on every machine, unlike `hash`."""
    return hashlib.sha256(f"{salt}\n{text}".encode()).digest()
