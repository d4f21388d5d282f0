"""Trains `attributes`: one named head per rated attribute, and the population of users over them.

    ratings of candidates by attribute ─> one ridge regression per attribute ─> frozen heads, in the ratings' own [0, 1]
    users' comparisons ─> population N(m, S) over what each reward counts (`hierarchical.fit_population`), in seconds

The other families find their heads by themselves and are named afterwards; here every head is what it is called, so that a
weight can be read as a taste and a portfolio can be certified over rewards that mean something (PALM's rewards, SCIENCE §4).
Ratings say how much and not only which: heads from comparisons by attribute are noisier (models/LOG.md). Regression heads are
those of ArmoRM (Wang et al. 2024, arXiv 2406.12845). Axis letters: `N` candidates, `K` attributes, `D` width of the vectors.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attune.models.seam.attributes import NAME, Attributes
from attune.models.training.features import Affine, Calibration, Subspace
from attune.models.training.heads import Heads, TrainedFamily
from attune.models.training.hierarchical import PopulationSettings, fit_population
from attune.models.training.loop import TrainingData
from attune.models.training.validating import validation_nll

Array = NDArray[np.float64]


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
        population: of users over the heads.
    """

    penalties: tuple[float, ...] = (30.0, 100.0, 300.0, 1000.0, 3000.0)
    population: PopulationSettings = field(default_factory=PopulationSettings)


def train_attributes(data: TrainingData, ratings: Ratings, settings: AttributesSettings, seed: int) -> TrainedFamily:
    """Returns one head per attribute and the population over them; nothing is drawn, and `seed` is only noted.

    Args:
        data: users' comparisons.
        ratings: of the candidates of `data`'s table of texts.
        settings: see `AttributesSettings`.
        seed: for the summary.

    Raises:
        RatingsInvalid: ratings and texts do not fit, or an attribute has hardly any ratings or always the same.
        VectorsInvalid: see `Calibration.of`.
    """
    if len(ratings.train) != len(data.vectors.candidates):
        raise RatingsInvalid(f"there are ratings of {len(ratings.train)} candidates and vectors of {len(data.vectors.candidates)}")
    every = Calibration.of(data.train, data.vectors, Subspace(components=None))
    affine, report = attribute_heads(ratings, every.candidate, data.vectors.candidates, settings.penalties)
    population = fit_population(data, affine(data.vectors.candidates), settings.population)
    layer = affine.fold(np.eye(len(ratings.names)))
    outputs = {f"{NAME}_rewards": nn.Sequential(layer)}
    heads = Heads(outputs, {f"{NAME}_rewards": "candidate"}).eval().requires_grad_(requires_grad=False)
    root = np.asarray(np.linalg.cholesky(population.covariance), dtype=np.float64)
    family = Attributes(NAME, ratings.names, float(np.abs(population.mean).sum()), population.mean, root)
    trained = TrainedFamily(family, heads)
    summary = {"settings": asdict(settings), "seed": seed, "validation_nll": validation_nll(trained, data), NAME: report}
    return TrainedFamily(family, heads, summary)


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
