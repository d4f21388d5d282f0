"""The report of `attune train families`: the verdict first, then curves of strangers, then what was trained on what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attune.models.measuring.writing import interval, table


def render_own(results: Mapping[str, Any]) -> str:
    """Returns report.md for the results of `train_own`."""
    verdict, curves = results["verdict"], results["curves"]
    lines = [
        "# Families trained on your comparisons",
        "",
        f"**{verdict['why']}** For comparison: {verdict['baselines']}.",
        "",
        f"{results['comparisons']:,} comparisons of {results['people']:,} people"
        + (f" and {results['without_person']:,} of nobody named" if results["without_person"] else "")
        + f", {results['texts']:,} texts, trunk {results['trunk']['source']}, seed {results['seed']}, Attune {results['made_by']}.",
        "",
        "## People whom training never met",
        "",
    ]
    if not curves:
        return "\n".join([*lines, f"Not measured: {results['not_measured']}.", ""])
    counts = curves["counts"]
    lines += [
        f"Accuracy on pairs after so many comparisons of a person, {curves['people']} people, 95 % intervals over people.",
        "`length`, `style` and `ridge` are simple heads that know no person; what does not beat them before the first comparison has",
        "learned nothing that is worth serving.",
        "",
        *table(
            ["", *(str(count) for count in counts)],
            [[f"`{name}`", *(interval(one) for one in learner["accuracy"])] for name, learner in curves["learners"].items()],
        ),
        "",
        "Gain over everybody's head in points of accuracy, who gains and who loses (more than 2 points, after the most comparisons):",
        "",
        *table(
            ["", *(str(count) for count in counts), "gain", "lose"],
            [
                [
                    f"`{name}`",
                    *(interval({key: 100 * value for key, value in one.items()}, digits=1, sign="+") for one in learner["gain"]),
                    f"{learner['gaining']:.0%}",
                    f"{learner['losing']:.0%}",
                ]
                for name, learner in curves["learners"].items()
            ],
        ),
        "",
        "Log-loss:",
        "",
        *table(
            ["", *(str(count) for count in counts)],
            [[f"`{name}`", *(interval(one) for one in learner["nll"])] for name, learner in curves["learners"].items()],
        ),
        "",
    ]
    return "\n".join(lines)
