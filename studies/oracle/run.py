"""How many members a portfolio needs, and how much worse uniform and random portfolios of the same size are.

On random worlds, and on the demo: the responses are what the demo's members answered, the rewards either the manners that a text
truly shows or the demo's heads. The oracle chooses among all members' answers to a prompt (best-of-n, exact), so losses are true
losses. Axis letters: `P` prompts, `N` responses, `d` rewards, `M` members.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import embed_texts
from attune.models.data.trunk import load_demo_trunk
from attune.models.measuring.figures import bootstrap
from attune.models.measuring.report_files import interval, made_by, write_report
from attune.models.portfolio.geometry import simplex_lattice
from attune.models.portfolio.oracles import BestOfN
from attune.models.portfolio.pool import Pool, read_pool
from attune.models.portfolio.prune import prune
from attune.models.portfolio.rewards import fit_normalisation
from attune.models.portfolio.search import SearchSettings, lazy_search
from attune.models.training.heads import compute_outputs, load_heads
from demo.corpus.texts import MANNERS
from demo.rewards import pool_scores
from studies.oracle.oracle import OracleStudy, calls_needed, promise_and_truth, random_world, true_loss

Array = NDArray[np.float64]
Progress = Callable[[str], None]

LOSS = 0.015
REWARDS = 3
RANDOM_DRAWS = 20


def evaluate_oracle(
    out: Path, *, seed: int, study: OracleStudy, seeds: int, demo: Path, cache: Path | None, progress: Progress
) -> dict[str, Any]:
    """Writes `report.md` and `results.json` of the exact oracle and of portfolio sizes into `out`, and returns the results.

    Args:
        out: made if absent.
        seed: of every world.
        study: how much to measure of the oracle.
        seeds: portfolios of each kind.
        demo: folder of the demo, with `answers/test.jsonl` and heads.
        cache: folder of the embedding cache.
        progress: is told where the study is.
    """
    results: dict[str, Any] = {
        "seed": seed,
        "attune": made_by(),
        "promise_and_truth": promise_and_truth(study, seed=seed, progress=progress),
    }
    results["calls"] = calls_needed(study, seed=seed, progress=progress)
    results["sizes"] = portfolio_sizes(seeds, demo, seed=seed, cache=cache, progress=progress)
    write_report(out, results, render(results))
    return results


def portfolio_sizes(seeds: int, demo: Path, *, seed: int, cache: Path | None, progress: Progress) -> dict[str, Any]:
    """Returns, for each source of worlds, sizes and worst cases of pruned, uniform and random portfolios, over `seeds` worlds."""
    sources: dict[str, Callable[[int], BestOfN]] = {
        "random worlds, 2 rewards": lambda number: random_world(seed * 1_000_003 + number, 2),
        "random worlds, 3 rewards": lambda number: random_world(seed * 1_000_003 + number, REWARDS),
    }
    path = demo / "answers" / "test.jsonl"
    if path.is_file():
        pool = read_pool(path)
        for name, rewards in (("true manners", pool_scores(pool)), ("heads", _head_rewards(demo, pool, cache))):
            if rewards is not None:
                flat = rewards.reshape(len(rewards), -1, rewards.shape[-1])
                sources[f"demo, {REWARDS} of {flat.shape[-1]} rewards: {name}"] = lambda number, flat=flat: _part(flat, number, seed)  # type: ignore[misc]
    found = {}
    for source, world in sources.items():
        rows = [_one(world(number), np.random.default_rng([seed, number])) for number in range(seeds)]
        found[source] = {name: _interval(np.array([row[name] for row in rows])) for name in rows[0]}
        progress(f"{source}: {found[source]['members']['mean']:.1f} members, worst case {found[source]['pruned']['mean']:.4f}")
    return found


def _one(oracle: BestOfN, rng: np.random.Generator) -> dict[str, float]:
    search = lazy_search(oracle, SearchSettings(LOSS / 3))
    kept = prune(search.solutions, LOSS, limit_s=5.0)
    additive = lazy_search(oracle, SearchSettings(0.0, LOSS / 3))
    values = np.array([search.solutions[index].value for index in kept.chosen])
    size = len(values)

    def worst(weights: Array) -> float:
        return true_loss(oracle, np.array([oracle.solve(one).value for one in weights]))

    drawn = [worst(rng.dirichlet(np.ones(oracle.dimensions), size=size)) for _ in range(RANDOM_DRAWS)]
    spread = worst(spread_weights(oracle.dimensions, size))
    return {
        "members": float(size),
        "members_additive": float(len(prune(additive.solutions, 0.0, LOSS, limit_s=5.0).chosen)),
        "calls": float(search.calls),
        "greedy": float(kept.greedy),
        "proved_smallest": float(kept.exact),
        "pruned": true_loss(oracle, values),
        "pruned_certified": 1.0 - kept.proof.ratio,
        "uniform": spread,
        "random": float(np.mean(drawn)),
        "best_random": float(np.min(drawn)),
        "one_member": worst(np.full((1, oracle.dimensions), 1.0 / oracle.dimensions)),
    }


def spread_weights(dimensions: int, size: int) -> Array:
    """Returns `size` weights spread evenly over the simplex: its corners first, then each the farthest from those before."""
    lattice = simplex_lattice(dimensions, 24)
    chosen = [int(np.argmax(lattice[:, axis])) for axis in range(dimensions)][:size]
    while len(chosen) < size:
        distances = np.min(np.linalg.norm(lattice[:, None] - lattice[chosen], axis=2), axis=1)
        chosen.append(int(np.argmax(distances)))
    return np.asarray(lattice[chosen])


def _part(rewards: Array, number: int, seed: int) -> BestOfN:
    """Returns one world of the demo: half of the prompts and three of the rewards, both drawn."""
    rng = np.random.default_rng([seed, number, 7])
    prompts = rng.permutation(len(rewards))[: len(rewards) // 2]
    names = np.sort(rng.permutation(rewards.shape[-1])[:REWARDS])
    return BestOfN(rewards[prompts][:, :, names])


def _head_rewards(demo: Path, pool: Pool, cache: Path | None) -> Array | None:
    """Returns the pool's rewards under the family whose heads are the manners, normalised on the pool; None without one."""
    families = [one for one in load_heads(demo)[0] if set(one.family.heads) == set(MANNERS)]
    if not families:
        return None
    vectors = embed_texts(pool.texts(), load_demo_trunk(), cache)
    raw = compute_outputs(families[:1], vectors.candidates)[f"{families[0].family.name}_rewards"].astype(np.float64)
    return fit_normalisation(raw).apply(raw).reshape(*pool.shape, -1)


