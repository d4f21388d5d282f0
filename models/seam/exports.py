"""The export format: everything that is stored of users as JSON lines, written and read here and nowhere else.

    what is stored of a user ─> UserLine, then its lines ─> line_object ─> GET /users/{user}/export
    one or many exports in a file ─> read_export ─> Export: a log for each user, and what was passed over

A line without `type` belongs to no export; it is handed on as it is, so that a file of plain records is read by whoever knows
them. A kind of line that this version does not know is counted and passed over. Event ids are unique for a user and not for a file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from attune.models.seam.json_lines import kind_of, read_json_lines
from attune.models.seam.printable import shortened

SHOWN = 5
"""Bad lines that an error names; the others are counted."""


class ExportInvalid(ValueError):
    """Lines of an export are damaged; the message names the file, the lines and the fields."""


@dataclass(frozen=True, slots=True)
class UserLine:
    """Whose lines follow: the id by which requests name the user, and the tag by which records do."""

    id: str
    tag: str = ""
    exported_at: str | None = None


@dataclass(frozen=True, slots=True)
class SumLine:
    """The evidence that a user has under one basis; times are RFC 3339."""

    basis: str
    comparisons: int
    epoch: int
    evidence: tuple[float, ...]
    first_seen: str | None = None
    last_seen: str | None = None


@dataclass(frozen=True, slots=True)
class ComparisonLine:
    """A comparison that was learned.

    Attributes:
        event_id: unique for this user.
        basis, epoch, evidence: what was added to the sum of which basis.
        observed_at: RFC 3339.
        content: what was kept beside the evidence: `prompt`, `chosen_text`, `rejected_text`, `chosen`, `rejected`, `tie`, `context`,
            `agreement` and whatever later versions keep; empty where texts are not kept.
        number: of the line in the file that it was read from.
    """

    event_id: str
    basis: str
    epoch: int
    observed_at: str | None
    content: Mapping[str, Any]
    evidence: tuple[float, ...]
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ReplayedLine:
    """What a comparison of the log adds under another basis than the one it was learned under."""

    event_id: str
    basis: str
    epoch: int
    observed_at: str | None
    evidence: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LastMemberLine:
    """The member that served the user last."""

    member: str


@dataclass(frozen=True, slots=True)
class TakenBackLine:
    """A comparison that the user took back."""

    event_id: str


@dataclass(frozen=True, slots=True)
class DecisionLine:
    """A decision as `GET /decisions/{id}` gives it, or one that could not be read: `content` then has `unreadable`."""

    decision_id: str
    content: Mapping[str, Any]
    number: int = field(default=0, compare=False)


ExportLine: TypeAlias = UserLine | SumLine | ComparisonLine | ReplayedLine | LastMemberLine | TakenBackLine | DecisionLine

_OWN = frozenset({"type", "event_id", "basis", "epoch", "observed_at", "evidence"})


@dataclass(slots=True)
class UserLog:
    """What a file says of one user; of nobody knows whom where `user` is empty.

    `comparisons` are those that were not taken back, in the file's order: a user's by event id, others by all that they say, since several
    people may have one event id.
    """

    user: str
    comparisons: dict[str, ComparisonLine] = field(default_factory=dict)
    taken_back: set[str] = field(default_factory=set)
    decisions: dict[str, DecisionLine] = field(default_factory=dict)
    sums: list[SumLine] = field(default_factory=list)
    replayed: list[ReplayedLine] = field(default_factory=list)
    last_member: str | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """One or many exports.

    Attributes:
        logs: by user.
        plain: lines without a type, with their numbers.
        unknown: how many lines of which kind were passed over, because this version does not know it; `error` is an export that was
            cut short and says so.
    """

    logs: Mapping[str, UserLog]
    plain: tuple[tuple[int, Mapping[str, Any]], ...]
    unknown: Mapping[str, int]


def line_object(line: ExportLine) -> dict[str, Any]:
    """Returns the JSON object of a line."""
    match line:
        case UserLine():
            return {"type": "user", "id": line.id, "tag": line.tag, "exported_at": line.exported_at}
        case SumLine():
            times = {"first_seen": line.first_seen, "last_seen": line.last_seen}
            numbers = {"comparisons": line.comparisons, "epoch": line.epoch, "evidence": list(line.evidence)}
            return {"type": "sum", "basis": line.basis, **times, **numbers}
        case ComparisonLine():
            kept = {name: value for name, value in line.content.items() if name not in _OWN}
            return {"type": "comparison", **_learned(line), **kept, "evidence": list(line.evidence)}
        case ReplayedLine():
            return {"type": "replayed", **_learned(line), "evidence": list(line.evidence)}
        case LastMemberLine(member):
            return {"type": "last-member", "member": member}
        case TakenBackLine(event_id):
            return {"type": "taken-back", "event_id": event_id}
        case DecisionLine(decision_id, content):
            return {"type": "decision", **content, "decision_id": decision_id}


def read_export(path: Path) -> Export:
    """Returns what a file of one or many exports says.

    Raises:
        LinesInvalid: the file cannot be read at all.
        ExportInvalid: a line is not an object, or lacks a field of its kind or has it with another type.
    """
    reading, bad = _Reading(), []
    for line in read_json_lines(path):
        if line.broken or not isinstance(line.value, dict):
            bad.append(f"line {line.number} {line.broken or f'is {kind_of(line.value)}; an object is needed'}")
            continue
        try:
            reading.take(line.number, line.value)
        except ExportInvalid as error:
            bad.append(f"line {line.number}: {error}")
    if bad:
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ExportInvalid(f"{path.name}: {'; '.join(bad[:SHOWN])}{more}")
    return Export(reading.logs, tuple(reading.plain), dict(reading.unknown))


class _Reading:
    """What was read of a file so far; `_log` is the user's whose lines follow."""

    def __init__(self) -> None:
        self.logs: dict[str, UserLog] = {}
        self.plain: list[tuple[int, Mapping[str, Any]]] = []
        self.unknown: Counter[str] = Counter()
        self._log = UserLog("")

    def take(self, number: int, entry: Mapping[str, Any]) -> None:
        kind = _kind(entry)
        if kind is None and set(entry) != {"error"}:
            self.plain.append((number, entry))
        elif kind == "user":
            user = _text(entry, "id")
            self._log = self.logs.setdefault(user, UserLog(user))
        elif kind in _KNOWN:
            if not self._log.user:  # lines above any `user`: an export whose first line was cut off
                self._log = self.logs.setdefault("", self._log)
            _add(self._log, str(kind), entry, number)
        else:
            self.unknown["error" if kind is None else kind] += 1


