"""`python -m studies routing`: what users of a portfolio get, round by round, from Attune and from bandits that know nothing beforehand.

    users ~ Dirichlet(0.3) over the certified family's rewards; a round: two members answer, the user picks one, everybody learns

The truth is `w · r` of the members' real answers to test prompts, `r` the family's rewards normalised to [0, 1] as the certificate
has them. All strategies meet the same users, prompts, answers and luck in choosing. Axis letters: `U` users, `R` rounds,
`P` prompts, `M` members, `G` answers of one member to one prompt, `d` rewards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.measuring.figures import bootstrap
from attune.models.measuring.report_files import bar, interval, table, write_report
from attune.models.measuring.rows import rows_from_bundle
from attune.models.portfolio.pool import Pool
from attune.models.seam.bundle import Bundle, read_bundle
from attune.models.seam.certificate import Certificate
from attune.models.seam.families import Families
from attune.models.seam.portfolio import Portfolio
from demo.corpus.tastes import choose
from demo.heads import DemoSettings
from demo.members import member_pool
from demo.simulate import EPSILON, SAMPLES, Arena
from studies.bandits.bandits import FeelGoodDueling, Personal, RelativeUcb, Single, Strategy, Uniform

Array = NDArray[np.float64]

ATTUNE, ATTUNE_BEST = "Attune, sample", "Attune, best"
SHOWN_AT = (1, 2, 3, 5, 10, 20, 30)


@dataclass(frozen=True, slots=True)
class RoutingSettings:
    """How much to measure, and who the users are.

    Attributes:
        users: for each seed.
        seeds: of users, prompts and choices.
        rounds: comparisons of a user.
        concentration: of the Dirichlet that users' weights over the rewards are drawn from.
        sharpness: of their choices (Bradley-Terry).
    """

    users: int = 100
    seeds: tuple[int, ...] = (1, 2, 3)
    rounds: int = 30
    concentration: float = 0.3
    sharpness: float = 38.0


def evaluate_demo_routing(bundle: Path, demo: Path, out: Path, *, users: int) -> dict[str, Any]:
    """Returns `evaluate_routing` of a demo bundle on its members' answers to test prompts, which `demo` keeps or gets."""
    pool = member_pool(demo, "test", DemoSettings(), seed=0)
    return evaluate_routing(read_bundle(bundle), pool, out, RoutingSettings(users=users))


def evaluate_routing(bundle: Bundle, pool: Pool, out: Path, settings: RoutingSettings | None = None) -> dict[str, Any]:
    """Writes `report.md`, `results.json` and `regret.png` into `out` and returns the results.

    Args:
        bundle: with a certificate; its graph scores all answers.
        pool: the members' answers to test prompts.
        out: made if absent.
        settings: see there.

    Raises:
        ValueError: the bundle has no certificate, or the answers are of other members.
    """
    settings = settings or RoutingSettings()
    certificate = bundle.portfolio.certificate
    if certificate is None:
        raise ValueError(f"{bundle.id} has no certificate: there are no normalised rewards to draw users over")
    if bundle.portfolio.names != pool.members:
        raise ValueError(f"{bundle.id} has members {bundle.portfolio.names}; the answers are of {pool.members}")
    feedback, held_out = reward_arenas(bundle, certificate, pool)
    outcomes: dict[str, list[ServedRounds]] = {}
    for seed in settings.seeds:
        sys.stderr.write(f"{settings.users} users, seed {seed}\n")
        for name, found in study(bundle.families, bundle.portfolio, certificate.family, feedback, held_out, settings, seed).items():
            outcomes.setdefault(name, []).append(found)
    results = {
        "bundle": bundle.id,
        "family": certificate.family,
        "rewards": list(certificate.rewards),
        "answers": {"source": pool.source, "prompts": len(pool.prompts), "answers_per_member": pool.shape[2]},
        "settings": asdict(settings),
        "strategies": {name: summarise(runs) for name, runs in outcomes.items()},
    }
    write_report(out, results, render(results))
    draw(results, out / "regret.png")
    return results


