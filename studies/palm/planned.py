"""Portfolios of one to six members from a search, and what fresh prompts prove of each.

    lattice + lazy search ─> policies ─> prune_to 1 .. 6 ─> Planned ─┐
    fresh prompts ─> members [P, M, d], optima [P, J] ───────────────┴─> proved: worst ratio, gap, certificate

Everything that is planned is fixed before a fresh prompt is seen. Letters: `P` prompts, `N` answers to each, `d` rewards, `M` members,
`J` weights at which the optimum is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.portfolio.certify import Evidence, certify
from attune.models.portfolio.geometry import lower_corners, simplex_lattice
from attune.models.portfolio.oracles import BestOfN, Solution
from attune.models.portfolio.prune import prune_to
from attune.models.portfolio.rewards import Normalisation
from attune.models.portfolio.search import SearchSettings, lazy_search, tighten

Array = NDArray[np.float64]

WANTED = 0.01
"""Share that is searched for. Fresh prompts differ from those of the search, and 1.5 % is wanted there."""

NOISE = 1e-3
"""Value by which portfolios may differ before one counts as better."""

CALLS = 25
LATTICE_STEPS = {2: 20, 3: 10, 4: 5}
"""By number of rewards: so fine are the weights at which policies are looked for besides those that the search asks for."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A portfolio: weights `[M, d]` of its members, their values `[M, d]` in the search, and asked weights `[J, d]` with optima `[J]`."""

    weights: Array
    values: Array
    asked: Array
    optima: Array


def plan_best_of_n(oracle: BestOfN, sizes: tuple[int, ...], *, calls: int = CALLS) -> dict[int, Planned]:
    """Returns, for each size, a portfolio of at most so many members of best-of-n by weights.

    Policies are those of a lattice of weights and those that a lazy search asks for. The bound of the optimum is asked anew at the
    corners of the portfolio that was chosen, which makes it exact there.
    """
    start = [oracle.solve(weights) for weights in simplex_lattice(oracle.dimensions, LATTICE_STEPS[oracle.dimensions])]
    search = lazy_search(oracle, SearchSettings(WANTED / 3, max_calls=calls), start=start)
    found = {}
    for size in sizes:
        chosen = prune_to(search.solutions, size, WANTED, limit_s=2.0, tolerance=NOISE).chosen
        members = [search.solutions[index] for index in chosen]
        bounded = tighten(oracle, members, range(len(members)), WANTED, factor=1.0)
        found[size] = planned_from(members, bounded)
    return found


def planned_from(members: list[Solution], bounded: tuple[Solution, ...]) -> Planned:
    """Returns the portfolio of `members`, with the optimum bounded where `bounded` were asked."""
    return Planned(
        np.array([one.weights for one in members]),
        np.array([one.value for one in members]),
        np.array([one.weights for one in bounded]),
        np.array([float(one.optimum or 0.0) for one in bounded]),
    )


def best_of_n_evidence(planned: Planned, rewards: Array) -> Evidence:
    """Returns what pools of answers `[P, N, d]` to fresh prompts say of a portfolio whose members choose among them."""
    fresh = BestOfN(rewards)
    members = np.stack([fresh.per_prompt(weights) for weights in planned.weights], axis=1)
    optima = np.stack([(fresh.rewards @ weights).max(axis=1) for weights in planned.asked], axis=1)
    return Evidence(members, planned.asked, optima, planned.values, planned.optima)


def proved(evidence: Evidence, names: tuple[str, ...], prompts: int) -> dict[str, float]:
    """Returns the certificate of the first `prompts` with 95 % confidence, by betting bounds: `certified` (ratio) and `certified_gap`."""
    part = Evidence(evidence.members[:prompts], evidence.asked, evidence.optima[:prompts], evidence.planned, evidence.planned_optima)
    unit = Normalisation(np.zeros(len(names)), np.ones(len(names)))
    found = certify(part, unit, family="rewards", rewards=names, epsilon=WANTED, confidence=0.95, method="betting")
    return {"certified": found.worst_ratio, "certified_gap": found.gap}


def measured(values: Array, oracle: BestOfN) -> dict[str, float]:
    """Returns the exact worst ratio and gap over all users of members with `values` `[M, d]`, against the oracle's optimum.

    Between two corners the members' best value is linear and the optimum convex, so that a corner is the worst for both.
    """
    corners = lower_corners(values)
    optima = np.array([oracle.optimum(weights) for weights in corners.weights])
    return {"ratio": float(np.min(corners.lower / optima)), "gap": float(np.max(optima - corners.lower))}
