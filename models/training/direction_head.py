"""The small head on projections: linear or an MLP, under the margin or the Bradley-Terry loss, with a temperature.

The paper trains an MLP of 512 units by a margin loss, whose scores are no logits; one temperature, fitted on validation
comparisons, makes probabilities of them. Axis letters: `N` candidates, `F` features, `C` comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from attune.models.data.preferences import Comparisons
from attune.models.training.features import VectorsInvalid
from attune.models.training.loop import LoopSettings, TrainingDiverged, fit

Kind = Literal["linear", "mlp"]
Loss = Literal["bradley_terry", "margin"]
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """Constants of the head.

    Attributes:
        kind: a linear head's score is a sum over features, so it can be explained exactly; an MLP's is not.
        loss: Bradley-Terry gives logits, the margin loss needs the temperature.
        hidden: units of the MLP.
        ridges: weights of the sum of squared weights that are tried; the validation loss picks one. Large ones are needed: a
            dense head on a thousand comparisons is best where it hardly moves from the mean difference.
        margin: what a chosen answer should be ahead by.
        batch: comparisons a step of the MLP; all where there are fewer.
        loop: of the MLP; a linear head is fitted to convergence.
    """

    kind: Kind = "linear"
    loss: Loss = "bradley_terry"
    hidden: int = 512
    ridges: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
    margin: float = 1.0
    batch: int = 4096
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=200, learning_rate=3e-3, weight_decay=0.0, evaluate_every=10))


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """A head on standardised features.

    Attributes:
        module: `[N, F]` -> `[N, 1]`.
        centre, spread: `[F]`; the module sees `(x - centre) / spread`.
        temperature: scores times it are logits.
        validation_nll: with the temperature.
        ridge: the one that was picked.
        parameters: how many numbers were trained.
    """

    module: nn.Sequential
    centre: Array
    spread: Array
    temperature: float
    validation_nll: float
    ridge: float
    parameters: int

    @torch.inference_mode()
    def scores(self, features: NDArray[np.float32]) -> Array:
        """Returns the score of each row `[N]`."""
        standard = ((features - self.centre) / self.spread).astype(np.float32)
        found: Array = self.module(torch.from_numpy(standard)).squeeze(-1).double().numpy()
        return found


def train_head(
    features: NDArray[np.float32], train: Comparisons, validation: Comparisons, settings: HeadSettings, generator: torch.Generator
) -> TrainedHead:
    """Returns the head of the least validation loss.

    Args:
        features: `[N, F]` of all candidates.
        train: whose differences set the spread, and gradients.
        validation: stop the training, pick the ridge, fit the temperature.
        settings: see `HeadSettings`.
        generator: of the start and the batches.

    Raises:
        VectorsInvalid: features are not finite, or of another number of candidates.
        TrainingDiverged: a loss is not finite.
    """
    if features.ndim != 2 or len(features) != len(train.texts.candidates):
        raise VectorsInvalid(f"features are {features.shape}; one row for each of {len(train.texts.candidates)} candidates was expected")
    bad = int(np.sum(~np.isfinite(features).all(axis=1)))
    if bad:
        raise VectorsInvalid(f"features of {bad} of {len(features)} candidates are not finite")
    used = np.concatenate([train.chosen, train.rejected])
    centre = features[used].mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.mean((features[train.chosen].astype(np.float64) - features[train.rejected]) ** 2, axis=0))
    spread = np.where(spread > 1e-9, spread, 1.0)
    standard = torch.from_numpy(((features - centre) / spread).astype(np.float32))
    mine, theirs = _sides(standard, train), _sides(standard, validation)
    start = generator.get_state()
    best: TrainedHead | None = None
    for ridge in settings.ridges:
        generator.set_state(start)  # so that ridges differ in nothing else
        module = _build(features.shape[1], settings, generator)
        (_fit_linear if settings.kind == "linear" else _fit_mlp)(module, mine, theirs, ridge, settings, generator)
        module.eval().requires_grad_(requires_grad=False)
        first, second, tie, weight = theirs
        margins = (module(first) - module(second)).squeeze(-1).double().numpy()
        temperature, nll = fit_temperature(margins, tie.numpy(), weight.double().numpy())
        if best is None or nll < best.validation_nll:
            parameters = sum(tensor.numel() for tensor in module.parameters())
            best = TrainedHead(module, centre, spread, temperature, nll, ridge, parameters)
    assert best is not None, "there is at least one ridge"
    return best


def fit_temperature(margins: Array, tie: NDArray[np.bool_], weight: Array) -> tuple[float, float]:
    """Returns the `a` of the least weighted mean of `-log sigma(a m)` over `margins` `[C]`, and that loss, by golden section in log a."""
    size = float(np.sqrt(np.mean(margins**2)))
    if size == 0:
        return 1.0, float(np.log(2.0))

    def loss(log_a: float) -> float:
        logits = np.exp(log_a) * margins / size
        losses = np.logaddexp(0.0, -logits)
        losses = np.where(tie, 0.5 * (losses + np.logaddexp(0.0, logits)), losses)
        return float(np.sum(weight * losses) / weight.sum())

    low, high, ratio = np.log(1e-3), np.log(30.0), (5**0.5 - 1) / 2
    for _ in range(60):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, second) if loss(first) < loss(second) else (first, high)
    found = 0.5 * (low + high)
    return float(np.exp(found) / size), loss(found)


Sides = tuple[Tensor, Tensor, Tensor, Tensor]


def _fit_linear(
    module: nn.Sequential,
    mine: Sides,
    theirs: Sides,  # noqa: ARG001 - a convex loss under a ridge needs no early stop
    ridge: float,
    settings: HeadSettings,
    generator: torch.Generator,  # noqa: ARG001 - nothing is drawn
) -> None:
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=100, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = _objective(module, mine, ridge, settings)
        value.backward()
        return value

    found: Tensor = optimizer.step(closure)
    if not torch.isfinite(found):
        raise TrainingDiverged(f"the loss of the linear head is {float(found.detach())}")


def _fit_mlp(module: nn.Sequential, mine: Sides, theirs: Sides, ridge: float, settings: HeadSettings, generator: torch.Generator) -> None:
    def loss(step: int) -> Tensor:  # noqa: ARG001 - batches are drawn afresh
        many = len(mine[0])
        rows = torch.randint(many, (settings.batch,), generator=generator) if many > settings.batch else slice(None)
        first, second, tie, weight = (column[rows] for column in mine)
        return _objective(module, (first, second, tie, weight), ridge, settings)

    fit(module, loss, lambda: float(_objective(module, theirs, 0.0, settings)), settings.loop)


def _objective(module: nn.Sequential, sides: Sides, ridge: float, settings: HeadSettings) -> Tensor:
    first, second, tie, weight = sides
    squares = sum((layer.weight.square().sum() for layer in module if isinstance(layer, nn.Linear)), torch.zeros(()))
    return _loss(module(first) - module(second), tie, weight, settings) + ridge * squares


def _sides(standard: Tensor, comparisons: Comparisons) -> Sides:
    weight = torch.from_numpy(comparisons.weight.astype(np.float32))
    return standard[comparisons.chosen], standard[comparisons.rejected], torch.from_numpy(comparisons.tie), weight


def _build(features: int, settings: HeadSettings, generator: torch.Generator) -> nn.Sequential:
    sizes = [features, 1] if settings.kind == "linear" else [features, settings.hidden, 1]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layer = nn.Linear(inputs, outputs)
        with torch.no_grad():
            scale = 0.0 if outputs == 1 else (2.0 / inputs) ** 0.5
            layer.weight.copy_(scale * torch.randn(outputs, inputs, generator=generator))
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _loss(margins: Tensor, tie: Tensor, weight: Tensor, settings: HeadSettings) -> Tensor:
    ahead = margins.squeeze(-1)

    def one_way(sign: float) -> Tensor:
        return functional.softplus(-sign * ahead) if settings.loss == "bradley_terry" else (settings.margin - sign * ahead).relu()

    # A tie is half a comparison either way.
    losses = torch.where(tie, 0.5 * (one_way(1.0) + one_way(-1.0)), one_way(1.0))
    return (weight * losses).sum() / weight.sum()
