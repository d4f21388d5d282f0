"""Comparisons that a deployment logged: what `GET /users/{user}/export` writes, one or many users in a file, as records.

    {"type": "user", "id": …}  ─> whose lines follow      {"type": "comparison", …}  ─> a record      {"type": "taken-back", …}  ─> one less

Sums and decisions are passed over, and so are comparisons whose texts were not kept. Lines without a type are taken for plain
records with `prompt`, `chosen`, `rejected` and, if they like, `user`, `context` and `tie`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from attune.models.data.preferences import Comparison, ComparisonInvalid

SHOWN = 5
"""Bad lines that an error names; the others are counted."""


@dataclass(frozen=True, slots=True)
class Logged:
    """Records in their order, and how many comparisons were passed over because their texts were not kept."""

    records: tuple[Comparison, ...]
    without_texts: int


def read_logged(path: Path) -> Logged:
    """Returns the comparisons in a JSONL file.

    Raises:
        ComparisonInvalid: a line is not an object, lacks a text, or is of a wrong type; the message names lines and fields.
        FileNotFoundError: there is no such file.
    """
    reader = _Reader()
    bad: list[str] = []
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ComparisonInvalid(f"holds a {type(entry).__name__}; an object is needed")
                reader.read(entry, number)
            except ValueError as error:
                bad.append(f"line {number}: {error}")
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ComparisonInvalid(f"{path.name}: {'; '.join(bad[:SHOWN])}{more}")
    return Logged(tuple(reader.records.values()), reader.without_texts)


@dataclass(slots=True)
class _Reader:
    """Goes through the lines in order: whose they are is said above them."""

    user: str = "anybody"
    records: dict[tuple[str, str], Comparison] = field(default_factory=dict)
    without_texts: int = 0

    def read(self, entry: Mapping[str, Any], number: int) -> None:
        match entry.get("type"):
            case "user":
                self.user = _text(entry, "id")
            case "taken-back":
                self.records.pop((self.user, _text(entry, "event_id")), None)
            case "comparison":
                if not all(entry.get(name) for name in ("prompt", "chosen_text", "rejected_text")):
                    self.without_texts += 1
                    return
                key = self.user, str(entry.get("event_id", number))
                self.records[key] = _record(entry, self.user, chosen="chosen_text", rejected="rejected_text")
            case "sum" | "decision":
                pass
            case None:
                own = str(entry.get("user", self.user))
                self.records[own, f"line {number}"] = _record(entry, own, chosen="chosen", rejected="rejected")
            case kind:
                raise ComparisonInvalid(f"type is {kind!r}; user, comparison, taken-back, sum, decision or none is known")


def _record(entry: Mapping[str, Any], user: str, *, chosen: str, rejected: str) -> Comparison:
    context = entry.get("context")
    if context is not None and not isinstance(context, str):
        raise ComparisonInvalid(f"context is a {type(context).__name__}; a text or null is needed")
    tie = entry.get("tie", False)
    if not isinstance(tie, bool):
        raise ComparisonInvalid(f"tie is {tie!r}; true or false is needed")
    observed = entry.get("observed_at")
    time_s = datetime.fromisoformat(observed).timestamp() if isinstance(observed, str) else None
    texts = _text(entry, "prompt"), _text(entry, chosen), _text(entry, rejected)
    return Comparison(user, *texts, tie=tie, context=context or None, time_s=time_s)


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ComparisonInvalid(f"{name} is {value!r}; a text that is not blank is needed")
    return value
