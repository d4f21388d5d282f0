"""How sure a mixture may become of which head a user is: chosen on validation people who told much.

A user who lies between heads is none of them, and Hedge's rate, fitted on short contexts, ends on one head. The bound on the
spread of the log weights (`hedge.hedge_weights`) is the one of least log-loss over validation people at every count that
there are enough of; an infinite one, exact Bayes, is among the choices. Where people told too little to tell bounds apart, the
tightest of those that are as good is taken: who goes on telling must not end on one head.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from attune.models.seam.reward_heads import GatedMixture
from attune.models.training.heads import TrainedFamily
from attune.models.training.loop import TrainingData
from attune.models.training.validating import validation_nlls

CHOICES = (0.3, 0.5, 0.8, 1.2, 1.8, 3.0, math.inf)

AS_GOOD = 0.002
"""Nats of log-loss within which two bounds cannot be told apart by some sixty people."""


def with_sureness(trained: TrainedFamily, data: TrainingData, *, users: int = 64) -> TrainedFamily:
    """Returns the mixture with its bound; another family is returned as it is.

    Args:
        trained: the family.
        data: whose validation people decide; some of them should have told hundreds of comparisons.
        users: validation people at each count.
    """
    family = trained.family
    if not isinstance(family, GatedMixture):
        return trained
    bounded = [replace(family, settings=replace(family.settings, sureness=one)) for one in CHOICES]
    losses = dict(zip(CHOICES, validation_nlls(trained, bounded, data, users=users), strict=True))
    finite = {one: loss for one, loss in losses.items() if np.isfinite(loss)}
    least = min(finite.values(), default=math.inf)
    best = min((one for one, loss in finite.items() if loss <= least + AS_GOOD), default=math.inf)
    report = {"nll": {f"{one:g}": loss for one, loss in losses.items()}, "chosen": f"{best:g}"}
    return replace(trained, family=bounded[CHOICES.index(best)], summary={**trained.summary, "sureness": report})
