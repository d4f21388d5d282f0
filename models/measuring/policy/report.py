"""`attune measure policy`: off-policy values of routing policies from exported files.

decisions.jsonl, feedback.jsonl ─> duels ─> report.md, results.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attune.models.measuring.policy.estimators import LogInvalid, duels_from, evaluate_policies
from attune.models.measuring.policy.intervals import LEAST_USERS
from attune.models.measuring.writing import write_report

ESTIMATORS = ("ips", "snips", "dr")
MOST_UNSUPPORTED = 0.5
"""Share of a policy's pairs that the log could not have drawn, from which on its value is not shown."""


def read_log(path: Path, kind: str) -> list[Mapping[str, Any]]:
    """Returns the objects of one kind in a JSONL file: lines of an export with that `type`, and lines without a type.

    Args:
        path: one or more exports one after the other, or plain decisions or comparisons.
        kind: `decision` or `comparison`; a `taken-back` line takes away the comparison with its event id.

    Raises:
        LogInvalid: a line is not a JSON object.
        FileNotFoundError: there is no such file.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise LogInvalid(f"{path.name} line {number} is not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise LogInvalid(f"{path.name} line {number} holds a {type(entry).__name__}; an object is needed")
        key = str(entry.get("event_id" if kind == "comparison" else "decision_id", f"line {number}"))
        if entry.get("type") == "taken-back" and kind == "comparison":
            found.pop(key, None)
        elif entry.get("type", kind) == kind and "unreadable" not in entry:
            found[key] = entry
    return list(found.values())


def evaluate_log(decisions: Path, feedback: Path, out: Path) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out` and returns the results.

    Raises:
        LogInvalid: see `read_log` and `duels_from`.
    """
    duels = duels_from(read_log(decisions, "decision"), read_log(feedback, "comparison"))
    values = evaluate_policies(duels)
    results: dict[str, Any] = {
        "duels": len(duels.won),
        "users": len(set(duels.users.tolist())),
        "members": duels.members,
        "left_out": dict(duels.left_out),
        "policies": {
            name: {key: asdict(one) | {"estimable": one.estimable} if key in ESTIMATORS else one for key, one in found.items()}
            for name, found in values.items()
        },
    }
    write_report(out, results, render(results))
    return results


def render(results: Mapping[str, Any]) -> str:
    """Returns report.md."""
    lines = [
        "# Routing policies on the log",
        "",
        f"{results['duels']} duels of {results['users']} users. Left out: "
        + (", ".join(f"{count} {reason}" for reason, count in results["left_out"].items() if count) or "nothing")
        + ".",
        "A value is the chance that the member routed to wins against another one at random; 95 % intervals, clustered by user. A dash:",
        f"fewer than {LEAST_USERS:g} users of equal weight would say as much, or the log could not have drawn most of it. For",
        "single members trust DR and SNIPS: what routing seldom draws has great weights.",
        "",
        "| policy | IPS | SNIPS | DR | not in the log |",
        "|---|---|---|---|---|",
    ]
    for name, row in results["policies"].items():
        cells = " | ".join(_cell(row[key], supported=row["unsupported"] < MOST_UNSUPPORTED) for key in ESTIMATORS)
        lines.append(f"| {name} | {cells} | {row['unsupported']:.0%} |")
    return "\n".join(lines) + "\n"


def _cell(estimate: Mapping[str, Any], *, supported: bool) -> str:
    if not supported or not estimate["estimable"]:
        return f"- ({estimate['users']:.1f} users)"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
