"""Curves of people whom training never met: what learners said of them, as the numbers of a report and of its verdict.

    context, targets ─> observe_strangers ─> parts (folds) ─> curves_of ─> accuracy, log-loss and gain with intervals

`train families` and `measure families` draw the same curves by this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attune.models.data.preferences import Comparisons
from attune.models.data.trunk import Trunk
from attune.models.measuring.families.curves import Observed, observe, over_users, paired_gain
from attune.models.measuring.figures import ACCURACY, LOG_LOSS
from attune.models.measuring.report_files import made_by
from attune.models.training.learner import Learner

COUNTS = (0, 1, 3, 5, 10, 20, 50)
LEAST_MEASURED = 8
"""Strangers below whom a point of a curve is not shown."""

LEAST_TARGETS = 3
HARM = 0.02
"""Points of accuracy, as a share, from which on a person counts as gaining or losing."""


def most_told(comparisons: Comparisons) -> int:
    """Returns how many comparisons people are let to tell: the most that a quarter of them has beside some that are predicted."""
    decided = np.bincount(comparisons.user[~comparisons.tie & ~comparisons.anonymous])
    told = decided[decided > 0]
    fitting = [count for count in COUNTS if len(told) and np.mean(told >= count + 2 * LEAST_TARGETS) >= 0.25]
    return max(fitting, default=1)


def measured_on(comparisons: Comparisons, trunk: Trunk, seed: int) -> dict[str, Any]:
    """Returns what a report says of the data that it is about: sizes and hashes, as JSON data."""
    return {
        "comparisons": len(comparisons),
        "people": len(np.unique(comparisons.user[~comparisons.anonymous])),
        "without_person": int(comparisons.anonymous.sum()),
        "texts": len(comparisons.texts.candidates),
        "sha256": comparisons.sha256(),
        "trunk": {"source": trunk.source, "sha256": trunk.sha256},
        "seed": seed,
        "made_by": made_by(),
    }


def counts_told(context: Comparisons, targets: Comparisons, parts: int = 1) -> list[int]:
    """Returns the numbers of comparisons after which enough people can be predicted; none where not even strangers can be.

    Where people are cut `parts` times and measured together, a cut may have fewer than `LEAST_MEASURED`, and all of them count then.
    """
    told, asked = context.rows_of_users(), targets.rows_of_users()
    having = [len(told.get(user, ())) for user, mine in asked.items() if len(mine) >= LEAST_TARGETS]
    least = max(-(-LEAST_MEASURED // parts), min(LEAST_MEASURED, len(having)))
    return [count for count in COUNTS if sum(one >= count for one in having) >= least]


def observe_strangers(learners: Sequence[Learner], context: Comparisons, targets: Comparisons, parts: int = 1) -> Observed:
    """Returns what was said of strangers, up to the greatest count that enough of them have told; `counts_told` says before if any is."""
    counts = counts_told(context, targets, parts)
    return observe(learners, context, targets, counts=counts, least_targets=LEAST_TARGETS)


def curves_of(parts: Sequence[Observed], baseline: str) -> dict[str, Any]:
    """Returns the curves of all learners that every part has, as JSON data, with gains over the learner `baseline`."""
    counts = min((part.counts for part in parts), key=len)
    names = [name for name in parts[0].said if all(name in part.said for part in parts)]
    curves: dict[str, Any] = {"counts": list(counts), "people": len({user for part in parts for user in part.users}), "learners": {}}
    for name in names:
        # What says one half of every pair says so of people who are not among these, too: nothing is left to be unsure of.
        mute = all(np.all(part.probabilities(name, at) == 0.5) for part in parts for at in range(len(counts)))
        right, lost = (None, None) if mute else (ACCURACY, LOG_LOSS)
        accuracy = [over_users(parts, [part.per_user(name, at)[0] for part in parts], right) for at in range(len(counts))]
        nll = [over_users(parts, [part.per_user(name, at)[1] for part in parts], lost) for at in range(len(counts))]
        gain = [paired_gain(parts, name, baseline, at) for at in range(len(counts))]
        last = np.concatenate([part.per_user(name, len(counts) - 1)[0] - part.per_user(baseline, len(counts) - 1)[0] for part in parts])
        curves["learners"][name] = {
            "accuracy": [one.to_json() for one in accuracy],
            "nll": [one.to_json() for one in nll],
            "gain": [one.to_json() for one in gain],
            "gaining": float(np.mean(last > HARM)),
            "losing": float(np.mean(last < -HARM)),
        }
    return curves
