"""`python -m demo curves`: what every family says of simulated users from the first comparison to the thousandth; report.md, results.json.

    answers to prompts of test topics ─> a user compares, one pair after the other ─> at each count: accuracy, log-loss, calibration

Feedback and targets are on different prompts, and training has seen neither. People who stay for years are whom personalisation is
for, so a family may not get worse from `EARLY` to the last count. With a half-life, and a taste that changes, it is the study of
forgetting. Axis letters: `U` users, `n` counts, `T` targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import Embedder, embed_texts
from attune.models.data.trunk import load_demo_trunk
from attune.models.measuring.figures import bootstrap, calibration_error
from attune.models.measuring.report_files import interval, made_by, table, write_report
from attune.models.measuring.rows import Rows, rows_from_heads
from attune.models.seam.bundle import sha256_of
from attune.models.seam.families import Families, Row
from attune.models.training.heads import families_of, load_heads
from demo.corpus.tastes import DEFAULT_SHARPNESS, draw_users, manner_scores, utility
from demo.heads import DemoSettings, combine, written_pool

Array = NDArray[np.float64]

COUNTS = (0, 5, 10, 20, 50, 200, 1000)
EARLY = 20
"""Comparisons from which on a family may only get better."""


@dataclass(frozen=True, slots=True)
class CurveSettings:
    """How much is measured.

    Attributes:
        users: of each seed.
        seeds: of users, pairs and choices.
        targets: pairs that are predicted at each count, for each user.
        prompts: of test topics; half of them for feedback.
        counts: numbers of comparisons.
        half_life: comparisons after which one counts half; None remembers for ever.
        change: after so many comparisons every user is somebody else; 0 for never.
    """

    users: int = 40
    seeds: tuple[int, ...] = (1, 2, 3)
    targets: int = 100
    prompts: int = 120
    counts: tuple[int, ...] = COUNTS
    half_life: float | None = None
    change: int = 0


@dataclass(frozen=True, slots=True)
class CurveAnswers:
    """Answers as the scorer sees them, `asked` `[N]` the prompt of each, and `scores` `[N, 6]` how strongly it shows each manner."""

    rows: Rows
    asked: NDArray[np.int64]
    scores: Array

    def pair(self, rng: np.random.Generator, taste: Array, prompts: Sequence[int]) -> tuple[Row, Row, Row]:
        """Returns what was chosen, what was not, and the prompt, of two answers that a user with `taste` `[6]` compares."""
        prompt = int(rng.choice(prompts))
        one, two = (int(row) for row in rng.choice(np.flatnonzero(self.asked == prompt), 2, replace=False))
        likes = utility(taste, self.scores[[one, two]])
        if rng.random() >= 1.0 / (1.0 + np.exp(-DEFAULT_SHARPNESS * (likes[0] - likes[1]))):
            one, two = two, one
        return self.rows.candidates[one], self.rows.candidates[two], self.rows.prompts[prompt]


def said_of(families: Families, world: CurveAnswers, tastes: Sequence[Array], rng: np.random.Generator, settings: CurveSettings) -> Array:
    """Returns `[families, n, T]`: how likely each family held the choices of one user, after so many comparisons.

    Args:
        families: all learn from every comparison.
        world: what is compared.
        tastes: of the user, and where there is a change, of whom they become.
        rng: of pairs and choices.
        settings: counts, half-life and change; targets are by the taste that holds when they are asked.
    """
    half = len(world.rows.prompts) // 2
    kept = 1.0 if settings.half_life is None else 2.0 ** (-1.0 / settings.half_life)
    evidence, told, found = families.prior(), 0, []
    targets = [[world.pair(rng, taste, range(half, len(world.rows.prompts))) for _ in range(settings.targets)] for taste in tastes]
    for count in settings.counts:
        while told < count:
            now = tastes[-1] if settings.change and told >= settings.change else tastes[0]
            evidence = kept * evidence + families.learn(*world.pair(rng, now, range(half)), known=kept * evidence)
            told += 1
        changed = bool(settings.change) and count > settings.change
        said = families.predict_all(evidence, *families.stacked(targets[-1 if changed else 0]))
        found.append([said[name] for name in families.names])
    return np.swapaxes(np.array(found), 0, 1)


def measure(families: Families, world: CurveAnswers, settings: CurveSettings, progress: Callable[[str], None]) -> dict[str, Array]:
    """Returns family -> `[U, n, T]`, the users of all seeds one after the other."""
    said = []
    for seed in settings.seeds:
        tastes = draw_users(2 * settings.users, seed)
        for user in range(settings.users):
            both = [tastes[user], tastes[settings.users + user]] if settings.change else [tastes[user]]
            said.append(said_of(families, world, both, np.random.default_rng([seed, user]), settings))
            if user % 10 == 9:
                progress(f"seed {seed}: {user + 1} of {settings.users} users")
    return {name: np.array([one[index] for one in said]) for index, name in enumerate(families.names)}


def summarise(said: Mapping[str, Array], counts: Sequence[int]) -> dict[str, Any]:
    """Returns for each family accuracy, log-loss and calibration error at each count, and the changes of the first two since `EARLY`."""
    found: dict[str, Any] = {}
    for name, chances in said.items():
        accuracy = ((chances > 0.5) + 0.5 * (chances == 0.5)).mean(axis=2)
        nll = -np.log(np.maximum(chances, 1e-12)).mean(axis=2)
        found[name] = {
            "accuracy": [asdict(bootstrap(accuracy[:, at])) for at in range(len(counts))],
            "nll": [asdict(bootstrap(nll[:, at])) for at in range(len(counts))],
            "ece": [_ece(chances[:, at]) for at in range(len(counts))],
        }
        if EARLY in counts:
            early = list(counts).index(EARLY)
            found[name]["since_early"] = {
                "accuracy": [asdict(bootstrap(accuracy[:, at] - accuracy[:, early])) for at in range(early, len(counts))],
                "nll": [asdict(bootstrap(nll[:, at] - nll[:, early])) for at in range(early, len(counts))],
            }
    return found


def _ece(chances: Array) -> dict[str, float]:
    """Returns the calibration error of all users' targets `[U, T]`, with its bootstrap interval over users."""
    rng = np.random.default_rng(0)
    drawn = [calibration_error(chances[rng.integers(0, len(chances), len(chances))].ravel()) for _ in range(200)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"mean": calibration_error(chances.ravel()), "low": float(low), "high": float(high), "users": len(chances)}


