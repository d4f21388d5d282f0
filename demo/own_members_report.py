"""`python -m demo own-members`: what is reached from a roster alone, and by policy `learn`, as report.md and results.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import embed_texts
from attune.models.data.trunk import load_demo_trunk
from attune.models.measuring.figures import ACCURACY, GAIN, Bounds, bootstrap
from attune.models.measuring.report_files import made_by, write_report
from attune.models.measuring.rows import rows_from_heads
from attune.models.seam.attributes import NAME as FAMILY
from attune.models.seam.families import Families
from attune.models.seam.portfolio import Portfolio, read_portfolio
from attune.models.training.heads import families_of, load_heads
from demo.corpus.tastes import draw_users
from demo.heads import DemoSettings
from demo.ideal_learner import ideal_learner
from demo.members import member_pool
from demo.own_members import Deployment, Joining, curve, deployment, join, own_members
from demo.report import DEMO, arenas
from demo.simulate import Arena, simulate

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class IdealOptions:
    """One exact Bayes.

    Attributes:
        offered: how many questions it may choose from.
        as_served: it draws pairs by the law of policy `learn`.
        sees_rewards: it knows answers and members by a family's rewards, and how large their errors are, in place of the truth.
    """

    offered: int = 1
    as_served: bool = False
    sees_rewards: bool = False


COUNTS = (0, 3, 5, 10, 20)
THUMBS = (0, 10, 30)
HIDDEN = 0.08
"""Of utility, about 3 logits of a choice: what the upstreams of one experiment are worth beyond what any head sees."""
OFFERED = {"policy sample": 0, "policy learn": 1, "policy learn, choosing among 16 questions too": 16}
"""How many questions each policy may choose from."""
IDEAL = {
    "exact Bayes, which always asks the best pair": IdealOptions(),
    "exact Bayes, which always asks the best pair under the best of 16 questions": IdealOptions(offered=16),
    "exact Bayes, drawing pairs as policy learn does": IdealOptions(as_served=True),
    "exact Bayes on the heads' rewards, which always asks the best pair": IdealOptions(sees_rewards=True),
    "exact Bayes on the heads' rewards, drawing pairs as policy learn does": IdealOptions(sees_rewards=True, as_served=True),
}
"""What each exact Bayes knows and may do."""
IDEAL_COUNTS = (0, 3, 5)
"""It is asked about onboarding alone: minutes for what it can know after more."""
VOICES, NEWCOMER = ("concise", "detailed", "playful"), "formal"


def report_own_members(out: Path, *, seeds: int, users: int, seed: int, cache: Path | None) -> str:
    """Writes the report into `out` and returns it.

    Args:
        out: made if absent.
        seeds: deployments, each with users of its own.
        users: of each deployment.
        seed: the first.
        cache: folder of the embedding cache.
    """
    portfolio, families, feedback, held_out, names = _measured(cache)
    voices, newcomer = [names.index(name) for name in VOICES], names.index(NEWCOMER)
    numbers = range(seed, seed + seeds)

    def world(number: int, *, effects: bool, hidden: float = 0.0) -> Deployment:
        tastes = draw_users(users, 10 + number)
        return deployment(families, FAMILY, feedback, tastes, voices=voices, seed=number, effects=effects, hidden=hidden)

    # Bundles learn no member effects unless they are asked to, so what is promised is measured without them.
    runs = [own_members(world(number, effects=False), newcomer, COUNTS) for number in numbers]
    with_effects = [own_members(world(number, effects=True), newcomer, COUNTS) for number in numbers]
    thumbs = [curve(world(number, effects=False), THUMBS, thumbs=True)[0] for number in numbers]
    beyond = {
        name: [curve(world(number, effects=with_them, hidden=HIDDEN), COUNTS)[0] for number in numbers]
        for name, with_them in (("texts alone", False), ("with member effects", True))
    }
    results: dict[str, Any] = {
        "attune": made_by(),
        "family": FAMILY,
        "seeds": seeds,
        "users": users,
        "best": {count: _stated(np.concatenate([run.best[count] for run in runs])) for count in COUNTS},
        "worth": {count: _stated(np.concatenate([run.worth[count] for run in runs]), None) for count in COUNTS},
        **_joining([run.joining for run in runs]),
        "ideal": _joining([run.ideal for run in runs]),
        "greatest_drift_without_change": [run.false_alert for run in runs],
        "noticed_after_answers": [run.noticed_after for run in runs],
        "alert_after_answers": [run.alert_after for run in runs],
        "recovered": [run.recovered for run in runs],
        "with_effects": {
            "best": {count: _stated(np.concatenate([run.best[count] for run in with_effects])) for count in COUNTS},
            **_joining([run.joining for run in with_effects]),
        },
        "thumbs": {count: _stated(np.concatenate([run[count] for run in thumbs])) for count in THUMBS},
        "beyond_texts": {
            name: {count: _stated(np.concatenate([run[count] for run in found])) for count in COUNTS} for name, found in beyond.items()
        },
        "learn": _learned(portfolio, families, feedback, held_out, users, range(seed + 1, seed + 1 + seeds)),
    }
    text = _rendered(results)
    write_report(out, results, text)
    return text


def report_joining(out: Path, *, seeds: int, users: int, seed: int, decisions: int, cache: Path | None) -> str:
    """Writes what becomes of a fourth member alone, over many deployments, and returns it; arguments as for `report_own_members`."""
    _, families, feedback, _, names = _measured(cache)
    voices, newcomer = [names.index(name) for name in VOICES], names.index(NEWCOMER)
    runs = []
    for number in range(seed, seed + seeds):
        world = deployment(families, FAMILY, feedback, draw_users(users, 10 + number), voices=voices, seed=number, effects=False)
        curve(world, (COUNTS[-1],))
        runs.append(join(world, newcomer, decisions))
    routed, ideal = (_joining([run[which] for run in runs]) for which in (0, 1))
    lines = [
        "# A fourth member joins\n",
        f"{seeds} deployments of {users} users, {COUNTS[-1]} comparisons each before; {decisions} decisions after.\n",
        "| | served to those whom it suits | wrong decisions of everybody else rose by |\n|---|---|---|",
        f"| policy `best` | {routed['joined']} | {routed['wrong_more']} |",
        f"| exact Bayes from the same comparisons | {ideal['joined']} | {ideal['wrong_more']} |",
    ]
    text = "\n".join(lines) + "\n"
    results = {"attune": made_by(), "seeds": seeds, "users": users, "decisions": decisions, "routed": routed, "ideal": ideal}
    write_report(out, results, text)
    return text


def report_learning(out: Path, *, seeds: int, users: int, seed: int, cache: Path | None, ideal: bool = False) -> str:
    """Writes how soon the demo's best member is found by each policy alone, and returns it; arguments as for `report_own_members`.

    With `ideal` exact Bayes is measured as well, which takes minutes.
    """
    portfolio, families, feedback, held_out, _ = _measured(cache)
    numbers = range(seed + 1, seed + 1 + seeds)
    learned = _learned(portfolio, families, feedback, held_out, users, numbers)
    if ideal:
        learned |= _ideally_learned(portfolio, feedback, held_out, users, numbers)
    head = f"# How soon the best member is found\n\n{seeds} groups of {users} users; mean [95 % interval over users].\n"
    text = "\n".join([head, *_table(_learning_rows(learned))]) + "\n"
    write_report(out, {"attune": made_by(), "seeds": seeds, "users": users, "learn": learned}, text)
    return text


def _learned(
    portfolio: Portfolio, families: Families, feedback: Arena, held_out: Arena, users: int, numbers: Sequence[int]
) -> dict[str, dict[int, str]]:
    """Returns for each policy, and number of comparisons, the share of users whose truly best member `best` serves."""
    found = {}
    for name, offered in OFFERED.items():
        groups = [
            simulate(
                families,
                portfolio,
                feedback,
                held_out,
                draw_users(users, number),
                router=FAMILY,
                seed=number,
                counts=COUNTS,
                pairs=2,
                learn_from=offered,
            ).correct
            for number in numbers
        ]
        found[name] = {count: _stated(np.concatenate(groups)[:, at]) for at, count in enumerate(COUNTS)}
    return found


def _ideally_learned(
    portfolio: Portfolio, feedback: Arena, held_out: Arena, users: int, numbers: Sequence[int]
) -> dict[str, dict[int, str]]:
    """Returns the same of exact Bayes: what no policy can beat, and what of it the law of the draw and the heads' errors cost."""
    rewards = np.array([[[answer[f"{FAMILY}_rewards"] for answer in member] for member in prompt] for prompt in feedback.answers])
    seen = rewards.astype(np.float64), portfolio.values_for(FAMILY, None)
    found = {}
    for name, options in IDEAL.items():
        groups = [
            ideal_learner(
                feedback,
                held_out,
                draw_users(users, number),
                seed=number,
                counts=IDEAL_COUNTS,
                seen=seen if options.sees_rewards else None,
                as_served=options.as_served,
                learn_from=options.offered,
            )
            for number in numbers
        ]
        found[name] = {count: _stated(np.concatenate(groups)[:, at]) for at, count in enumerate(IDEAL_COUNTS)}
    return found


