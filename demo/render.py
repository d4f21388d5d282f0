"""report.md from results.json: tables with 95 % intervals, and whether each promise is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

AFTER = 10
"""Comparisons at which the demo's promises are held."""

COLD_MOST, ROUTED_LEAST, GAIN_LEAST, CHANCE, OPPOSED_LEAST = 0.40, 0.80, 0.15, 0.03, 0.90


def render(results: Mapping[str, Any]) -> str:
    """Returns the report of `results`, as `evaluate_demo` made them."""
    lines = ["# Evaluation of the demo", ""]
    lines += [f"- {name}: `{value}`" for name, value in results["subject"].items()]
    data = results["data"]
    lines += [
        f"- commit: `{results['commit']}`",
        (
            f"- seeds {results['seeds']}, {results['users_per_seed']} users each; answers sha256 `{data['answers']}`, "
            f"{data['prompts']} test prompts, {data['answers_per_member']} answers of every member to each"
        ),
        (
            f"- policy `{results['policy']['name']}`, epsilon {results['policy']['epsilon']}, {results['policy']['samples']} samples; "
            "every interval is the 95 % bootstrap over users"
        ),
        "",
    ]
    for sharpness, entry in results["simulated"].items():
        lines += [f"## Simulated users, sharpness {sharpness}", ""]
        for router, found in entry["routers"].items():
            lines += _simulated(router, found, entry["ideal_observer"])
    lines += _opposed(results["opposed"])
    lines += ["## Promises", "", *_promises(results)]
    return "\n".join(lines) + "\n"


def _simulated(router: str, found: Mapping[str, Any], ideal: Sequence[Mapping[str, float]]) -> list[str]:
    rows = {
        "routed = truly best": found["routed_best"],
        "the same, knowing every answer's manner and the prior (exact Bayes)": ideal,
        "routed = truly best, per prompt": found["routed_best_per_prompt"],
        "regret (utility, 0..1)": found["regret"],
        **{f"pair accuracy, {family}": curve for family, curve in found["pair_accuracy"].items()},
        **{f"gain over the global head, {family}": curve for family, curve in found["pair_gain"].items()},
    }
    agreement = ", ".join(f"{family} {_interval(value)}" for family, value in found["prequential_agreement"].items())
    return [
        f"### Routed by `{router}`",
        "",
        *_table(["comparisons", *map(str, found["counts"])], [[name, *map(_interval, curve)] for name, curve in rows.items()]),
        "",
        (
            f"Knowing the taste, pair accuracy is {_interval(found['pair_accuracy_knowing_the_taste'])}: choices are noisy. "
            f"Agreement before learning, all rounds: {agreement}. "
            f"Exploring costs {_interval(found['cost_of_exploring'])} of utility a round."
        ),
        "",
    ]


def _opposed(experiments: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["## Two opposed groups, unseen users and prompts", ""]
    rows = []
    for one in experiments:
        for family, curve in one["curves"].items():
            share = one["share_of_bayes_optimal_at_20"][family]
            rows.append([one["taste"], str(one["seed"]), family, *(_interval(point["accuracy"]) for point in curve), _interval(share)])
    if not rows:
        return [*lines, "Not measured.", ""]
    counts = [str(point["comparisons"]) for point in next(iter(experiments[0]["curves"].values()))]
    header = ["taste", "seed", "family", *(f"n = {count}" for count in counts), "of Bayes-optimal"]
    return [*lines, *_table(header, rows), ""]


def _promises(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for sharpness, entry in results["simulated"].items():
        for router, found in entry["routers"].items():
            at = found["counts"].index(AFTER)
            cold, warm, ideal = found["routed_best"][0], found["routed_best"][at], entry["ideal_observer"][at]
            where = f"sharpness {sharpness}, routed by {router}"
            lines += [
                _promise(f"cold routing at most {COLD_MOST:.0%} ({where})", _interval(cold), kept=cold["mean"] <= COLD_MOST),
                _promise(
                    f"after {AFTER} comparisons at least {ROUTED_LEAST:.0%} ({where}; exact Bayes {ideal['mean']:.3f})",
                    _interval(warm),
                    kept=warm["mean"] >= ROUTED_LEAST,
                ),
            ]
            if router in found["pair_gain"]:
                gain = found["pair_gain"][router][at]
                lines.append(
                    _promise(
                        f"pair accuracy at least {GAIN_LEAST:.0%} over the global head ({where})",
                        _interval(gain),
                        kept=gain["mean"] >= GAIN_LEAST,
                    )
                )
    for one in results["opposed"]:
        for family, share in one["share_of_bayes_optimal_at_20"].items():
            if family == "bradley_terry":
                chance = one["curves"][family][-1]["accuracy"]
                kept = abs(chance["mean"] - 0.5) <= CHANCE
                lines.append(_promise(f"global head 50 ± 3 % ({one['taste']}, seed {one['seed']})", _interval(chance), kept=kept))
            else:
                kept = share["mean"] >= OPPOSED_LEAST
                what = f"{family} at least {OPPOSED_LEAST:.0%} of Bayes-optimal ({one['taste']}, seed {one['seed']})"
                lines.append(_promise(what, _interval(share), kept=kept))
    return lines


def _promise(what: str, found: str, *, kept: bool) -> str:
    return f"- {'kept' if kept else 'NOT KEPT'}: {what}: {found}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
