"""Trains the baseline `lore`: shared heads and one point of the simplex per user, both by maximum likelihood.

LoRe (Bose et al. 2025, arXiv 2504.14439) learns a low-rank basis of rewards, `r_u = sum_k w_uk s_k`, together with the
training users' weights, and fits the weights alone to a new user's choices. There is no prior and no spread: after one
comparison the weights are as sure as after a hundred, which is what the Gaussian families are measured against.
Axis letters: `C` comparisons, `K` heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from attune.models.data.preferences import Comparisons
from attune.models.seam.hedge import sigmoid, softmax
from attune.models.training.episodes import ComparisonFeatures, Episodes, EpisodeSettings
from attune.models.training.features import StandardisedHeads, Subspace
from attune.models.training.hierarchical import episode_nll
from attune.models.training.learner import Predicted
from attune.models.training.loop import LoopSettings, TrainingData, fit, reproducible

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LoreSettings:
    """Constants of the baseline.

    Attributes:
        heads: `K`.
        ridge: weight of the mean squared effective weight in the loss.
        batch: comparisons a step.
        adapt_steps: numbers of steps that a new user's weights may take; the least validation loss decides.
        subspace: the features that heads may use.
    """

    heads: int = 8
    ridge: float = 1e-3
    batch: int = 1024
    adapt_steps: tuple[int, ...] = (3, 10, 30, 100)
    subspace: Subspace = field(default_factory=Subspace)
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=1500, patience=6))


@dataclass(frozen=True, slots=True)
class LoreLearner:
    """Shared rewards, and weights that each user's comparisons are fitted with.

    Attributes:
        rewards: `[candidates, K]` logits.
        start: `[K]` logits of the mean weights of the training users, where every new user starts.
        steps: of exponentiated gradient on a user's mean log-loss.
        rate: of those steps.
    """

    rewards: Array
    start: Array
    steps: int
    rate: float = 1.0
    name: str = "lore"

    def predict(self, context: Comparisons, targets: Comparisons) -> Predicted:
        """Returns the predictions; see `Learner`."""
        told = self.rewards[context.chosen] - self.rewards[context.rejected]
        logits = self.start.copy()
        for _ in range(self.steps if len(context) else 0):
            miss = np.where(context.tie, 0.5, 1.0) - sigmoid(told @ softmax(logits))
            logits = logits + self.rate * (miss @ told) / len(context)
        weights = softmax(logits)
        margins = (self.rewards[targets.chosen] - self.rewards[targets.rejected]) @ weights
        return Predicted(sigmoid(margins), np.zeros(len(targets)), weights)


def train_lore(data: TrainingData, settings: LoreSettings, seed: int) -> LoreLearner:
    """Returns the shared rewards and how a new user's weights are fitted to them."""
    with reproducible(seed) as generator:
        calibration = data.calibration(settings.subspace)
        module = _SharedHeads(len(data.train.users), StandardisedHeads(settings.heads, calibration.moment, generator), generator)
        train = ComparisonFeatures.of(data.train, data, calibration)
        user, rng = torch.from_numpy(data.train.user), np.random.default_rng(seed)
        batches = Episodes(data.validation, EpisodeSettings()).validation_batches(users=128)
        features = calibration.candidate(data.vectors.candidates)

        def learner(steps: int) -> LoreLearner:
            with torch.no_grad():
                rewards = (module.log_scale.exp() * module.heads(torch.from_numpy(features))).double().numpy()
                start = torch.softmax(module.weights[torch.unique(user)], dim=-1).mean(dim=0).log().double().numpy()
            return LoreLearner(rewards, start, steps)

        def loss(step: int) -> Tensor:  # noqa: ARG001 - batches are drawn afresh
            rows = torch.from_numpy(rng.integers(0, len(user), size=min(settings.batch, len(user))))
            return module.loss(train, rows, user[rows]) + settings.ridge * module.heads.ridge()

        def validate() -> float:
            # Strangers and regulars: the weights of new users are fitted at every look, so two counts have to do.
            return float(np.mean([episode_nll(learner(10), data.validation, batches[index]) for index in (0, -1)]))

        fit(module, loss, validate, settings.loop)
        found = [learner(steps) for steps in settings.adapt_steps]
        losses = [np.mean([episode_nll(one, data.validation, batch) for batch in batches]) for one in found]
        return found[int(np.argmin(losses))]


class _SharedHeads(nn.Module):
    def __init__(self, users: int, heads: StandardisedHeads, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.weights = nn.Parameter(0.1 * torch.randn(users, heads.directions.shape[0], generator=generator))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def loss(self, features: ComparisonFeatures, rows: Tensor, user: Tensor) -> Tensor:
        margins = self.log_scale.exp() * (self.heads(features.difference[rows]) * torch.softmax(self.weights[user], dim=-1)).sum(dim=-1)
        losses = functional.softplus(-margins)
        losses = torch.where(features.tie[rows], 0.5 * (losses + functional.softplus(margins)), losses)
        weight = features.weight[rows]
        return (weight * losses).sum() / weight.sum()