def _learning_rows(learned: dict[str, dict[int, str]]) -> dict[str, dict[int, str]]:
    return {f"demo's members, {name}: truly best member": row for name, row in learned.items()}


def _table(rows: dict[str, dict[int, str]]) -> list[str]:
    head = "| comparisons | " + " | ".join(map(str, COUNTS)) + " |\n|---|" + "---|" * len(COUNTS)
    return [head, *(f"| {name} | " + " | ".join(row.get(count, "") for count in COUNTS) + " |" for name, row in rows.items())]


def _measured(cache: Path | None) -> tuple[Portfolio, Families, Arena, Arena, Sequence[str]]:
    """Returns the demo's members' values, its families, prompts to learn on and to measure on, and the voices' names."""
    pool = member_pool(DEMO, "test", DemoSettings(), seed=0)
    trained, _ = load_heads(DEMO)
    families = families_of(trained)
    portfolio = read_portfolio((DEMO / "portfolio.json").read_bytes(), families, (DEMO / "values.npz").read_bytes())
    feedback, held_out = arenas(pool, rows_from_heads(trained, embed_texts(pool.texts(), load_demo_trunk(), cache)))
    return portfolio, families, feedback, held_out, pool.members


def _joining(found: Sequence[Joining]) -> dict[str, str]:
    """Returns both shares over the users of all deployments, with their intervals."""
    return {
        "joined": _stated(np.concatenate([one.served for one in found])),
        "wrong_more": _stated(np.concatenate([one.wrong_more for one in found]), GAIN),
    }