@dataclass(frozen=True, slots=True)
class ServedRounds:
    """What one strategy gave.

    Attributes:
        regret: `[U, R]` of each round: utility of the best member minus the mean of those shown.
        served: `[U, R + 1]` share of the best member's utility on unseen prompts that its own best member gives after so many
            rounds.
    """

    regret: Array
    served: Array


def reward_arenas(bundle: Bundle, certificate: Certificate, pool: Pool) -> tuple[Arena, Arena]:
    """Returns where users compare and where serving is measured, every other prompt each, with normalised rewards for scores."""
    prompts, members, answers = pool.shape
    rows = rows_from_bundle(bundle, pool.texts())
    raw = np.array([row[f"{certificate.family}_rewards"] for row in rows.candidates], dtype=np.float64)
    rewards = np.clip((raw - certificate.offset) / certificate.scale, 0.0, 1.0).reshape(prompts, members, answers, -1)

    def arena(start: int) -> Arena:
        chosen = range(start, prompts, 2)
        table = [[[rows.candidates[(p * members + m) * answers + g] for g in range(answers)] for m in range(members)] for p in chosen]
        return Arena([rows.prompts[p] for p in chosen], table, rewards[start::2])

    return arena(0), arena(1)


def study(
    families: Families, portfolio: Portfolio, family: str, feedback: Arena, held_out: Arena, settings: RoutingSettings, seed: int
) -> dict[str, ServedRounds]:
    """Returns what each strategy gives to the same users: strategy -> outcome."""
    size = feedback.scores.shape[-1]
    users = np.random.default_rng([seed, 0]).dirichlet(np.full(size, settings.concentration), size=settings.users)
    # The best single member is chosen on other users of the same population, on the prompts where feedback is given.
    others = np.random.default_rng([seed, 1]).dirichlet(np.full(size, settings.concentration), size=2000)
    single = int(np.argmax(feedback.scores.mean(axis=(0, 2)) @ others.mean(axis=0)))
    members = len(portfolio.names)
    make: Mapping[str, Callable[[np.random.Generator], Strategy]] = {
        ATTUNE: lambda rng: Personal(families, portfolio, family, "sample", rng, EPSILON, SAMPLES),
        ATTUNE_BEST: lambda rng: Personal(families, portfolio, family, "best", rng, EPSILON, SAMPLES),
        "feel-good dueling Thompson": lambda rng: FeelGoodDueling(members, rng, settings.sharpness),
        "relative UCB": lambda rng: RelativeUcb(members, rng),
        "best single member": lambda rng: Single(single),  # noqa: ARG005 - nothing is random about it
        "uniform": lambda rng: Uniform(members, rng),
    }
    found = {}
    for name, build in make.items():
        runs = [
            _one_user(build(np.random.default_rng([seed, 2, user])), weights, feedback, held_out, settings, seed, user)
            for user, weights in enumerate(users)
        ]
        found[name] = ServedRounds(np.array([regret for regret, _ in runs]), np.array([served for _, served in runs]))
    return found


def _one_user(
    strategy: Strategy, weights: Array, feedback: Arena, held_out: Arena, settings: RoutingSettings, seed: int, user: int
) -> tuple[list[float], list[float]]:
    # Prompts, answers and luck come from a stream of their own, so that every strategy meets the same.
    order = np.random.default_rng([seed, 3, user]).permutation(len(feedback.prompts))
    expected = (feedback.scores @ weights).mean(axis=2)  # [P, M]
    truth = (held_out.scores @ weights).mean(axis=2)
    best = float(truth.mean(axis=0).max())
    regret: list[float] = []
    served = [_served(strategy, held_out, truth) / best]
    for number in range(settings.rounds):
        luck = np.random.default_rng([seed, 4, user, number])
        prompt = int(order[number % len(order)])
        pair = strategy.pair(feedback.prompts[prompt])
        regret.append(float(expected[prompt].max() - expected[prompt, list(pair)].mean()))
        if pair[0] != pair[1]:
            answers = [(member, int(luck.integers(feedback.scores.shape[2]))) for member in pair]
            utilities = np.array([float(feedback.scores[prompt, member, answer] @ weights) for member, answer in answers])
            winner = choose(luck, utilities, settings.sharpness)
            rows = [feedback.answers[prompt][member][answer] for member, answer in answers]
            strategy.learn(pair[winner], pair[1 - winner], rows[winner], rows[1 - winner], feedback.prompts[prompt])
        served.append(_served(strategy, held_out, truth) / best)
    return regret, served


