"""Pictures of `attune measure learners`: few-shot curves, reliability, and accuracy by predicted uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TITLES = {"unseen": "unseen users", "seen": "seen users"}


def draw_plots(results: Mapping[str, Any], out: Path) -> dict[str, str]:
    """Writes the pictures of the first run into `out` and returns title -> file name."""
    import matplotlib as mpl  # noqa: PLC0415 - only reports draw

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    run = results["runs"][0]
    kinds = [kind for kind in TITLES if kind in run["on"]]
    written = {}
    figure, axes = plt.subplots(1, len(kinds), figsize=(6.5 * len(kinds), 4.6), squeeze=False, sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        _curves(axis, run["on"][kind]["learners"])
        axis.set_title(f"{results['data']['name']}, {TITLES[kind]}")
    axes[0][0].set_ylabel("pair accuracy")
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    written["Few-shot curves"] = _save(figure, out / "curves.png")
    found = run["on"]["unseen"]
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.6))
    _reliability(axes[0], found)
    _quartiles(axes[1], found)
    written["Calibration and uncertainty"] = _save(figure, out / "calibration.png")
    plt.close("all")
    return written


def _curves(axis: Any, learners: Mapping[str, Any]) -> None:
    told = [point["comparisons"] for point in next(iter(learners.values()))["curve"]]
    counts = np.arange(len(told))
    for number, (name, one) in enumerate(learners.items()):
        values = np.array([[point["accuracy"][key] for key in ("mean", "low", "high")] for point in one["curve"]])
        line = axis.plot(counts, values[:, 0], marker="o", markersize=3, label=name, color=f"C{number}", zorder=3)[0]
        axis.fill_between(counts, values[:, 1], values[:, 2], color=line.get_color(), alpha=0.10, linewidth=0)
    axis.set_xticks(counts, [str(count) for count in told])
    axis.set_xlabel("comparisons told")
    axis.grid(visible=True, alpha=0.3)


def _reliability(axis: Any, found: Mapping[str, Any]) -> None:
    axis.plot([0.5, 1.0], [0.5, 1.0], color="0.7", linewidth=1)
    for number, (name, one) in enumerate(found["learners"].items()):
        curve = one["reliability"]
        shown = [index for index, share in enumerate(curve["share"]) if share >= 0.005]
        axis.plot(
            [curve["confidence"][index] for index in shown],
            [curve["accuracy"][index] for index in shown],
            marker="o",
            markersize=3,
            color=f"C{number}",
            label=f"{name} ({curve['ece']:.3f})",
        )
    axis.set_xlabel("confidence")
    axis.set_ylabel("accuracy")
    axis.set_title(f"Reliability after {found['calibrated_at']} comparisons (ECE)")
    axis.legend(fontsize=8)
    axis.grid(visible=True, alpha=0.3)


def _quartiles(axis: Any, found: Mapping[str, Any]) -> None:
    for number, (name, one) in enumerate(found["learners"].items()):
        for by, style in (("probability", "-"), ("doubt", ":")):
            values = one["quartiles"][by]
            if values is not None:
                axis.plot(
                    range(1, 5),
                    [value["mean"] for value in values],
                    style,
                    marker="o",
                    markersize=3,
                    color=f"C{number}",
                    label=f"{name}, {by}",
                )
    axis.set_xticks(range(1, 5), ["surest", "2nd", "3rd", "least sure"])
    axis.set_title("Accuracy by quartile of predicted uncertainty")
    axis.legend(fontsize=7, ncol=2)
    axis.grid(visible=True, alpha=0.3)


def _save(figure: Any, path: Path) -> str:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path.name
