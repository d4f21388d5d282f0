"""Trains `bradley_terry`, one head for everybody: the baseline that personalisation has to beat (Bradley and Terry 1952)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from attune.models.data.preferences import Comparisons
from attune.models.seam.bradley_terry import NAME, BradleyTerry
from attune.models.training.features import Affine, Calibration, StandardisedHeads, Subspace
from attune.models.training.heads import OF_FIRST_HEAD, Heads, TrainedFamily
from attune.models.training.loop import LoopSettings, TrainingData, fit, reproducible
from attune.models.training.trainers import LineUp


@dataclass(frozen=True, slots=True)
class BradleyTerrySettings:
    """Constants of the baseline.

    Attributes:
        ridge: weight of the mean squared effective weight in the loss.
        batch: comparisons a step.
        subspace: the features that heads may use.
    """

    ridge: float = 1e-3
    batch: int = 1024
    subspace: Subspace = field(default_factory=Subspace)
    loop: LoopSettings = field(default_factory=LoopSettings)


def train_bradley_terry(data: TrainingData, settings: BradleyTerrySettings, seed: int) -> TrainedFamily:
    """Returns the global head and its logit scale, `P = sigma(a ds)`."""
    if settings.subspace.everybody:
        return ridge_family(data, settings, seed)
    with reproducible(seed) as generator:
        calibration = data.calibration(settings.subspace)
        features = torch.from_numpy(calibration.candidate(data.vectors.candidates))
        train, validation = _columns(data.train), _columns(data.validation)
        module = _GlobalHead(calibration, generator)
        module.start_from(features[train[0]] - features[train[1]])
        rng = np.random.default_rng(seed)

        def loss(step: int) -> Tensor:  # noqa: ARG001 - batches are drawn afresh
            rows = torch.from_numpy(rng.integers(0, len(data.train), size=min(settings.batch, len(data.train))))
            return module.loss(features, *(column[rows] for column in train)) + settings.ridge * module.heads.ridge()

        history = fit(module, loss, lambda: float(module.loss(features, *validation)), settings.loop)
        heads = Heads({f"{NAME}_rewards": nn.Sequential(module.heads.fold(calibration.candidate))}, {f"{NAME}_rewards": "candidate"})
        family = BradleyTerry(NAME, ("quality",), float(module.log_scale.detach().exp()))
    summary = {"settings": asdict(settings), "seed": seed, "best_step": history.best_step, "validation_nll": history.best_loss}
    return TrainedFamily(family, heads.eval().requires_grad_(requires_grad=False), summary)


def train_in_line_up(data: TrainingData, line_up: LineUp, seed: int) -> TrainedFamily:
    """Returns the family in the sizes of a line-up; see `trainers`."""
    return train_bradley_terry(data, BradleyTerrySettings(subspace=line_up.subspace, loop=line_up.short()), seed)


def ridge_family(data: TrainingData, settings: BradleyTerrySettings, seed: int) -> TrainedFamily:
    """Returns the first head as the global head, in seconds; nothing is drawn, and `seed` is only noted."""
    ridge = data.first_head()
    told = data.vectors.candidates[data.train.chosen].astype(np.float64) - data.vectors.candidates[data.train.rejected]
    scale = max(1e-6, float(np.sqrt(np.average((told @ ridge.weights) ** 2, weights=data.train.weight))))
    layer = Affine(np.eye(len(ridge.weights)), np.zeros(len(ridge.weights))).fold((ridge.weights / scale)[None])
    heads = Heads({f"{NAME}_rewards": nn.Sequential(layer)}, {f"{NAME}_rewards": "candidate"})
    summary = {
        "settings": asdict(settings),
        "seed": seed,
        "strength": ridge.strength,
        "inputs": ridge.inputs,
        "validation_nll": ridge.validation_nll,
        OF_FIRST_HEAD: 1.0,
    }
    return TrainedFamily(BradleyTerry(NAME, ("quality",), scale), heads.eval().requires_grad_(requires_grad=False), summary)


class _GlobalHead(nn.Module):
    def __init__(self, calibration: Calibration, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = StandardisedHeads(1, calibration.moment, generator)
        self.log_scale = nn.Parameter(torch.tensor(-1.0))

    @torch.no_grad()
    def start_from(self, differences: Tensor) -> None:
        """Points the head where winners are on average: a head of fixed spread cannot turn round where it has one direction."""
        size = len(self.heads.moment)
        steady = self.heads.moment + 1e-3 * self.heads.moment.trace() / size * torch.eye(size)
        direction = torch.linalg.solve(steady, differences.mean(dim=0))
        self.heads.directions.copy_(direction / direction.norm().clamp(min=1e-12))

    def loss(self, features: Tensor, chosen: Tensor, rejected: Tensor, tie: Tensor, weight: Tensor) -> Tensor:
        margins = self.log_scale.exp() * self.heads(features[chosen] - features[rejected]).squeeze(-1)
        losses = functional.softplus(-margins)
        # A tie is half a comparison either way.
        losses = torch.where(tie, 0.5 * (losses + functional.softplus(margins)), losses)
        return (weight * losses).sum() / weight.sum()


def _columns(comparisons: Comparisons) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    columns = (comparisons.chosen, comparisons.rejected, comparisons.tie, comparisons.weight.astype(np.float32))
    chosen, rejected, tie, weight = (torch.from_numpy(np.ascontiguousarray(column)) for column in columns)
    return chosen, rejected, tie, weight
