"""Trains `attributes`: one named head per rated attribute, and users as Gaussians over them.

    ratings of candidates by attribute ─> one ridge regression per attribute ─> frozen heads, in the ratings' own [0, 1]
    users' comparisons ─> pair encoder and bases of `vrf` over those heads (SCIENCE §5)

The other families find their heads by themselves and are named afterwards; here every head is what it is called, so that a
weight can be read as a taste and a portfolio can be certified over rewards that mean something (PALM's rewards, SCIENCE §4).
Ratings say how much and not only which: heads from comparisons by attribute are noisier (models/LOG.md). Regression heads are
those of ArmoRM (Wang et al. 2024, arXiv 2406.12845); users over them are a reconstruction. Axis letters: `N` candidates,
`K` attributes, `D` width of the trunk's vectors.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from attune.models.training.episodes import ComparisonFeatures, Episodes
from attune.models.training.features import Affine, Calibration, StandardisedHeads, Subspace
from attune.models.training.heads import Heads, TrainedFamily
from attune.models.training.loop import LoopSettings, TrainingData, fit, reproducible
from attune.models.training.vrf import NAME as VRF
from attune.models.training.vrf import VrfModule, VrfSettings, training_loss

Array = NDArray[np.float64]

NAME = "attributes"

_START_SCALE = 10.0  # rewards differ by tenths where a choice is clear, so that logits of a few need about this factor


class RatingsInvalid(ValueError):
    """Ratings that no head can be trained on; the message carries the numbers."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """How strongly candidates show each attribute.

    Attributes:
        names: `K` attributes.
        scores: `[N, K]` in [0, 1], NaN where a candidate was not rated.
        train, validation: `[N]` which candidates heads are fitted on, and which choose the penalty; of different prompts.
    """

    names: tuple[str, ...]
    scores: Array
    train: NDArray[np.bool_]
    validation: NDArray[np.bool_]

    def __post_init__(self) -> None:
        shape = (len(self.train), len(self.names))
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            raise RatingsInvalid(f"the attributes are {self.names}; at least two of different names are needed")
        if self.scores.shape != shape or self.validation.shape != self.train.shape:
            raise RatingsInvalid(
                f"scores are {self.scores.shape} and masks {self.train.shape} and {self.validation.shape}; expected {shape}"
            )
        if np.any(self.train & self.validation):
            raise RatingsInvalid(f"{int(np.sum(self.train & self.validation))} candidates are in train and validation")
        rated = self.scores[~np.isnan(self.scores)]
        if np.any((rated < 0) | (rated > 1)):
            raise RatingsInvalid(f"scores go from {rated.min():g} to {rated.max():g}; they must lie in [0, 1]")


@dataclass(frozen=True, slots=True)
class AttributesSettings:
    """Constants of the family.

    Attributes:
        penalties: ridge penalties to choose from for each head, by the error on the validation candidates.
        vrf: users over the heads; its `heads` and `subspace` are not looked at.
    """

    penalties: tuple[float, ...] = (30.0, 100.0, 300.0, 1000.0, 3000.0)
    vrf: VrfSettings = field(
        default_factory=lambda: VrfSettings(latent=8, features=16, diversity=0.0, ridge=0.0, loop=LoopSettings(steps=4000, patience=10))
    )


def train_attributes(data: TrainingData, ratings: Ratings, settings: AttributesSettings, seed: int) -> TrainedFamily:
    """Returns one head per attribute and the users' side over them.

    Args:
        data: users' comparisons.
        ratings: of the candidates of `data`'s table of texts.
        settings: see `AttributesSettings`.
        seed: of everything drawn.

    Raises:
        RatingsInvalid: ratings and texts do not fit, or an attribute has hardly any ratings or always the same.
        VectorsInvalid: see `Calibration.of`.
    """
    if len(ratings.train) != len(data.vectors.candidates):
        raise RatingsInvalid(f"there are ratings of {len(ratings.train)} candidates and vectors of {len(data.vectors.candidates)}")
    with reproducible(seed) as generator:
        every = Calibration.of(data.train, data.vectors, Subspace(components=None))
        heads, report = attribute_heads(ratings, every.candidate, data.vectors.candidates, settings.penalties)
        rewards = heads(data.vectors.candidates).astype(np.float64)
        differences = rewards[data.train.chosen] - rewards[data.train.rejected]
        calibration = Calibration(heads, every.prompt, differences.T @ (differences * data.train.weight[:, None]) / data.train.weight.sum())
        sized = replace(settings.vrf, heads=len(ratings.names))
        module = _AttributesModule(calibration, sized, generator)
        train, validation = (ComparisonFeatures.of(part, data, calibration) for part in (data.train, data.validation))
        batches = Episodes(data.validation, sized.episodes).validation_batches()

        def validate() -> float:
            return float(np.mean([float(module.episode_loss(validation, batch)[0]) for batch in batches]))

        history = fit(module, training_loss(module, train, data, sized, seed), validate, sized.loop)
        summary = {"settings": asdict(settings), "seed": seed, "best_step": history.best_step, "validation_nll": history.best_loss}
        folded = module.fold(calibration)
        outputs = {name.replace(VRF, NAME, 1): layers for name, layers in folded.outputs.items()}
        reads = {name.replace(VRF, NAME, 1): read for name, read in folded.reads.items()}
        family = replace(module.family(), name=NAME, heads=ratings.names)
        served = Heads(outputs, reads)  # type: ignore[arg-type]  # a ModuleDict does not say what it holds
        return TrainedFamily(family, served.eval().requires_grad_(requires_grad=False), {**summary, "attributes": report})


def attribute_heads(
    ratings: Ratings, features: Affine, vectors: NDArray[np.float32], penalties: tuple[float, ...]
) -> tuple[Affine, dict[str, dict[str, float]]]:
    """Returns one ridge regression per attribute as an affine map `[K, D]`, and each one's penalty, intercept and R² on validation.

    The map leaves the intercept out, since what is constant cancels in every comparison; head plus intercept is a rating in [0, 1].
    """
    rows, report = [], {}
    standardised = features(vectors).astype(np.float64)
    for number, name in enumerate(ratings.names):
        rated = ~np.isnan(ratings.scores[:, number])
        parts = []
        for part, mask in (("training", ratings.train), ("validation", ratings.validation)):
            x, y = standardised[mask & rated], ratings.scores[mask & rated, number]
            if len(y) < 2 or np.ptp(y) == 0:
                raise RatingsInvalid(f"attribute {name!r} has {len(y)} {part} ratings, all equal: nothing can be learned or judged")
            parts.append((x, y))
        (x, y), (held_x, held_y) = parts
        centred = x - x.mean(axis=0)
        gram, together = centred.T @ centred, centred.T @ (y - y.mean())
        fitted = [np.linalg.solve(gram + penalty * np.eye(len(gram)), together) for penalty in penalties]
        errors = [float(np.mean((held_y - y.mean() - (held_x - x.mean(axis=0)) @ weight) ** 2)) for weight in fitted]
        best = int(np.argmin(errors))
        report[name] = {
            "penalty": penalties[best],
            "validation_r2": 1.0 - errors[best] / float(held_y.var()),
            "intercept": float(y.mean() - x.mean(axis=0) @ fitted[best]),
        }
        rows.append(fitted[best])
    return Affine(np.stack(rows) @ features.matrix, features.mean), report


class _GivenHeads(StandardisedHeads):
    """Heads that are the features themselves, in the units of the ratings: not standardised, so that weights are tastes."""

    def __init__(self, moment: Array, generator: torch.Generator) -> None:
        super().__init__(len(moment), moment, generator)
        with torch.no_grad():
            self.directions.copy_(torch.eye(len(moment)))
        self.directions.requires_grad_(False)

    def effective(self) -> Tensor:
        return self.directions


class _AttributesModule(VrfModule):
    """`vrf` over given heads, one base each: no head stands for everybody, so none has the wide base."""

    def __init__(self, calibration: Calibration, settings: VrfSettings, generator: torch.Generator) -> None:
        super().__init__(calibration, settings, generator)
        shape = settings.heads, settings.latent
        self.heads = _GivenHeads(calibration.moment, generator)
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(_START_SCALE))))
        self.base_means = nn.Parameter(torch.randn(shape, generator=generator))
        self.raw_base_stds = nn.Parameter(torch.full(shape, float(np.log(np.expm1(0.5)))))
        # Features of a pair start at the size that standardised heads would give them.
        with torch.no_grad():
            self.features.weight.mul_(_START_SCALE / 2)

    def bases(self) -> tuple[Tensor, Tensor]:
        return self.base_means, functional.softplus(self.raw_base_stds) + 1e-3
