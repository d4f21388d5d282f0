"""`attune evaluate policy`: off-policy values of routing policies from exported files, and the check of the estimators on known truth.

decisions.jsonl, feedback.jsonl ─> duels ─> report.md, results.json        simulated logs ─> coverage of the 95 % intervals
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.measuring.policy.estimators import (
    Duels,
    LogInvalid,
    best_single,
    duels_from,
    estimate,
    evaluate_policies,
    predict_wins,
    target_laws,
)
from attune.models.seam.routing import choose

Array = NDArray[np.float64]

MEMBERS = 4
EPSILON = 0.1
ESTIMATORS = ("ips", "snips", "dr")


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
            name: {key: [one.value, one.low, one.high] if key in ESTIMATORS else one for key, one in found.items()}
            for name, found in values.items()
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / "report.md").write_text(render(results), encoding="utf-8")
    return results


def render(results: Mapping[str, Any]) -> str:
    """Returns report.md."""
    lines = [
        "# Routing policies on the log",
        "",
        f"{results['duels']} duels of {results['users']} users. Left out: "
        + (", ".join(f"{count} {reason}" for reason, count in results["left_out"].items() if count) or "nothing")
        + ".",
        "A value is the chance that the member routed to wins against another one at random; 95 % intervals, clustered by user. For single",
        "members trust DR and SNIPS: what routing seldom draws has great weights, and IPS then says less than its interval claims.",
        "",
        "| policy | IPS | SNIPS | DR | not in the log |",
        "|---|---|---|---|---|",
    ]
    for name, row in results["policies"].items():
        cells = " | ".join(f"{row[key][0]:.3f} [{row[key][1]:.3f}, {row[key][2]:.3f}]" for key in ESTIMATORS)
        lines.append(f"| {name} | {cells} | {row['unsupported']:.0%} |")
    return "\n".join(lines) + "\n"


# --- simulated logs with known truth


def simulated_log(users: int, rounds: int, rng: np.random.Generator) -> tuple[Duels, Array]:
    """Returns the duels of a log whose routing learns from each user, and the true `P(a beats b)` of each context, `[N, M, M]`.

    A user has a strength for each member; routing samples from a posterior that narrows with what the user chose (so that later laws
    depend on earlier outcomes), and two members are drawn by `models.seam.routing.choose`.
    """
    base = np.array([0.4, 0.1, 0.0, -0.3])
    rows: list[tuple[int, int, int, float, float, Array, Array]] = []
    truths = []
    for user in range(users):
        strength = base + rng.normal(0.0, 1.0, size=MEMBERS)
        wins = 1.0 / (1.0 + np.exp(strength[None, :] - strength[:, None]))
        evidence = np.zeros(MEMBERS)
        for number in range(rounds):
            sampled = evidence / (1.0 + 0.3 * number) + rng.normal(0.0, 1.0 / np.sqrt(1.0 + number), size=(64, MEMBERS))
            choice = choose("sample", sampled, count=2, epsilon=EPSILON, rng=rng)
            a, b = choice.members
            won = float(rng.random() < wins[a, b])
            evidence += (won - 0.5) * (np.eye(MEMBERS)[a] - np.eye(MEMBERS)[b])
            rows.append((user, a, b, won, choice.joint, choice.propensities, choice.mean))
            truths.append(wins)
    numbers, first, second, won_by, joint, laws, expected = (np.array(column) for column in zip(*rows, strict=True))
    return Duels(tuple("abcd"), numbers, first, second, won_by, joint, laws, expected, {}), np.array(truths)


def true_values(duels: Duels, wins: Array) -> dict[str, float]:
    """Returns each policy's value in the contexts of a log, from the true chances."""
    others = (wins * (1.0 - np.eye(MEMBERS))).sum(axis=2) / (MEMBERS - 1)
    return {name: float(np.mean(np.sum(law * others, axis=1))) for name, law in target_laws(duels).items()}


def coverage(
    logs: int, *, users: int = 200, rounds: int = 8, truth_users: int = 40_000, seed: int = 0, progress: Callable[[str], None] | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns how often the 95 % intervals of each estimator hold the true value, over simulated logs.

    The truth is that of the population of users, from one very large log of other users.

    Returns:
        policy -> estimator -> `coverage`, `bias`, `width` (mean of the whole interval) and `truth`.
    """
    truth = true_values(*simulated_log(truth_users, rounds, np.random.default_rng([seed, 0])))
    held: dict[tuple[str, str], list[tuple[bool, float, float, float]]] = {}
    for number in range(logs):
        duels, _ = simulated_log(users, rounds, np.random.default_rng([seed, 1, number]))
        predicted = predict_wins(duels)
        laws = {**target_laws(duels), "best single": best_single(duels)}
        alone = np.array([truth[f"always {member}"] for member in duels.members])
        # Of the members chosen, which are not the truly best ones in every log.
        truth["best single"] = float((laws["best single"] @ alone).mean())
        for name, law in laws.items():
            for key, one in estimate(duels, law, predicted).items():
                within = one.low <= truth[name] <= one.high
                held.setdefault((name, key), []).append((within, one.value - truth[name], one.high - one.low, truth[name]))
        if progress is not None and (number + 1) % 100 == 0:
            progress(f"{number + 1} of {logs} logs")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (name, key), rows in held.items():
        covered, bias, width, true = np.mean(np.array(rows, dtype=np.float64), axis=0).tolist()
        found.setdefault(name, {})[key] = {"coverage": covered, "bias": bias, "width": width, "truth": true}
    return found


def check_estimators(logs: int, out: Path, *, seed: int = 0, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Writes `coverage.md` and `coverage.json` into `out` and returns the figures of `coverage`."""
    found = coverage(logs, seed=seed, progress=progress)
    lines = [
        "# Coverage of the 95 % intervals",
        "",
        f"{logs} simulated logs of 200 users and 8 duels each, routing that learns, exploration {EPSILON:g}, seed {seed}.",
        "",
        "| policy | truth | " + " | ".join(f"{key} coverage (bias, width)" for key in ESTIMATORS) + " |",
        "|---" * (2 + len(ESTIMATORS)) + "|",
    ]
    for name, row in found.items():
        cells = " | ".join(f"{row[key]['coverage']:.1%} ({row[key]['bias']:+.4f}, {row[key]['width']:.3f})" for key in ESTIMATORS)
        lines.append(f"| {name} | {row['dr']['truth']:.3f} | {cells} |")
    out.mkdir(parents=True, exist_ok=True)
    (out / "coverage.json").write_text(
        json.dumps({"logs": logs, "seed": seed, "policies": found}, indent=1, sort_keys=True) + "\n", "utf-8"
    )
    (out / "coverage.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"logs": logs, "policies": found}