def render(results: Mapping[str, Any]) -> str:
    """Returns the report for people."""
    settings, counts = results["settings"], results["settings"]["counts"]
    lines = ["# Curves of simulated users", "", f"Attune {results['made_by']}; heads sha256 `{results['heads_sha256']}`.", ""]
    lines += [
        (
            f"Seeds {list(settings['seeds'])}, {settings['users']} users each, {settings['targets']} targets a user; half-life "
            f"{settings['half_life'] or 'none'}, change after {settings['change'] or 'no'} comparisons; 95 % intervals over users."
        ),
        "",
    ]
    for what, title in (("accuracy", "Accuracy"), ("nll", "Log-loss"), ("ece", "Calibration error")):
        lines += [f"## {title}", ""]
        lines += table(
            ["", *map(str, counts)],
            [[f"`{name}`", *(interval(one) for one in found[what])] for name, found in results["families"].items()],
        )
        lines.append("")
    if EARLY in counts:
        lines += [f"## Since {EARLY} comparisons, at the last count", ""]
        rows = [
            [f"`{name}`", *(interval(found["since_early"][what][-1], sign="+") for what in ("accuracy", "nll"))]
            for name, found in results["families"].items()
        ]
        lines += [*table(["", "accuracy", "log-loss"], rows), ""]
    return "\n".join(lines)


def world_of(trained: Sequence[Any], prompts: int, trunk: Embedder, cache: Path | None, *, seed: int = 0) -> CurveAnswers:
    """Returns generated answers in every manner to prompts of test topics, as `trained` families see them."""
    texts = combine([written_pool("test", DemoSettings(prompts=prompts), seed=seed)])
    number = {prompt: index for index, (prompt, _) in enumerate(texts.prompts)}
    asked = np.array([number[prompt] for prompt, _ in texts.candidates])
    scores = np.array([manner_scores(text) for _, text in texts.candidates])
    return CurveAnswers(rows_from_heads(trained, embed_texts(texts, trunk, cache)), asked, scores)


def evaluate_curves(
    demo: Path,
    out: Path,
    *,
    settings: CurveSettings | None = None,
    trunk: Embedder | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out` and returns the results.

    Args:
        demo: folder with heads.
        out: made if absent.
        settings: how much to measure.
        trunk: the demo's own if None.
        cache: folder of the embedding cache.
        progress: told a line now and then.
    """
    settings = settings or CurveSettings()
    trained = load_heads(demo)[0]
    world = world_of(trained, settings.prompts, trunk or load_demo_trunk(), cache)
    said = measure(families_of(trained), world, settings, progress)
    results = {
        "made_by": made_by(),
        "heads_sha256": sha256_of(demo / "heads.safetensors"),
        "settings": asdict(settings),
        "families": summarise(said, settings.counts),
    }
    write_report(out, results, render(results))
    return results
