"""`attune measure policy`: off-policy values of routing policies from exported files.

decisions.jsonl, feedback.jsonl ─> duels ─> report.md, results.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from attune.models.measuring.policy.duels import LogInvalid, duels_from
from attune.models.measuring.policy.estimators import evaluate_policies
from attune.models.measuring.policy.intervals import LEAST_USERS
from attune.models.measuring.report_files import write_report
from attune.models.seam.artefacts import COMPARISONS, it_is, recognised
from attune.models.seam.counts import counted
from attune.models.seam.exports import ExportInvalid, line_object, read_export
from attune.models.seam.json_lines import LinesInvalid

ESTIMATORS = ("ips", "snips", "dr")
MOST_UNSUPPORTED = 0.5
"""Share of a policy's pairs that the log could not have drawn, from which on its value is not shown."""


Placed: TypeAlias = dict[str, Mapping[str, Any]]
"""Records of a file by where they stand in it."""


def read_log(path: Path) -> tuple[Placed, Placed]:
    """Returns the decisions and the comparisons of a file: of one or more exports, or plain lines of either, one after the other.

    A comparison belongs to its user and its event: two users with one event id have two. What was taken back is not there, and
    neither are decisions that could not be read.

    Raises:
        LogInvalid: the file cannot be read, or a line is damaged.
    """
    return _read(path)[:2]


def _read(path: Path) -> tuple[Placed, Placed, dict[str, int]]:
    """Returns what `read_log` does, and how many lines of what were passed over."""
    try:
        export = read_export(path)
    except (ExportInvalid, LinesInvalid) as error:
        raise LogInvalid(f"{error}{it_is(path)}") from error
    decisions: dict[str, tuple[str, Mapping[str, Any]]] = {}
    comparisons: Placed = {}
    passed = {f"lines of the unknown kind {kind!r}": count for kind, count in export.unknown.items()}
    unreadable = sum("unreadable" in decision.content for log in export.logs.values() for decision in log.decisions.values())
    passed |= {"decisions that could not be read when they were exported": unreadable} if unreadable else {}
    for log in export.logs.values():
        for name, decision in log.decisions.items():
            if "unreadable" not in decision.content:
                decisions[name] = f"{path.name} line {decision.number}", line_object(decision)
        comparisons |= {f"{path.name} line {one.number}": line_object(one) for one in log.comparisons.values()}
    for number, value in export.plain:
        place = f"{path.name} line {number}"
        if "decision_id" in value and "candidates" in value:
            decisions[str(value["decision_id"])] = place, value
        elif "chosen" in value or "rejected" in value or "kind" in value:
            comparisons[place] = value
        else:
            found = ", ".join(sorted(value)) or "empty"
            raise LogInvalid(f"{place} is neither a decision nor a comparison: {found}{it_is(path)}")
    return dict(decisions.values()), comparisons, passed


def evaluate_log(decisions: Path, feedback: Path, out: Path) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out` and returns the results.

    Raises:
        LogInvalid: see `read_log` and `duels_from`.
    """
    passed: dict[str, int] = {}
    try:
        decided, _, passed = _read(decisions)
        _, compared, also_passed = _read(feedback)
        passed = passed | also_passed
        duels = duels_from([*decided.values()], [*compared.values()], decided_at=[*decided], compared_at=[*compared])
    except LogInvalid as error:
        told = recognised(feedback).startswith(COMPARISONS) and it_is(feedback) not in str(error)
        also = "".join(f"; {what} ({count:,}) were passed over" for what, count in passed.items())
        raise LogInvalid(f"{error}{also}{it_is(feedback)}" if told else f"{error}{also}") from error
    values = evaluate_policies(duels)
    results: dict[str, Any] = {
        "duels": len(duels.won),
        "users": len(set(duels.users.tolist())),
        "members": duels.members,
        "drawn_as_pairs": int(duels.as_pair.sum()),
        "left_out": {**duels.left_out, **passed},
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
        f"{counted(results['duels'], 'duel')} of {counted(results['users'], 'user')}, "
        f"{results['drawn_as_pairs']} of them drawn by policy `learn`. Left out: "
        + (", ".join(f"{reason} ({count:,})" for reason, count in results["left_out"].items() if count) or "nothing")
        + ".",
        "A duel is a choice between the answers of two members that one decision drew. A value is the chance that the member routed to",
        "wins against another one at random; 95 % intervals, clustered by user. A dash stands where the log is worth fewer than",
        f"{LEAST_USERS:g} users of equal weight (their number is in brackets), or has nothing of most that the policy does. For single",
        "members trust DR and SNIPS: what routing seldom draws has great weights. `as logged` goes by the distribution that each",
        "decision logged for its first member; where policy `learn` asked, that distribution is for learning, not for serving.",
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
