"""report.md from results.json: tables with 95 % intervals, and whether each promise is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attune.models.measuring.report_files import bar, interval, table

AFTER = 10
"""Comparisons at which the demo's promises are held."""

COLD_MOST, ROUTED_LEAST, GAIN_LEAST = 0.40, 0.80, 0.15


def render(results: Mapping[str, Any]) -> str:
    """Returns the report of `results`, as `evaluate_demo` made them."""
    lines = ["# Evaluation of the demo", ""]
    lines += [f"- {name}: `{value}`" for name, value in results["subject"].items()]
    data = results["data"]
    lines += [
        f"- Attune: `{results['attune']}`",
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
    agreement = ", ".join(f"{family} {interval(value)}" for family, value in found["prequential_agreement"].items())
    return [
        f"### Routed by `{router}`",
        "",
        *table(["comparisons", *map(str, found["counts"])], [[name, *map(interval, curve)] for name, curve in rows.items()]),
        "",
        (
            f"Knowing the taste, pair accuracy is {interval(found['pair_accuracy_knowing_the_taste'])}: choices are noisy. "
            f"Agreement before learning, all rounds: {agreement}. "
            f"Exploring costs {interval(found['cost_of_exploring'])} of utility a round."
        ),
        "",
    ]


def _promises(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for sharpness, entry in results["simulated"].items():
        for router, found in entry["routers"].items():
            at = found["counts"].index(AFTER)
            cold, warm, ideal = found["routed_best"][0], found["routed_best"][at], entry["ideal_observer"][at]
            where = f"sharpness {sharpness}, routed by {router}"
            lines += [
                bar(f"cold routing at most {COLD_MOST:.0%} ({where})", interval(cold), kept=cold["mean"] <= COLD_MOST),
                bar(
                    f"after {AFTER} comparisons at least {ROUTED_LEAST:.0%} ({where}; exact Bayes {ideal['mean']:.3f})",
                    interval(warm),
                    kept=warm["mean"] >= ROUTED_LEAST,
                ),
            ]
            if router in found["pair_gain"]:
                gain = found["pair_gain"][router][at]
                lines.append(
                    bar(
                        f"pair accuracy at least {GAIN_LEAST:.0%} over the global head ({where})",
                        interval(gain),
                        kept=gain["mean"] >= GAIN_LEAST,
                    )
                )
    return lines
