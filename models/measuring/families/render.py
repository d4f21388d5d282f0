"""report.md of `attune measure learners` from its results: curves, gains, calibration and uncertainty as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from attune.models.measuring.report_files import interval, table

KINDS = {"unseen": "Users whom training never met", "seen": "Users of the training"}


def render_families(results: Mapping[str, Any], plots: Mapping[str, str]) -> str:
    """Returns the report; `plots` is what `draw_plots` returned, title -> file name."""
    data = results["data"]
    lines = [
        f"# Families on {data['name']}",
        "",
        (
            f"- {data['comparisons']:,} comparisons of {data['users']:,} users over {data['texts']:,} texts and {data['prompts']} prompts; "
            f"records sha256 `{data['sha256'][:16]}`, trunk `{data['trunk_sha256'][:16]}`"
        ),
        f"- Attune: `{results['attune']}`",
        "- intervals are the 95 % bootstrap over users; a user of several seeds counts once; gains are paired differences",
        f"- every learner of a run shares splits, vectors, features, contexts and targets; gains are over `{results['baseline']}`",
        "- comparisons that a user told are never scored; nothing was chosen on these users",
        "",
    ]
    lines += [line for title, file in plots.items() for line in (f"![{title}]({file})", "")]
    for run in results["runs"]:
        lines += _run(run, results["counts"])
    return "\n".join(lines) + "\n"


def _run(run: Mapping[str, Any], counts: Sequence[int]) -> list[str]:
    apart = "; no text of a context is in its targets" if run["texts_apart"] else ""
    lines = [
        f"## {run['name']}",
        "",
        f"Seeds {run['seeds']}, {run['train_comparisons']:,} training comparisons, length: {run['length']}{apart}.",
        "",
    ]
    for kind, found in run["on"].items():
        held = {"prompts": "unseen prompts", "pairs": "pairs that were held back (there is one prompt)"}[run["held_by"]]
        where = f", {held}" if kind == "seen" else ""
        lines += [f"### {KINDS[kind]}{where}", "", f"{found['users']} users; {found['skipped']} had too few comparisons.", ""]
        learners = found["learners"]
        header = ["accuracy", *(f"n = {count}" for count in counts)]
        lines += _rows(header, [[name, *(interval(point["accuracy"]) for point in one["curve"])] for name, one in learners.items()])
        header = ["gain, points", *(f"n = {count}" for count in counts)]
        gains = {name: one for name, one in learners.items() if any(point["gain"]["mean"] for point in one["curve"])}
        lines += _rows(header, [[name, *(_points(point["gain"]) for point in one["curve"])] for name, one in gains.items()])
        header = ["log-loss (ECE)", *(f"n = {count}" for count in counts)]
        losses = [[name, *(f"{point['nll']['mean']:.4f} ({point['ece']:.3f})" for point in one["curve"])] for name, one in learners.items()]
        lines += _rows(header, losses)
        lines += _uncertainty(found)
    took = ", ".join(f"{name} {max(seconds):.1f}" for name, seconds in run["seconds"].items())
    return [*lines, f"Seconds of training, the slowest seed: {took}.", ""]


def _uncertainty(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, one in found["learners"].items():
        ece = one["reliability"]["ece"]
        heads = "" if one["effective_heads"] is None else "{:.1f}, {:.1f}".format(*one["effective_heads"])
        rows.append([name, f"{ece:.3f}", *(_quartiles(one["quartiles"][by]) for by in ("probability", "doubt", "spread")), heads])
    header = [
        f"after {found['calibrated_at']}",
        "ECE",
        "accuracy by quartile of P, surest first",
        "by S / abs(M)",
        "by S alone",
        "effective heads: all users, one user",
    ]
    return _rows(header, rows)


def _quartiles(found: Sequence[Mapping[str, float]] | None) -> str:
    if found is None:
        return "all alike"
    means = [one["mean"] for one in found]
    falls = all(first >= then for first, then in pairwise(means))
    return " ".join(f"{mean:.3f}" for mean in means) + (", falls" if falls else ", does not fall")


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [*table(header, rows), ""]


def _points(value: Mapping[str, float]) -> str:
    return f"{100 * value['mean']:+z.1f} [{100 * value['low']:+z.1f}, {100 * value['high']:+z.1f}]"