def _interval(values: Array) -> dict[str, Any]:
    found = bootstrap(values)
    return {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "n": found.users,
        "least": float(values.min()),
        "most": float(values.max()),
    }


def render(results: dict[str, Any]) -> str:
    """Returns report.md."""
    lines = [
        "# Exact oracle: promises, calls, sizes",
        "",
        f"Seed {results['seed']}, Attune {results['attune']}. Intervals are 95 %, over worlds. Losses are worst cases over all users,",
        "`1 - L/OPT`; a gap is `OPT - L`.",
        "",
        "## What is certified and what is true",
        "",
        *_header(
            *("rewards", "worlds", "true ≤ certified", "true loss", "certified loss", "certified / true", "before tightening"),
            *("calls", "with tightening"),
        ),
    ]
    for size, row in results["promise_and_truth"].items():
        cells = (interval(row[name], 4) for name in ("true_loss", "certified_loss", "ratio", "ratio_without_tightening"))
        calls = (interval(row[name], 1) for name in ("calls", "calls_with_tightening"))
        lines.append(f"| {size} | {row['instances']} | {row['covered']} | {' | '.join([*cells, *calls])} |")
    columns = ("uniform, proved", "uniform, as good or proved", "random, proved", "random, as good or proved")
    lines += ["", "## Oracle calls", "", *_header("rewards", "worlds", "lazy", "grid", "grid / lazy", *columns)]
    for size, row in results["calls"].items():
        cells = (interval(row[name], 1) for name in ("uniform_proved", "uniform_true", "random_proved", "random_true"))
        lines.append(
            f"| {size} | {row['instances']} | {interval(row['lazy'], 1)} | {row['grid']} "
            f"| {row['grid_over_lazy']:.0f} | {' | '.join(cells)} |"
        )
    for size, row in results["calls"].items():
        shares = ", ".join(f"{name.replace('_', ' ')} in {share:.0%}" for name, share in row["lazy_fewer_than"].items())
        lines.append(f"\n{size} rewards, epsilon {row['epsilon']}, delta {row['delta']}: strictly fewer calls than {shares} of worlds.")
    against = ("pruned", "uniform, same size", "random, same size", "best of 20 random", "one member")
    lines += ["", f"## Members for a worst case of {LOSS:.1%}", ""]
    lines += _header("worlds of", "n", "members", f"members for a gap of {LOSS:g}", *against)
    for source, row in results["sizes"].items():
        cells = (interval(row[name], 4) for name in ("pruned", "uniform", "random", "best_random", "one_member"))
        sizes = (row["members"], row["members_additive"])
        members = " | ".join(f"{interval(size, 1)}, {size['least']:.0f} to {size['most']:.0f}" for size in sizes)
        lines.append(f"| {source} | {row['members']['n']} | {members} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _header(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
