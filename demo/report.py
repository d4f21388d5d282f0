"""`python -m demo report`: simulated users, as report.md for people and results.json for programs.

Everything is measured on test topics, with the functions that the server runs; seeds, hashes and the version are in both
files. Nothing here chooses anything: settings come from training, which has never seen these topics.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import Embedder, embed_texts
from attune.models.data.trunk import load_demo_trunk
from attune.models.measuring.figures import bootstrap
from attune.models.measuring.report_files import made_by, write_report
from attune.models.measuring.rows import Rows, rows_from_bundle, rows_from_heads
from attune.models.portfolio.pool import Pool
from attune.models.seam.attributes import NAME as ATTRIBUTES
from attune.models.seam.bradley_terry import NAME as BASELINE
from attune.models.seam.bundle import read_bundle, sha256_of
from attune.models.seam.families import Families
from attune.models.seam.micro import NAME as MICRO
from attune.models.seam.portfolio import Portfolio, read_portfolio
from attune.models.seam.vrf import NAME as VRF
from attune.models.training.heads import families_of, load_heads
from demo.corpus.tastes import DEFAULT_SHARPNESS, draw_users
from demo.heads import DemoSettings
from demo.members import member_pool
from demo.render import render
from demo.rewards import pool_scores
from demo.simulate import COUNTS, EPSILON, SAMPLES, Arena, SimulatedUsers, ideal_observer, simulate

Array = NDArray[np.float64]

NOISY_SHARPNESS = 8.0
"""Users who are much less sure: reported beside the default, to show what noise costs and how much of that is avoidable."""

DEMO = Path(__file__).parent / "artefacts"


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How much to measure.

    Attributes:
        seeds: of users and their choices; intervals are over all users of all seeds.
        routers: families whose posterior chooses members, each in a simulation of its own; the first alone where choices are noisier.
        sharpness: of the simulated users' choices; the first is what the promises are held to.
        demo: sizes that make the pool of members' answers.
    """

    seeds: int = 3
    routers: tuple[str, ...] = (ATTRIBUTES, VRF, MICRO)
    sharpness: tuple[float, ...] = (DEFAULT_SHARPNESS, NOISY_SHARPNESS)
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
        "attune": made_by(),
        "data": {"answers": _sha256_of_pool(demo), "prompts": len(pool.prompts), "answers_per_member": pool.shape[2]},
        "policy": {"name": "sample", "epsilon": EPSILON, "samples": SAMPLES},
        "simulated": {},
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
    write_report(out, results, render(results))
    return results


def arenas(pool: Pool, rows: Rows) -> tuple[Arena, Arena]:
    """Returns where users compare and where everything is measured: every other prompt each, in the pool's order."""
    prompts, members, answers = pool.shape
    scores = pool_scores(pool)

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
    families = families_of(trained)
    portfolio = read_portfolio((demo / "portfolio.json").read_bytes(), families, (demo / "values.npz").read_bytes())
    rows = rows_from_heads(trained, embed_texts(pool.texts(), trunk, cache))
    return _Subject({"heads_sha256": sha256_of(demo / "heads.safetensors")}, families, portfolio, rows)


def _curve(per_user: Array) -> list[dict[str, Any]]:
    return [{"comparisons": count, **asdict(bootstrap(per_user[:, index]))} for index, count in enumerate(COUNTS)]


def _sha256_of_pool(demo: Path) -> str | None:
    path = demo / "answers" / "test.jsonl"
    return sha256_of(path) if path.is_file() else None


_say = partial(print, file=sys.stderr)
