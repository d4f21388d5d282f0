"""Coverage of every number of a certificate, world by world: `python -m studies certificates --trials 1000`.

Seven policies lie on a convex front of three rewards. They are searched on some prompts, four are chosen greedily, and the certificate is
made on fresh prompts, or on the same ones where a world says so. A trial is wrong in a number if the truth is beyond it.
Axis letters: `P` prompts, `J` policies, `d` rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attune.models.measuring.report_files import made_by, table, write_report
from attune.models.portfolio.certify import Evidence, certify
from attune.models.portfolio.geometry import simplex_lattice
from attune.models.portfolio.mean_bounds import Method
from attune.models.portfolio.rewards import Normalisation

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, Array], Array]
"""Generator, `P` prompts, front `[J, d]` -> rewards `[P, J, d]` in [0, 1]; the front is their mean but for failures."""

UNIT = Normalisation(np.zeros(3), np.ones(3))
ASKED = np.concatenate([np.eye(3), [[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [1 / 3] * 3]])
FRONT = 0.1 + 0.8 * ASKED / np.linalg.norm(ASKED, axis=1, keepdims=True)
NUMBERS = ("lower", "upper", "a user's ratio", "worst ratio", "gap")
COLUMNS = (*NUMBERS, "certified", "true")


@dataclass(frozen=True, slots=True)
class CertificateWorld:
    """Failures of policies are drawn from U(0, `most_failures`); `spread` is how prompts scale all rewards; `fresh` prompts certify."""

    name: str
    prompts: int
    most_failures: float
    scaled: bool = False
    one_best: bool = False
    fresh: bool = True


WORLDS = (
    CertificateWorld("policies fail on 0 to 2 % of prompts", 280, 0.02),
    CertificateWorld("policies fail on 0 to 6 %", 60, 0.06),
    CertificateWorld("one policy is best for everybody, failures 0 to 0.6 %", 280, 0.006, one_best=True),
    CertificateWorld("prompts of very unlike scale", 280, 0.0, scaled=True),
    CertificateWorld("the same, chosen and certified on the same prompts", 280, 0.0, scaled=True, fresh=False),
)


def covered(world: CertificateWorld, *, trials: int, seed: int, method: Method) -> dict[str, float]:
    """Returns the share of trials in which each number of the certificate holds, and the mean certified and true ratio."""
    rng, lattice = np.random.default_rng(seed), simplex_lattice(3, 20)
    front = np.vstack([FRONT[:-1] * 0.5, FRONT[-1:] + 0.3]) if world.one_best else FRONT
    holds, certified, true = dict.fromkeys(NUMBERS, 0), 0.0, 0.0
    for _ in range(trials):
        failing = rng.uniform(0, world.most_failures, len(front)) if world.most_failures else np.zeros(len(front))
        truth = front * (1 - failing)[:, None] * (2 / 3 if world.scaled else 1.0)
        search = _seen(rng, world, front, failing)
        fresh = _seen(rng, world, front, failing) if world.fresh else search
        chosen: list[int] = []
        for _member in range(1 if world.one_best else 4):
            left = set(range(len(front))) - set(chosen)
            worth = {one: float((lattice @ search.mean(axis=0)[[*chosen, one]].T).max(axis=1).sum()) for one in left}
            chosen.append(max(worth, key=lambda one, worth=worth: worth[one]))  # type: ignore[misc]
        slack = max(float((truth @ weights).max() - truth[index] @ weights) for index, weights in enumerate(ASKED))
        optima = [np.einsum("pjd,jd->pj", rewards, ASKED) + slack for rewards in (search, fresh)]
        planned = search.mean(axis=0)[chosen]
        evidence = Evidence(fresh[:, chosen], ASKED, optima[1], planned, optima[0].mean(axis=0))
        found = certify(evidence, UNIT, family="f", rewards=("a", "b", "c"), epsilon=0.02, method=method)
        best, reached = (lattice @ truth.T).max(axis=1), (lattice @ truth[chosen].T).max(axis=1)
        low, high = (lattice @ found.lower.T).max(axis=1), (lattice @ found.vertices.T).max(axis=1)
        holds["lower"] += bool(np.all(found.lower <= truth[chosen] + 1e-9))
        holds["upper"] += bool(np.all(found.upper >= truth[chosen] - 1e-9))
        holds["a user's ratio"] += bool(np.all(np.maximum(low / high, found.worst_ratio) <= reached / best + 1e-9))
        holds["worst ratio"] += bool(found.worst_ratio <= (reached / best).min() + 1e-9)
        holds["gap"] += bool(found.gap >= (best - reached).max() - 1e-9)
        certified += found.worst_ratio / trials
        true += float((reached / best).min()) / trials
    return {name: count / trials for name, count in holds.items()} | {"certified": certified, "true": true}


def _seen(rng: np.random.Generator, world: CertificateWorld, front: Array, failing: Array) -> Array:
    if world.scaled:  # a prompt's scale is Beta(0.3, 0.15), of mean 2/3: some prompts give nearly nothing, whoever answers
        return np.asarray(rng.beta(0.3, 0.15, (world.prompts, 1, 1)) * front, dtype=np.float64)
    rewards = front + rng.uniform(-0.01, 0.01, (world.prompts, *front.shape))
    rewards[rng.random((world.prompts, len(front))) < failing] = 0.0
    return np.clip(rewards, 0.0, 1.0)


def evaluate_certificates(out: Path, *, trials: int, seed: int, progress: Callable[[str], None]) -> None:
    """Runs every world with every method, tells each row of the table, and writes `report.md` and `results.json` into `out`.

    Args:
        out: made if absent.
        trials: of each world and method.
        seed: of everything drawn.
        progress: told a line for each world and method.
    """
    rows: list[dict[str, object]] = []
    lines: list[list[str]] = []
    methods: tuple[Method, ...] = ("betting", "student", "bernstein")
    for world in WORLDS:
        for method in methods:
            found = covered(world, trials=trials, seed=seed, method=method)
            rows.append({"world": world.name, "prompts": world.prompts, "method": method, **found})
            lines.append([world.name, str(world.prompts), method, *(f"{found[name]:.3f}" for name in COLUMNS)])
            progress(" | ".join(lines[-1]))
    title = ["# Coverage of certificates", "", f"Attune {made_by()}, {trials} trials of each world, seed {seed}.", ""]
    report = "\n".join([*title, *table(["world", "prompts", "method", *COLUMNS], lines)]) + "\n"
    write_report(out, {"trials": trials, "seed": seed, "rows": rows}, report)
