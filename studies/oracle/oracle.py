"""`python -m studies oracle`: what lazy search promises, what is true, and what it costs, on random worlds with an exact oracle.

The oracle is best-of-n over sampled responses, so the truth is known: on the cells of the lower bound `OPT / L` is greatest at the
corners, where OPT is evaluated. Axis letters: `P` prompts, `N` responses, `d` rewards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.measuring.figures import Interval, bootstrap
from attune.models.portfolio.geometry import lower_corners, simplex_lattice
from attune.models.portfolio.oracles import BestOfN, Solution
from attune.models.portfolio.search import SearchSettings, lazy_search, prove, tighten
from studies.oracle.grid import grid_bound, grid_weights

Array = NDArray[np.float64]
Progress = Callable[[str], None]

KINDS = ("independent", "opposed", "alike")
FACTOR = 1.25
GRID_LIMIT = 500_000
MOST_WEIGHTS = 400


@dataclass(frozen=True, slots=True)
class OracleStudy:
    """How much to measure.

    Attributes:
        instances: for each number of rewards, of the comparison of promise and truth.
        epsilon: there.
        timed: instances for each number of rewards on which calls are counted; a number of rewards that is missing is left out.
        calls_epsilon, calls_delta: of search and grid alike.
    """

    instances: int = 334
    dimensions: tuple[int, ...] = (2, 3, 4)
    epsilon: float = 0.05
    timed: tuple[tuple[int, int], ...] = ((2, 50), (3, 20), (4, 4))
    calls_epsilon: float = 0.02
    calls_delta: float = 0.01


def random_world(seed: int, dimensions: int) -> BestOfN:
    """Returns an oracle over 5..40 prompts with 3..24 responses whose rewards are independent, opposed, or alike, in turn."""
    rng = np.random.default_rng([seed, dimensions])
    prompts, responses = int(rng.integers(5, 41)), int(rng.integers(3, 25))
    shape = (prompts, responses, dimensions)
    match KINDS[seed % len(KINDS)]:
        case "opposed":  # what one reward has the others lack
            rewards = rng.dirichlet(np.full(dimensions, 0.7), size=shape[:2]) * rng.uniform(0.4, 1.0, size=(*shape[:2], 1))
        case "alike":
            rewards = np.clip(rng.beta(2.0, 2.0, size=(*shape[:2], 1)) + rng.normal(0.0, 0.15, size=shape), 0.0, 1.0)
        case _:
            rewards = rng.beta(1.0, 2.0, size=shape)
    return BestOfN(rewards)


def true_loss(oracle: BestOfN, values: Array) -> float:
    """Returns the exact worst case of a portfolio with `values` `[M, d]`: the greatest `1 - L(w) / OPT(w)` over all weights.

    Rewards are not negative: where the optimum is 0 there is nothing to lose.
    """
    corners = lower_corners(values)
    optima = [oracle.optimum(weights) for weights in corners.weights]
    return max(0.0, *(1.0 - float(low) / best if best > 0 else 0.0 for low, best in zip(corners.lower, optima, strict=True)))


def promise_and_truth(study: OracleStudy, *, seed: int, progress: Progress) -> dict[str, Any]:
    """Returns, for each number of rewards, in how many worlds the certified loss covers the true one, and how much greater it is."""
    found = {}
    for dimensions in study.dimensions:
        rows = []
        for number in range(study.instances):
            oracle = random_world(seed * 1_000_003 + number, dimensions)
            search = lazy_search(oracle, SearchSettings(study.epsilon))
            chosen = range(search.calls)
            first = 1.0 - search.proof.ratio
            solutions = tighten(oracle, search.solutions, chosen, study.epsilon, factor=FACTOR)
            certified = 1.0 - prove(solutions, study.epsilon, chosen=chosen).ratio
            truth = true_loss(oracle, np.array([solution.value for solution in search.solutions]))
            rows.append((truth, certified, first, search.calls, len(solutions)))
            if (number + 1) % 100 == 0:
                progress(f"{dimensions} rewards: {number + 1} of {study.instances} worlds")
        truth, certified, first, calls, with_tightening = np.array(rows).T
        lossy = truth > 1e-6  # where the portfolio loses nothing at all there is no ratio; the certified loss there is reported apart
        found[str(dimensions)] = {
            "instances": len(rows),
            "epsilon": study.epsilon,
            "covered": int(np.sum(truth <= certified + 1e-9)),
            "covered_without_tightening": int(np.sum(truth <= first + 1e-9)),
            "true_loss": _interval(truth),
            "certified_loss": _interval(certified),
            "ratio_of_means": float(certified.sum() / truth.sum()),
            "ratio": _interval(certified[lossy] / truth[lossy]),
            "ratio_without_tightening": _interval(first[lossy] / truth[lossy]),
            "worlds_with_loss": int(lossy.sum()),
            "certified_loss_where_none": float(certified[~lossy].max(initial=0.0)),
            "calls": _interval(calls),
            "calls_with_tightening": _interval(with_tightening),
        }
    return found


def calls_needed(study: OracleStudy, *, seed: int, progress: Progress) -> dict[str, Any]:
    """Returns how many oracle calls search, grid, uniform and random weights need for the same worst case.

    Uniform and random weights are given the same bounds and corners to prove with (`proved`), and a referee who knows the truth and
    tells them to stop when they are as good as the search truly is, if they have not proved as much as it promised before (`true`).
    """
    found = {}
    for dimensions, instances in study.timed:
        rows = []
        for number in range(instances):
            oracle = random_world(seed * 1_000_003 + 500_000 + number, dimensions)
            start = time.perf_counter()
            search = lazy_search(oracle, SearchSettings(study.calls_epsilon, study.calls_delta))
            elapsed = time.perf_counter() - start
            truth = true_loss(oracle, np.array([solution.value for solution in search.solutions]))
            rng = np.random.default_rng([seed, number])
            rows.append((search.calls, elapsed, *_uniform(oracle, study, truth), *_random(oracle, study, truth, rng)))
            progress(f"{dimensions} rewards: {search.calls} calls in {elapsed:.2f} s; {number + 1} of {instances} worlds")
        columns = np.array(rows, dtype=np.float64).T
        bound = grid_bound(dimensions, study.calls_epsilon, study.calls_delta)
        grid = len(grid_weights(dimensions, study.calls_epsilon, study.calls_delta)) if bound <= GRID_LIMIT else bound
        names = ("lazy", "seconds", "uniform_proved", "uniform_true", "random_proved", "random_true")
        found[str(dimensions)] = {
            "instances": instances,
            "epsilon": study.calls_epsilon,
            "delta": study.calls_delta,
            "grid": grid,
            "grid_is_exact": bound <= GRID_LIMIT,
            "grid_over_lazy": float(grid / columns[0].mean()),
            "censored_at": MOST_WEIGHTS,
            "lazy_fewer_than": {name: float(np.mean(columns[0] < column)) for name, column in zip(names[2:], columns[2:], strict=True)},
            **{name: _interval(column) for name, column in zip(names, columns, strict=True)},
        }
    return found


def _uniform(oracle: BestOfN, study: OracleStudy, truth: float) -> tuple[float, float]:
    lattices: list[Array] = []
    steps = 1
    while not lattices or len(lattices[-1]) < MOST_WEIGHTS:
        lattices.append(simplex_lattice(oracle.dimensions, steps))
        steps += 1
    return _first(oracle, study, truth, lattices)


def _random(oracle: BestOfN, study: OracleStudy, truth: float, rng: np.random.Generator) -> tuple[float, float]:
    drawn = rng.dirichlet(np.ones(oracle.dimensions), size=MOST_WEIGHTS)
    sizes = np.unique(np.round(np.geomspace(1, MOST_WEIGHTS, 40)).astype(int))
    return _first(oracle, study, truth, [drawn[:size] for size in sizes])


def _first(oracle: BestOfN, study: OracleStudy, truth: float, sets: Sequence[Array]) -> tuple[float, float]:
    """Returns sizes of the first set that proves what is asked, and of the first that does or truly is as good; the last size if none."""
    known: dict[bytes, Solution] = {}
    proved = as_good = float(len(sets[-1]))
    for weights in sets:
        solutions = []
        for one in weights:
            key = one.tobytes()
            known[key] = known.get(key) or oracle.solve(one)
            solutions.append(known[key])
        if as_good == len(sets[-1]) and true_loss(oracle, np.array([s.value for s in solutions])) <= truth + 1e-9:
            as_good = float(len(weights))
        if prove(solutions, study.calls_epsilon).excess <= study.calls_delta + 1e-9:
            proved = float(len(weights))
            break
    return proved, min(as_good, proved)


def _interval(values: Array) -> dict[str, Any]:
    if len(values) == 0:
        return {"mean": None, "low": None, "high": None, "n": 0}
    found: Interval = bootstrap(values)
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.users}
