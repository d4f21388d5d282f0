"""`python -m studies portfolio-users`: what users lose with the demo's portfolio against a model of their own, and against chance.

    simulated users ─> one DPO adapter for each, as in the search ─┐
    search.jsonl: the policies that the search trained ────────────┴─> all answer test prompts ─> losses of portfolios of every size

A portfolio's loss to a user is the reward of the best policy at hand less that of the member that serves. We choose the
best and the serving policy on the search's prompts and measure both on test topics, to avoid selection bias. The worst user is looked
for over the whole simplex. Letters: `P` prompts, `J` policies, `M` members, `U` users, `d` rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.base_answers import Rewards, sample_answers
from attune.models.alignment.causal import load
from attune.models.alignment.trained_member import fingerprint
from attune.models.measuring.figures import over_resamples
from attune.models.measuring.report_files import made_by, write_report
from attune.models.portfolio.end_to_end import NOISE
from attune.models.portfolio.geometry import lower_corners
from attune.models.portfolio.oracles import Solution
from attune.models.portfolio.prune import prune_to
from attune.models.portfolio.search import read_state
from demo.corpus.texts import prompts
from demo.portfolio import PortfolioSettings, demo_rewards, train_policies
from demo.rewards import MANNER_REWARDS

Array = NDArray[np.float64]
Tell = Callable[[str], None]

GAP = 0.015
RESAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class Policies:
    """Trained policies and what they are worth.

    Attributes:
        names: `J`.
        weights: `[J, d]` that each was aligned to.
        searched: `[J, d]` values on the search's prompts, which choose.
        measured: `[P, J, d]` rewards on test prompts, which measure.
    """

    names: tuple[str, ...]
    weights: Array
    searched: Array
    measured: Array


def compare_portfolios(
    demo: Path,
    work: Path,
    out: Path,
    *,
    users: int = 30,
    draws: int = 20,
    largest: int = 8,
    seed: int = 0,
    jobs: int = 1,
    settings: PortfolioSettings | None = None,
    progress: Tell,
) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out` and returns the results.

    Args:
        demo: folder with heads and base language model.
        work: of the search (`python -m demo portfolio --work`); the users' models join its members, and a killed run goes on.
        out: made if absent.
        users: weights drawn uniformly from the simplex, each with a model of their own; random portfolios are drawn from these models.
        draws: random portfolios of each size.
        largest: sizes of portfolios are 1 to this.
        seed: of users and draws.
        jobs: models trained at the same time, each in a process with one thread.
        settings: those of the search.
        progress: told a line now and then.

    Raises:
        FileNotFoundError: `work` has no search.
        OracleFailed: a user's model could not be trained; those before it are kept.
    """
    settings = settings or PortfolioSettings()
    if not (work / "search.jsonl").is_file():
        raise FileNotFoundError(f"{work} has no search.jsonl; `python -m demo portfolio --work {work}` makes it")
    rng = np.random.default_rng([seed, 11])
    rewards = demo_rewards(demo, work)[1]
    searched = read_state(work / "search.jsonl", len(rewards.names), 0.0)
    asked = np.round(rng.dirichlet(np.ones(len(rewards.names)), size=users), 3)
    own = train_policies(demo, work, asked / asked.sum(axis=1, keepdims=True), settings=settings, jobs=jobs, progress=progress)
    solutions = [*searched, *own]
    measured = _measure(demo, work, solutions, {"heads": rewards, "true manners": MANNER_REWARDS}, progress)
    results: dict[str, Any] = {
        "attune": made_by(),
        "seed": seed,
        "users": users,
        "draws": draws,
        "searched": len(searched),
        "rewards": rewards.names,
        "prompts": len(next(iter(measured.values()))),
        "judged_by": {},
    }
    named = np.array([one.weights.max() for one in searched])  # the preference of the search's own pruning
    sizes = {size: prune_to(searched, size, 0.0, prefer=named, tolerance=NOISE).chosen for size in range(1, largest + 1)}
    results["portfolios"] = {str(size): [searched[index].handle for index in chosen] for size, chosen in sizes.items()}
    for judge, values in measured.items():
        policies = Policies(
            tuple(one.handle for one in solutions),
            np.array([one.weights for one in solutions]),
            np.array([one.value for one in solutions]),
            values,
        )
        results["judged_by"][judge] = _losses(policies, sizes, len(searched), draws, np.random.default_rng([seed, 12]))
    write_report(out, results, render(results))
    return results


# --- policies


def _measure(demo: Path, work: Path, solutions: Sequence[Solution], judges: dict[str, Rewards], progress: Tell) -> dict[str, Array]:
    """Returns `[P, J, d]` rewards of one answer of every policy to each test prompt, under each judge."""
    base = demo / "language_model" / "base"
    asked = tuple(prompt.text for prompt in prompts("test", 0))
    folders = {one.handle: work / "members" / one.handle for one in solutions}
    found: dict[str, list[Array]] = {judge: [] for judge in judges}
    for number, (name, folder) in enumerate(folders.items()):
        model = load(base, {name: folder})
        told = f"{fingerprint(base)} {fingerprint(folder)}"
        said = sample_answers(model, name, asked, 1, 1_000 + number, work / "tested" / f"{name}.jsonl", told)
        for judge, rewards in judges.items():
            found[judge].append(said.rewards(rewards).mean(axis=1))
        if (number + 1) % 10 == 0:
            progress(f"{number + 1} of {len(folders)} policies answered {len(asked)} test prompts")
    return {judge: np.stack(values, axis=1) for judge, values in found.items()}


# --- losses


