"""`attune evaluate demo`: simulated users and opposed groups, as report.md for people and results.json for programs.

Everything is measured on test topics, with the functions that the server runs; seeds, hashes and the commit are in both
files. Nothing here chooses anything: settings come from training, which has never seen these topics.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import Embedder, embed_texts
from attune.models.data.preferences import Texts
from attune.models.data.trunk import load_demo_trunk
from attune.models.measuring.metrics import Interval, bootstrap
from attune.models.measuring.rows import Rows, rows_from_bundle, rows_from_heads
from attune.models.portfolio.pool import Pool
from attune.models.seam.bundle import read_bundle, sha256_of
from attune.models.seam.families import Families
from attune.models.seam.portfolio import Portfolio, read_portfolio
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.heads import TrainedFamily, load_heads, load_values
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.vrf import VrfSettings, train_vrf
from demo.corpus.tastes import DEFAULT_SHARPNESS, draw_users, manner_scores
from demo.heads import DemoSettings, combine, written_pool
from demo.members import member_pool
from demo.render import render
from demo.simulate import COUNTS, EPSILON, SAMPLES, Arena, SimulatedUsers, ideal_observer, simulate
from studies.groups.opposed import NOISE, TASTES, Material, OpposedGroups, opposed_groups

Array = NDArray[np.float64]
AnySettings = TypeVar("AnySettings", BradleyTerrySettings, MicroSettings, VrfSettings)

NOISY_SHARPNESS = 8.0
"""Users who are much less sure: reported beside the default, to show what noise costs and how much of that is avoidable."""

DEMO = Path(__file__).parents[1] / "demo"
BASELINE = "bradley_terry"


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How much to measure.

    Attributes:
        seeds: of users and their choices; intervals are over all users of all seeds.
        routers: families whose posterior chooses members, each in a simulation of its own; the first alone where choices are noisier.
        sharpness: of the simulated users' choices; the first is what the promises are held to.
        opposed_seeds: one experiment for each of `opposed_tastes` and seed, with `opposed_users`
            training users and at most `opposed_steps` steps a family: one axis is learned sooner than six manners.
        demo: sizes that make the pool of members' answers and the opposed groups' texts.
    """

    seeds: int = 3
    routers: tuple[str, ...] = ("attributes", "vrf", "micro")
    sharpness: tuple[float, ...] = (DEFAULT_SHARPNESS, NOISY_SHARPNESS)
    opposed_seeds: int = 1
    opposed_tastes: tuple[str, ...] = tuple(TASTES)
    opposed_users: int = 400
    opposed_steps: int = 800
    demo: DemoSettings = field(default_factory=DemoSettings)


