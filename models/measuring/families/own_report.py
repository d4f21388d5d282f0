"""The reports of `attune train families` and `attune measure families`: the verdict first, then on what, then curves of strangers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attune.models.measuring.report_files import interval, table
from attune.models.seam.bradley_terry import NAME as BASELINE
from attune.models.seam.counts import counted

STRANGERS = "## People whom training never met"
ALIKE = (
    "Where nobody's accuracy changed, `+0.0`, the interval's width stands for people who are not among these: as large a share of them as",
    "could have stayed unseen may gain or lose anything.",
)


def render_own(results: Mapping[str, Any]) -> str:
    """Returns report.md for the results of `train_own`."""
    lines = [f"- Not served, since a simple head is better: {sentence}." for sentence in results["left_out"]]
    lines += [f"- Behind a simple head at first: {sentence}." for sentence in results["made_up"]]
    lines += [f"- `{name}` tells people apart by {words}." for name, words in results["told_apart_by"].items()]
    lines += [""] if lines else []
    if results["fitted_again"]:
        names = " and ".join(f"`{name}`" for name in results["fitted_again"])
        lines += [
            f"Everybody's head in {names} was fitted once more at the end, with the validation people among those it learns from. The",
            "numbers about validation people (here, in results.json and in heads.json) are of the head before that, which had not seen",
            "them.",
            "",
        ]
    return _render("# Families trained on your comparisons", results, lines, "everybody's head")


def render_more(results: Mapping[str, Any]) -> str:
    """Returns report.md for the results of `measure_more`."""
    lines = []
    if results["met"]:
        how = "they are left out" if results["left_out"] else "too few others are left, so they are in"
        lines = [f"Training met {results['met']:,} of these people: {how}.", ""]
    if any(name in results["curves"]["learners"] for name in ("length", "style", "ridge")):
        lines += ["`length`, `style` and `ridge` were fitted here, on other people than they predict, and so have seen these texts.", ""]
    elif results["not_measured"]:
        lines += [f"Not beside them: {results['not_measured']}.", ""]
    if results["baseline"] == "everybody":
        lines += [f"`everybody` is `{results['default']}` as it serves somebody of whom nothing is known.", ""]
    heading = f"## People, {results['met']:,} of whom training met" if results["met"] and not results["left_out"] else STRANGERS
    return _render("# Trained families on more people", results, lines, f"`{results['baseline']}`", heading)


def _render(title: str, results: Mapping[str, Any], said: list[str], baseline: str, heading: str = STRANGERS) -> str:
    verdict, curves = results["verdict"], results["curves"]
    lines = [
        title,
        "",
        f"**{verdict['why']}** For comparison: {verdict['baselines']}.",
        "",
        f"{counted(results['comparisons'], 'comparison')} of {counted(results['people'], 'person', 'people')}"
        + (f" and {results['without_person']:,} of nobody named" if results["without_person"] else "")
        + f", {results['texts']:,} texts, trunk {results['trunk']['source']}, seed {results['seed']}, Attune {results['made_by']}.",
        "",
        *said,
        heading,
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
        f"Gain over {baseline} in points of accuracy, who gains and who loses (more than 2 points, after the most comparisons):",
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
        *_unknown(results, curves),
        *([*ALIKE, ""] if any(_none_changed(one) for learner in curves["learners"].values() for one in learner["gain"]) else []),
        "Log-loss:",
        "",
        *table(
            ["", *(str(count) for count in counts)],
            [[f"`{name}`", *(interval(one) for one in learner["nll"])] for name, learner in curves["learners"].items()],
        ),
        "",
    ]
    return "\n".join(lines)


def _unknown(results: Mapping[str, Any], curves: Mapping[str, Any]) -> list[str]:
    """Returns which families' people stayed strangers in every cut, and which families are not here, since a table does not say why."""
    families = [name for name in results.get("at_first", {}) if name != BASELINE]
    learners, several = curves["learners"], len(curves["counts"]) > 1
    flat = [name for name in families if name in learners and several and len({one["mean"] for one in learners[name]["nll"]}) == 1]
    why = {
        "the same after any number of comparisons: validation people of no cut clearly gained by being known, so nobody was": flat,
        "not here: with strangers kept apart, too few people are left to train on": [name for name in families if name not in learners],
    }
    lines = [f"{' and '.join(f'`{name}`' for name in names)}: {reason}." for reason, names in why.items() if names]
    return [*lines, ""] if lines else []


def _none_changed(gain: Mapping[str, float]) -> bool:
    return gain["mean"] == 0.0 and gain["high"] > 0.0 and gain["low"] == -gain["high"]