def _kind(entry: Mapping[str, Any]) -> str | None:
    kind = entry.get("type")
    if not isinstance(kind, str | None):
        raise ExportInvalid(f"type is {kind!r}; a text is needed")
    return kind


_KNOWN = frozenset({"sum", "comparison", "replayed", "last-member", "taken-back", "decision"})


def _add(log: UserLog, kind: str, entry: Mapping[str, Any], number: int) -> None:
    match kind:
        case "sum":
            numbers = _int(entry, "comparisons"), _int(entry, "epoch"), _numbers(entry)
            log.sums.append(SumLine(_text(entry, "basis"), *numbers, _maybe(entry, "first_seen"), _maybe(entry, "last_seen")))
        case "comparison":
            content = {name: value for name, value in entry.items() if name not in _OWN}
            event = _text(entry, "event_id")
            learned = _maybe(entry, "basis") or "", _int(entry, "epoch"), _maybe(entry, "observed_at")
            # Without a line of a user nobody knows whose it is: several people may have one event id.
            name = event if log.user else json.dumps(entry, sort_keys=True)
            log.comparisons.pop(name, None)
            if event not in log.taken_back:  # its id is never learned again, so this line is older, wherever it stands
                log.comparisons[name] = ComparisonLine(event, *learned, content, _numbers(entry), number)
        case "replayed":
            learned = _maybe(entry, "basis") or "", _int(entry, "epoch"), _maybe(entry, "observed_at")
            log.replayed.append(ReplayedLine(_text(entry, "event_id"), *learned, _numbers(entry)))
        case "last-member":
            log.last_member = _text(entry, "member")
        case "taken-back":
            event = _text(entry, "event_id")
            log.taken_back.add(event)
            for name in [name for name, line in log.comparisons.items() if line.event_id == event] if not log.user else [event]:
                log.comparisons.pop(name, None)
        case _:
            content = {name: value for name, value in entry.items() if name not in {"type", "decision_id"}}
            decision = _text(entry, "decision_id")
            log.decisions[decision] = DecisionLine(decision, content, number)


def _learned(line: ComparisonLine | ReplayedLine) -> dict[str, Any]:
    return {"event_id": line.event_id, "basis": line.basis, "epoch": line.epoch, "observed_at": line.observed_at}


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise ExportInvalid(f"{name} is {shortened(value)}; a text is needed")
    return value


def _maybe(entry: Mapping[str, Any], name: str) -> str | None:
    value = entry.get(name)
    if value is not None and not isinstance(value, str):
        raise ExportInvalid(f"{name} is {shortened(value)}; a text or null is needed")
    return value


def _int(entry: Mapping[str, Any], name: str) -> int:
    value = entry.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ExportInvalid(f"{name} is {shortened(value)}; a whole number is needed")
    return value


def _numbers(entry: Mapping[str, Any]) -> tuple[float, ...]:
    value = entry.get("evidence", [])
    if not isinstance(value, list) or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
        raise ExportInvalid(f"evidence is {shortened(value)}; a list of numbers is needed")
    return tuple(map(float, value))
