"""The same headline by aligned adapters: `attune portfolio build`'s own machinery, then portfolios of every size from its policies.

    training topics ─> adapters by DPO, one a call; policies valued ─> search ─> prune_to 1 .. 6 ─> Evidence on fresh prompts ─> certificate

The optimum at a weight is what the policy that was trained for it reaches, as in every certificate of trained members. Letters: `P`
prompts, `J` policies, `M` members, `d` rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.trained_member import MemberSettings, Prompts
from attune.models.portfolio.certify import Evidence
from attune.models.portfolio.end_to_end import PalmSettings, build_portfolio
from attune.models.portfolio.oracles import Solution
from attune.models.portfolio.prune import prune_to
from attune.models.portfolio.rewards import Normalisation
from attune.models.portfolio.search import Proof, prove
from demo.language_model.training import BASE_NAME
from demo.portfolio import PortfolioSettings, search_prompts
from demo.rewards import DEMO_SETTINGS
from studies.palm.planned import NOISE, WANTED, proved
from studies.palm.pools import fresh_prompts
from studies.palm.traded import traded_rewards

Array = NDArray[np.float64]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AdapterStudy:
    """How much is trained and measured.

    Attributes:
        calls: most adapters that are trained.
        asked: prompts of training topics to learn on and to value policies on, and of validation topics to choose checkpoints on.
        fresh: draws of prompts of test topics that certify.
        answers: of each policy to each draw.
        sizes: of portfolios, ascending.
        prompts: numbers of fresh draws at which the largest portfolio is certified too.
        member: how an adapter is aligned.
    """

    calls: int = 9
    asked: PortfolioSettings = field(default_factory=PortfolioSettings)
    fresh: int = 2000
    answers: int = 2
    sizes: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    prompts: tuple[int, ...] = (250, 500, 1000)
    member: MemberSettings = field(default_factory=lambda: replace(DEMO_SETTINGS, dpo=replace(DEMO_SETTINGS.dpo, checkpoints=4)))


def align_and_compare(
    base: Path, out: Path, names: tuple[str, ...], *, seed: int, study: AdapterStudy, progress: Progress
) -> dict[str, Any]:
    """Returns what portfolios of aligned adapters of every size give and prove; `out` keeps adapters and answers, and is gone on with.

    Raises:
        OracleFailed: an adapter could not be trained; see `build_portfolio`.
    """
    rewards = traded_rewards(names)
    size = len(names)
    palm = build_portfolio(
        base,
        rewards,
        Normalisation(np.zeros(size), np.ones(size)),
        out,
        family="rewards",
        seed=seed,
        settings=PalmSettings(
            epsilon=WANTED, delta=0.0, max_calls=study.calls, most_members=study.sizes[-1], answers=study.answers, member=study.member
        ),
        asked=_asked(seed, study),
        fresh=fresh_prompts(seed, study.fresh, ("test",)),
        base_name=BASE_NAME,
        progress=progress,
    )
    policies = palm.search.solutions
    fresh = np.stack([one.rewards(rewards).mean(axis=1) for one in palm.answers.values()], axis=1)
    return {
        "rewards": names,
        "calls": len(policies),
        "fresh": study.fresh,
        **compare_policies(policies, fresh, names, study.sizes, study.prompts),
    }


def compare_policies(
    policies: tuple[Solution, ...], fresh: Array, names: tuple[str, ...], sizes: tuple[int, ...], prompts: tuple[int, ...]
) -> dict[str, Any]:
    """Returns what portfolios of trained policies give and prove, by size and by number of fresh prompts.

    Args:
        policies: of a search, each with the optimum at its own weights.
        fresh: `[P, J, d]` rewards of their answers to fresh prompts.
        names: of the rewards.
        sizes: of portfolios, ascending.
        prompts: at which the largest is certified too, besides all.

    Raises:
        ValueError: there are no sizes.
    """
    asked = np.array([one.weights for one in policies])
    values = fresh.mean(axis=0)
    seen = tuple(replace(one, value=value, optimum=float(one.weights @ value)) for one, value in zip(policies, values, strict=True))
    optima = np.einsum("pjd,jd->pj", fresh, asked)
    planned_optima = np.array([float(one.optimum or 0.0) for one in policies])
    rows, evidence = [], None
    for size in sizes:
        chosen = list(prune_to(policies, size, WANTED, tolerance=NOISE).chosen)
        planned = np.array([policies[index].value for index in chosen])
        evidence = Evidence(fresh[:, chosen], asked, optima, planned, planned_optima)
        row = {"most": size, "members": len(chosen), **measured_trained(prove(seen, 0.0, chosen=chosen), values)}
        rows.append({**row, **proved(evidence, names, len(fresh)), "weights": asked[chosen].tolist()})
    if evidence is None:
        raise ValueError("there are no sizes; one at least is needed")
    by_prompts = [{"prompts": count, **proved(evidence, names, count)} for count in prompts if count < len(fresh)]
    return {"values": values.tolist(), "asked": asked.tolist(), "sizes": rows, "by_prompts": by_prompts}


def measured_trained(proof: Proof, values: Array) -> dict[str, float]:
    """Returns the worst ratio and gap of some members, and their worst ratio to the best of all policies, of values `[J, d]`.

    The first two are against `U`, the most that is possible if no policy exceeds at its own weights the one that was trained for them.
    """
    best = (proof.corners.weights @ values.T).max(axis=1)
    return {"ratio": proof.ratio, "gap": proof.gap, "trained": float(np.min(proof.corners.lower / best))}


def _asked(seed: int, study: AdapterStudy) -> Prompts:
    return search_prompts(seed, study.asked)[0]