def evaluate_demo(
    bundle: Path | None,
    out: Path,
    *,
    seed: int = 1,
    users: int = 200,
    demo: Path = DEMO,
    settings: EvaluationSettings | None = None,
    trunk: Embedder | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out` and returns the results.

    Args:
        bundle: measured through its own graph; None measures the heads in `demo` on the trunk.
        out: made if absent.
        seed: the first of the seeds.
        users: simulated users for each seed.
        demo: folder of the demo, for the members' answers.
        settings: how much to measure.
        trunk: the demo's own if None.
        cache: folder of the embedding cache.
    """
    settings = settings or EvaluationSettings()
    trunk = trunk or load_demo_trunk()
    pool = member_pool(demo, "test", settings.demo, seed=0)
    subject = _from_bundle(bundle, pool) if bundle else _from_heads(demo, pool, trunk, cache)
    feedback, held_out = arenas(pool, subject.rows)
    results: dict[str, Any] = {
        "subject": subject.description,
        "seeds": list(range(seed, seed + settings.seeds)),
        "users_per_seed": users,
        "commit": commit(),
        "data": {"answers": _sha256_of_pool(demo), "prompts": len(pool.prompts), "answers_per_member": pool.shape[2]},
        "policy": {"name": "sample", "epsilon": EPSILON, "samples": SAMPLES},
        "simulated": {},
        "opposed": [],
    }
    for sharpness in settings.sharpness:
        tastes = {number: draw_users(users, number) for number in results["seeds"]}
        ideal = [ideal_observer(feedback, held_out, tastes[number], seed=number, sharpness=sharpness) for number in tastes]
        entry: dict[str, Any] = {"ideal_observer": _curve(np.concatenate(ideal)), "routers": {}}
        for router in settings.routers if sharpness == settings.sharpness[0] else settings.routers[:1]:
            _say(f"simulating {users} users x {settings.seeds} seeds, routed by {router}, sharpness {sharpness:g}")
            runs = [
                simulate(
                    subject.families, subject.portfolio, feedback, held_out, tastes[number], router=router, seed=number, sharpness=sharpness
                )
                for number in tastes
            ]
            entry["routers"][router] = summarise(runs)
        results["simulated"][f"{sharpness:g}"] = entry
    results["opposed"] = _opposed(settings, trunk, cache, seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / "report.md").write_text(render(results), encoding="utf-8")
    return results


def arenas(pool: Pool, rows: Rows) -> tuple[Arena, Arena]:
    """Returns where users compare and where everything is measured: every other prompt each, in the pool's order."""
    prompts, members, answers = pool.shape
    scores = pool.scores()

    def arena(chosen: range) -> Arena:
        return Arena(
            [rows.prompts[p] for p in chosen],
            [[[rows.candidates[(p * members + m) * answers + g] for g in range(answers)] for m in range(members)] for p in chosen],
            scores[chosen.start :: 2],
        )

    return arena(range(0, prompts, 2)), arena(range(1, prompts, 2))


def summarise(runs: Sequence[SimulatedUsers]) -> dict[str, Any]:
    """Returns means and intervals over the users of all runs, per number of comparisons."""
    together = {name: np.concatenate([getattr(run, name) for run in runs]) for name in ("correct", "correct_per_prompt", "regret")}
    pair = {family: np.concatenate([run.pair_accuracy[family] for run in runs]) for family in runs[0].pair_accuracy}
    return {
        "counts": list(COUNTS),
        "routed_best": _curve(together["correct"]),
        "routed_best_by_seed": [np.round(run.correct.mean(axis=0), 4).tolist() for run in runs],
        "routed_best_per_prompt": _curve(together["correct_per_prompt"]),
        "regret": _curve(together["regret"]),
        "pair_accuracy": {family: _curve(values) for family, values in pair.items()},
        "pair_gain": {family: _curve(values - pair[BASELINE]) for family, values in pair.items() if family != BASELINE},
        "pair_accuracy_knowing_the_taste": asdict(bootstrap(np.concatenate([run.ideal_accuracy for run in runs]))),
        "prequential_agreement": {
            family: asdict(bootstrap(np.concatenate([run.agreement[family] for run in runs]))) for family in runs[0].agreement
        },
        "cost_of_exploring": asdict(bootstrap(np.concatenate([-run.served.mean(axis=1) for run in runs]))),
    }


def commit() -> str | None:
    """Returns the commit of the checkout that this runs from, or None outside of one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - whichever git the user has
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class _Subject:
    description: Mapping[str, Any]
    families: Families
    portfolio: Portfolio
    rows: Rows


def _from_bundle(path: Path, pool: Pool) -> _Subject:
    bundle = read_bundle(path)
    if bundle.portfolio.names != pool.members:
        raise ValueError(f"{bundle.id} has members {bundle.portfolio.names}; the answers are of {pool.members}")
    return _Subject({"bundle": bundle.id, "basis": bundle.basis}, bundle.families, bundle.portfolio, rows_from_bundle(bundle, pool.texts()))


def _from_heads(demo: Path, pool: Pool, trunk: Embedder, cache: Path | None) -> _Subject:
    trained, _ = load_heads(demo)
    families = Families([one.family for one in trained])
    portfolio = read_portfolio((demo / "portfolio.json").read_bytes(), families)
    values = TrainedFamily(trained[0].family, load_values(demo))
    rows = rows_from_heads([*trained, values], embed_texts(pool.texts(), trunk, cache))
    return _Subject({"heads_sha256": sha256_of(demo / "heads.safetensors")}, families, portfolio, rows)


def _opposed(settings: EvaluationSettings, trunk: Embedder, cache: Path | None, seed: int) -> list[dict[str, Any]]:
    pools = {part: written_pool(part, settings.demo, seed=0) for part in ("train", "validation", "test")}
    texts = combine(list(pools.values()))
    material = Material(
        texts,
        embed_texts(texts, trunk, cache),
        np.array([manner_scores(text) for _, text in texts.candidates]),
        {part: _positions(texts, pool) for part, pool in pools.items()},
    )
    demo, steps = settings.demo, settings.opposed_steps
    trainers: list[Callable[..., TrainedFamily]] = [
        lambda data, number: train_bradley_terry(data, _shorter(demo.bradley_terry, steps), number),
        lambda data, number: train_micro(data, _shorter(demo.micro, steps), number),
        lambda data, number: train_vrf(data, _shorter(demo.vrf, steps), number),
    ]
    found = []
    for number in range(seed, seed + settings.opposed_seeds):
        for taste in settings.opposed_tastes:
            _say(f"opposed groups, {taste}, seed {number}")
            found.append(_opposed_entry(opposed_groups(material, trainers, taste, seed=number, users=settings.opposed_users)))
    return found


def _shorter(settings: AnySettings, steps: int) -> AnySettings:
    return replace(settings, loop=replace(settings.loop, steps=min(steps, settings.loop.steps)))


def _opposed_entry(experiment: OpposedGroups) -> dict[str, Any]:
    curves = {name: [asdict(point) for point in points] for name, points in experiment.curves.curves.items()}
    last = {name: points[-1].accuracy for name, points in experiment.curves.curves.items()}
    return {
        "taste": experiment.taste,
        "seed": experiment.seed,
        "bayes_optimal_accuracy": 1.0 - NOISE,
        "share_of_bayes_optimal_at_20": {name: asdict(_scaled(value, 1.0 / (1.0 - NOISE))) for name, value in last.items()},
        "curves": curves,
    }


def _scaled(interval: Interval, factor: float) -> Interval:
    return replace(interval, mean=interval.mean * factor, low=interval.low * factor, high=interval.high * factor)


def _positions(texts: Texts, pool: Pool) -> NDArray[np.int64]:
    asked = set(pool.prompts)
    return np.array([index for index, (prompt, _) in enumerate(texts.prompts) if prompt in asked], dtype=np.int64)


def _curve(per_user: Array) -> list[dict[str, Any]]:
    return [{"comparisons": count, **asdict(bootstrap(per_user[:, index]))} for index, count in enumerate(COUNTS)]


def _sha256_of_pool(demo: Path) -> str | None:
    path = demo / "answers" / "test.jsonl"
    return sha256_of(path) if path.is_file() else None


_say = partial(print, file=sys.stderr)