def _stated(values: Array, bounds: Bounds | None = ACCURACY) -> str:
    """Returns a mean with its interval over users; shares are in `ACCURACY`, and what nobody can bound has None."""
    return "nobody" if len(values) == 0 else str(bootstrap(values, bounds=bounds))


def _rendered(results: dict[str, Any]) -> str:
    rows = {
        "own upstreams: truly best member": results["best"],
        "own upstreams: utility of the best": results["worth"],
        "own upstreams, with member effects: truly best member": results["with_effects"]["best"],
        "upstreams with something beyond their texts: truly best member": results["beyond_texts"]["texts alone"],
        "the same, with member effects: truly best member": results["beyond_texts"]["with member effects"],
        **_learning_rows(results["learn"]),
    }
    lines = [f"# Own members\n\n{results['seeds']} deployments of {results['users']} users; mean [95 % interval over users].\n"]
    lines += _table(rows)
    thumbs = ", ".join(f"{count}: {one}" for count, one in results["thumbs"].items())
    effects, ideal = results["with_effects"], results["ideal"]
    lines += [
        "",
        f"- truly best member by thumbs on single answers, after so many: {thumbs}",
        f"- 200 decisions after a fourth member joined, `best` serves it to those whom it suits: {results['joined']}",
        f"- wrong decisions of everybody else rose by: {results['wrong_more']}",
        f"- the same two of exact Bayes, which knows how tastes are distributed: {ideal['joined']}; {ideal['wrong_more']}",
        f"- the same two with member effects: {effects['joined']}; {effects['wrong_more']}",
        f"- greatest drift of any member before a change, standard errors: {_each(results['greatest_drift_without_change'])}",
        f"- scored answers of a member that changed until all of them are scored: {', '.join(map(str, results['noticed_after_answers']))}",
        f"- the same until the alert: {', '.join(map(str, results['alert_after_answers']))}",
        f"- utility served over the best possible after 300 of its answers: {_each(results['recovered'])}",
    ]
    return "\n".join(lines) + "\n"


def _each(numbers: Sequence[float]) -> str:
    return f"{', '.join(f'{number:.3f}' for number in numbers)} (mean {np.mean(numbers):.3f})"
