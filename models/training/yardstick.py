"""Where a family stands before a person's first comparison, beside the simple heads: what does not beat them has learned nothing to serve.

    validation people ─> log-loss under the family's prior, and under length, style and ridge ─> behind the best of them, or not
                         what they gained as they were known ─> made up for, or below

Whoever stays loses once at first and gains with every choice, so a family that is behind then is below a simple head only where what is
gained later does not surely make up for it: left out for a hundredth of a nat at first, a family would take away a sixth of one from
everybody who stays.

All are asked about the same comparisons, and the difference is taken person by person. Where validation people are few, how strongly a
simple head is held back is chosen as for the first head, by all people in turns: chosen by the few who judge, it flatters the simple head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.seam.trust import NEVER
from attune.models.training.first_head import fit_in_turns
from attune.models.training.heads import TrainedFamily, compute_outputs, row_at
from attune.models.training.loop import TrainingData
from attune.models.training.simple_heads import INPUTS

Array = NDArray[np.float64]

MOST = 4000
"""Validation comparisons that are asked about."""

NEGLIGIBLE = 0.003
"""Nats of log-loss that are no difference."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Decided validation comparisons, and what the simple heads lose on each, `[C]` nats by name."""

    comparisons: Comparisons
    losses: Mapping[str, Array]

    @classmethod
    def of(cls, data: TrainingData) -> Yardstick:
        """Returns at most `MOST` of them; there may be none."""
        rows = np.flatnonzero(~data.validation.tie)
        told = data.validation.take(np.sort(np.random.default_rng(0).permutation(rows)[:MOST]))
        losses = {}
        for name, inputs_of in INPUTS.items():
            inputs = inputs_of(data)
            utilities = inputs.astype(np.float64) @ fit_in_turns(inputs, data.train, data.validation)
            losses[name] = np.logaddexp(0.0, utilities[told.rejected] - utilities[told.chosen])
        return cls(told, losses)


def with_standing(trained: TrainedFamily, data: TrainingData, asked: Yardstick) -> TrainedFamily:
    """Returns the family with `at_first` in its summary: its log-loss, the best simple head's, by how much it is behind, and if so.

    What its people gain by being known is read from its trust, so that is chosen before.
    """
    if not len(asked.comparisons) or not asked.losses:
        return trained
    own = _losses(trained, data, asked.comparisons)
    people = list(asked.comparisons.rows_of_users().values())

    def by_person(losses: Array) -> Array:
        return np.array([losses[mine].mean() for mine in people])

    simple = {name: by_person(losses) for name, losses in asked.losses.items()}
    best = min(simple, key=lambda name: float(simple[name].mean()))
    difference = by_person(own) - simple[best]
    unsure = float(difference.std() / np.sqrt(len(difference))) if len(difference) > 1 else 0.0
    behind = float(difference.mean())
    report = {
        "nll": float(by_person(own).mean()),
        "best_simple": best,
        "best_simple_nll": float(simple[best].mean()),
        "behind_nll": behind,
        "behind_nll_standard_error": unsure,
        "below": behind > max(unsure, NEGLIGIBLE, _surely_gained(trained)),
        "made_up": max(unsure, NEGLIGIBLE) < behind <= _surely_gained(trained),
    }
    return replace(trained, summary={**trained.summary, "at_first": report})


def below(trained: TrainedFamily) -> str:
    """Returns a sentence where the family stands below the best simple head; nothing where it does not, or was not compared."""
    told: Mapping[str, Any] = trained.summary.get("at_first", {})
    return _compared(trained.family.name, told) if told.get("below") else ""


def made_up(trained: TrainedFamily) -> str:
    """Returns a sentence where the family stands below the best simple head at first alone; nothing where it does not, or for good."""
    told: Mapping[str, Any] = trained.summary.get("at_first", {})
    if not told.get("made_up"):
        return ""
    gain = float(trained.summary["trust"]["gain_nll"])
    return f"{_compared(trained.family.name, told)}; validation people gained {gain:.3f} as they were known, which makes up for it"


def _compared(name: str, told: Mapping[str, Any]) -> str:
    return (
        f"{name} loses {told['nll']:.3f} nats a comparison of people of whom nothing is known, "
        f"and {told['best_simple']} alone {told['best_simple_nll']:.3f}"
    )


def _surely_gained(trained: TrainedFamily) -> float:
    """Returns how much validation people gained a comparison by being known, less its standard error; 0 for who is served as anybody."""
    told: Mapping[str, Any] = trained.summary.get("trust", {})
    if trained.trust == NEVER or not told:
        return 0.0
    return float(told["gain_nll"]) - float(told.get("gain_nll_standard_error", 0.0))


def _losses(trained: TrainedFamily, data: TrainingData, told: Comparisons) -> Array:
    candidates, asked = compute_outputs([trained], data.vectors.candidates), compute_outputs([trained], data.vectors.prompts)
    nobody = np.zeros(trained.family.evidence_size)

    chances = [
        trained.family.predict(nobody, row_at(candidates, chosen), row_at(candidates, rejected), row_at(asked, prompt))
        for chosen, rejected, prompt in zip(told.chosen.tolist(), told.rejected.tolist(), told.prompt.tolist(), strict=True)
    ]
    found: Array = -np.log(np.maximum(chances, 1e-12))
    return found