def _served(strategy: Strategy, held_out: Arena, truth: Array) -> float:
    return float(np.mean([truth[row, strategy.best(prompt)] for row, prompt in enumerate(held_out.prompts)]))


def summarise(runs: Sequence[ServedRounds]) -> dict[str, Any]:
    """Returns cumulative regret and served share, mean and 95 % interval over the users of all seeds, by round."""
    cumulative = np.cumsum(np.concatenate([run.regret for run in runs]), axis=1)
    served = np.concatenate([run.served for run in runs])
    return {
        "cumulative_regret": [asdict(bootstrap(cumulative[:, number])) for number in range(cumulative.shape[1])],
        "served_share": [asdict(bootstrap(served[:, number])) for number in range(served.shape[1])],
    }


def render(results: Mapping[str, Any]) -> str:
    """Returns the report: cumulative regret and share of the best member's utility, and whether the promises are kept."""
    settings = results["settings"]
    shown = [number for number in SHOWN_AT if number <= settings["rounds"]]
    lines = [
        "# Routing against bandits",
        "",
        f"- bundle `{results['bundle']}`, family `{results['family']}`, rewards {', '.join(results['rewards'])}",
        (
            f"- {settings['users']} users for each of seeds {list(settings['seeds'])}, Dirichlet({settings['concentration']}), sharpness "
            f"{settings['sharpness']:g}; {results['answers']['prompts']} test prompts, {results['answers']['answers_per_member']} "
            "answers of each member to each; 95 % bootstrap intervals over users"
        ),
        "",
        "## Cumulative regret (utility of the best member minus the mean of those shown, summed over rounds)",
        "",
        *_curves(results, "cumulative_regret", [number - 1 for number in shown], [f"{number} rounds" for number in shown]),
        "",
        "## Share of the best member's utility on unseen prompts, if the strategy's best member is served",
        "",
        *_curves(results, "served_share", [0, *shown], ["cold", *(f"after {number}" for number in shown)]),
        "",
        "## Promises",
        "",
        *_promises(results),
    ]
    return "\n".join(lines) + "\n"


def _promises(results: Mapping[str, Any]) -> list[str]:
    after = min(10, results["settings"]["rounds"])
    ours = results["strategies"][ATTUNE]
    share = ours["served_share"][after]
    kept = share["mean"] >= 0.95
    lines = [bar(f"after {after} comparisons at least 95 % of the best member's utility", interval(share), kept=kept)]
    last = ours["cumulative_regret"][-1]
    for name, found in results["strategies"].items():
        if name in {ATTUNE, ATTUNE_BEST}:
            continue
        other = found["cumulative_regret"][-1]
        kept = last["high"] < other["low"]
        lines.append(bar(f"regret below {name}, intervals apart", f"{interval(last)} against {interval(other)}", kept=kept))
    return lines


def _curves(results: Mapping[str, Any], what: str, indices: Sequence[int], header: Sequence[str]) -> list[str]:
    rows = [[name, *(interval(found[what][index]) for index in indices)] for name, found in results["strategies"].items()]
    return table(["strategy", *header], rows)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Writes the curves of cumulative regret with their intervals as a picture."""
    import matplotlib as mpl  # noqa: PLC0415 - a second that only pictures need

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, found in results["strategies"].items():
        for axes, what, first in ((left, "cumulative_regret", 1), (right, "served_share", 0)):
            curve = found[what]
            rounds = np.arange(first, first + len(curve))
            [line] = axes.plot(rounds, [point["mean"] for point in curve], label=name)
            axes.fill_between(
                rounds, [point["low"] for point in curve], [point["high"] for point in curve], alpha=0.15, color=line.get_color()
            )
    left.set(xlabel="comparisons", ylabel="cumulative regret (utility)")
    right.set(xlabel="comparisons", ylabel="share of the best member's utility")
    left.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