def _losses(policies: Policies, sizes: dict[int, tuple[int, ...]], searched: int, draws: int, rng: np.random.Generator) -> dict[str, Any]:
    own = np.arange(searched, len(policies.names))
    found: dict[str, Any] = {"sizes": {}}
    for size, chosen in sizes.items():
        random = [worst_user(policies, rng.choice(own, size=size, replace=False), rng, resamples=0) for _ in range(draws)]
        found["sizes"][str(size)] = {
            "searched": worst_user(policies, np.array(chosen), rng),
            "random": {name: float(np.mean([one[name] for one in random])) for name in ("gap", "ratio")},
            "random_gaps": sorted(one["gap"] for one in random),
            "own": own_model(policies, np.array(chosen), own, rng),
        }
    corners = np.array([int(np.argmax(policies.weights[:searched, axis])) for axis in range(policies.weights.shape[1])])
    found["uniform"] = worst_user(policies, corners, rng)
    found["members_for_gap"] = next(
        (int(size) for size, row in found["sizes"].items() if row["searched"]["gap"] <= GAP),
        None,
    )
    return found


def worst_user(policies: Policies, members: NDArray[np.int64], rng: np.random.Generator, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Returns what the worst served user of a portfolio loses to the best of all policies.

    By the search's values the loss is greatest at a corner of the members' cells. There the best policy and the member are measured
    on test prompts: `gap`, with a 95 % bootstrap interval over prompts unless `resamples` is 0, and `ratio`, the gap over the best.

    Args:
        policies: all.
        members: indices of the portfolio.
        rng: of the bootstrap.
        resamples: how many.
    """
    corners = lower_corners(policies.searched[members])
    best = corners.weights @ policies.searched.T
    weights = corners.weights[int(np.argmax(best.max(axis=1) - corners.lower))]
    chosen = int(np.argmax(policies.searched @ weights))
    serving = int(members[np.argmax(policies.searched[members] @ weights)])
    gained = policies.measured[:, [chosen, serving]] @ weights
    differences = gained[:, 0] - gained[:, 1]
    found: dict[str, Any] = {
        "weights": weights.round(3).tolist(),
        "best": policies.names[chosen],
        "serving": policies.names[serving],
        "gap": float(differences.mean()),
        "ratio": float(differences.mean() / gained[:, 0].mean()),
    }
    if resamples:
        drawn = over_resamples(rng, len(differences), resamples, lambda picked: differences[picked].mean(axis=1))
        found["low"], found["high"] = np.quantile(drawn, [0.025, 0.975]).tolist()
    return found


def own_model(policies: Policies, members: NDArray[np.int64], own: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Any]:
    """Returns what users lose to the model that was aligned to them alone: mean `gap` and `ratio`, and the greatest of a single user."""
    weights = policies.weights[own]
    serving = members[np.argmax(weights @ policies.searched[members].T, axis=1)]
    mine = np.einsum("pud,ud->pu", policies.measured[:, own], weights)
    served = np.einsum("pud,ud->pu", policies.measured[:, serving], weights)
    losses = (mine - served).mean(axis=0)
    drawn = over_resamples(rng, len(own), RESAMPLES, lambda picked: losses[picked].mean(axis=1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    worst = int(np.argmax(losses))
    error = float((mine - served)[:, worst].std(ddof=1) / np.sqrt(len(mine)))
    return {
        "gap": float(losses.mean()),
        "low": float(low),
        "high": float(high),
        "ratio": float(losses.sum() / mine.mean(axis=0).sum()),
        "worst": float(losses[worst]),
        "worst_error": error,
    }


def render(results: dict[str, Any]) -> str:
    """Returns report.md."""
    lines = [
        "# The demo's portfolio against models of users' own",
        "",
        f"{results['searched']} policies of the search; {results['users']} users drawn uniformly from the simplex with a model each,",
        f"of which random portfolios are drawn {results['draws']} times; {results['prompts']} prompts of test topics, one answer each;",
        f"seed {results['seed']}, Attune {results['attune']}. Gaps are in normalised reward, with 95 % intervals over prompts (worst",
        "user) or over users (mean). The worst user is looked for over the whole simplex; who is best there and who serves is chosen",
        "by the search's prompts.",
    ]
    for judge, found in results["judged_by"].items():
        lines += [
            "",
            f"## Rewards by {judge}",
            "",
            f"Fewest members for a gap of {GAP:g} at the worst user: {found['members_for_gap'] or 'more than measured'}.",
            "",
            "| members | worst user: gap | ratio | of random portfolios: mean, least | users' own models: mean gap | ratio | greatest |",
            "|---|---|---|---|---|---|---|",
        ]
        for size, row in found["sizes"].items():
            worst, own, random = row["searched"], row["own"], row["random"]
            lines.append(
                f"| {size} | {worst['gap']:.3f} [{worst['low']:.3f}, {worst['high']:.3f}] | {worst['ratio']:.1%} | {random['gap']:.3f}, "
                f"{row['random_gaps'][0]:.3f} | {own['gap']:.3f} [{own['low']:.3f}, {own['high']:.3f}] | {own['ratio']:.1%} | "
                f"{own['worst']:.3f} ± {own['worst_error']:.3f} |"
            )
        even = found["uniform"]
        lines += [
            "",
            f"The simplex's corners, which are the weights spread most evenly: {even['gap']:.3f} [{even['low']:.3f}, {even['high']:.3f}].",
        ]
    lines += ["", "## Members", ""]
    lines += [f"- {size}: {', '.join(names)}" for size, names in results["portfolios"].items()]
    return "\n".join(lines) + "\n"
