"""`python -m studies offpolicy-check`: do the 95 % intervals of off-policy values hold the truth, on simulated logs that have one?

simulated logs of routing that learns ─> estimates of every policy ─> coverage.md, coverage.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.measuring.policy.duels import Duels
from attune.models.measuring.policy.estimators import best_single, estimate, predict_wins, target_laws
from attune.models.measuring.policy.values_report import ESTIMATORS
from attune.models.measuring.report_files import write_report
from attune.models.seam.informative import choose_to_learn
from attune.models.seam.routing import choose

Array = NDArray[np.float64]

MEMBERS = 4
EPSILON = 0.1


def simulated_log(users: int, rounds: int, rng: np.random.Generator, *, learn_rounds: int = 0) -> tuple[Duels, Array]:
    """Returns the duels of a log whose routing learns from each user, and the true `P(a beats b)` of each context, `[N, M, M]`.

    A user has a strength for each member; routing samples from a posterior that narrows with what the user chose (so that later laws
    depend on earlier outcomes), and two members are drawn by `models.seam.routing.choose`; in a user's first `learn_rounds` rounds by
    `models.seam.informative.choose_to_learn`, as a product does that asks a newcomer some questions.
    """
    base = np.array([0.4, 0.1, 0.0, -0.3])
    rows: list[tuple[int, int, int, float, float, Array, Array, bool]] = []
    truths = []
    for user in range(users):
        strength = base + rng.normal(0.0, 1.0, size=MEMBERS)
        wins = 1.0 / (1.0 + np.exp(strength[None, :] - strength[:, None]))
        evidence = np.zeros(MEMBERS)
        for number in range(rounds):
            sampled = evidence / (1.0 + 0.3 * number) + rng.normal(0.0, 1.0 / np.sqrt(1.0 + number), size=(64, MEMBERS))
            learns = number < learn_rounds
            if learns:
                choice = choose_to_learn(sampled, count=2, epsilon=EPSILON, rng=rng, logit_scale=1.0, mean=sampled.mean(axis=0))
            else:
                choice = choose("sample", sampled, count=2, epsilon=EPSILON, rng=rng)
            a, b = choice.members
            won = float(rng.random() < wins[a, b])
            evidence += (won - 0.5) * (np.eye(MEMBERS)[a] - np.eye(MEMBERS)[b])
            rows.append((user, a, b, won, choice.joint, choice.propensities, choice.mean, learns))
            truths.append(wins)
    numbers, first, second, won_by, joint, laws, expected, as_pair = (np.array(column) for column in zip(*rows, strict=True))
    return Duels(tuple("abcd"), numbers, first, second, won_by, joint, laws, expected, as_pair, {}), np.array(truths)


def true_values(duels: Duels, wins: Array) -> dict[str, float]:
    """Returns each policy's value in the contexts of a log, from the true chances."""
    others = (wins * (1.0 - np.eye(MEMBERS))).sum(axis=2) / (MEMBERS - 1)
    return {name: float(np.mean(np.sum(law * others, axis=1))) for name, law in target_laws(duels).items()}


def coverage(
    logs: int,
    *,
    users: int = 200,
    rounds: int = 8,
    learn_rounds: int = 0,
    truth_users: int = 40_000,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns how often the 95 % intervals of each estimator hold the true value, over simulated logs.

    The truth is that of the population of users, from one very large log of other users.

    Returns:
        policy -> estimator -> `coverage`, `bias`, `width` (mean of the whole interval) and `truth`.
    """
    truth = true_values(*simulated_log(truth_users, rounds, np.random.default_rng([seed, 0]), learn_rounds=learn_rounds))
    held: dict[tuple[str, str], list[tuple[bool, float, float, float]]] = {}
    for number in range(logs):
        duels, _ = simulated_log(users, rounds, np.random.default_rng([seed, 1, number]), learn_rounds=learn_rounds)
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


def check_estimators(
    logs: int, out: Path, *, users: int = 200, learn_rounds: int = 0, seed: int = 0, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Writes `coverage.md` and `coverage.json` into `out` and returns the figures of `coverage`."""
    found = coverage(logs, users=users, learn_rounds=learn_rounds, seed=seed, progress=progress)
    lines = [
        "# Coverage of the 95 % intervals",
        "",
        f"{logs} simulated logs of {users} users, 8 duels each, {learn_rounds} of them by `learn`; exploration {EPSILON:g}, seed {seed}.",
        "",
        "| policy | truth | " + " | ".join(f"{key} coverage (bias, width)" for key in ESTIMATORS) + " |",
        "|---" * (2 + len(ESTIMATORS)) + "|",
    ]
    for name, row in found.items():
        cells = " | ".join(f"{row[key]['coverage']:.1%} ({row[key]['bias']:+z.4f}, {row[key]['width']:.3f})" for key in ESTIMATORS)
        lines.append(f"| {name} | {row['dr']['truth']:.3f} | {cells} |")
    write_report(
        out,
        {"logs": logs, "users": users, "learn_rounds": learn_rounds, "seed": seed, "policies": found},
        "\n".join(lines) + "\n",
        names=("coverage.json", "coverage.md"),
    )
    return {"logs": logs, "policies": found}
