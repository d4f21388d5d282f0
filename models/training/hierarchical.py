"""A population of tastes: users' weights on features are Gaussian, and one user's posterior is that Gaussian after their choices.

    theta_u ~ N(mu, Sigma)        P(chosen | theta) = sigma(theta . dx)

`fit_population` finds `mu` and `Sigma` by empirical Bayes: expectation-maximisation with Laplace posteriors. `laplace` is
the exact mode and its curvature; it reads all of a user's comparisons at once and is no sum, so it is a baseline and not
a served family. `additive` serves the same population by a bound. Axis letters: `U` users, `C` comparisons of each
(padded), `F` features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.seam.additive import curvature
from attune.models.seam.hedge import sigmoid
from attune.models.training.episodes import EpisodeBatch, Episodes, EpisodeSettings
from attune.models.training.features import Subspace
from attune.models.training.learner import Learner, Predicted, attenuated
from attune.models.training.loop import TrainingData

Array = NDArray[np.float64]

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Ridge penalties of `per_user_logistic`, in units of the mean squared feature difference."""

NO_WIDTH = 1e-6
"""What stands for a width of 0, which has no inverse."""

BATCH_ROWS = 16_384
"""Most padded comparisons worked on at once: 17 features of them are a few megabytes."""


@dataclass(frozen=True, slots=True)
class Population:
    """`N(mean, covariance)` over weights on features.

    Attributes:
        mean: `[F]` what everybody likes, logits per unit of feature.
        covariance: `[F, F]` how users differ, symmetric and positive definite.
    """

    mean: Array
    covariance: Array


@dataclass(frozen=True, slots=True)
class PopulationSettings:
    """How a population is fitted.

    Attributes:
        rounds: of expectation-maximisation.
        steps: of the posterior modes in each round, from where the round before left them.
        pseudo_users: users that are added to every estimate of `Sigma`: with few users, the directions that nobody was seen to differ in
            keep a little width.
        pseudo: how these differ: as the starting covariance says, or on each feature as much as users do, but no feature with another
            (`uncorrelated`). The second suits many features that no choice was looked at for: which of them matter shows on few users
            already, how they go together does not.
        start: variance of every weight at the start, in units of 1 / mean squared feature difference.
        widths, sizes: factors that the covariance and the mean may be multiplied by in the end; the least log-loss of
            validation users decides. Laplace posteriors of few binary choices lean to the middle, and so do estimates
            made of them; estimates from few users lean too far. Width 0 says that nobody differs from anybody.
        anchor_sizes: the same for the head that is known already, as the mean. What is said of a stranger is said under all that they
            may be, and is nearer to a half the wider that is; a head that was right of people in general must be larger to say as much.
    """

    rounds: int = 40
    steps: int = 3
    pseudo_users: float = 2.0
    pseudo: Literal["start", "uncorrelated"] = "start"
    start: float = 0.1
    widths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.8, 1.0, 1.25, 1.5, 1.8)
    sizes: tuple[float, ...] = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3)
    anchor_sizes: tuple[float, ...] = (1.0, 1.15, 1.3, 1.5)


@dataclass(frozen=True, slots=True)
class Choices:
    """Comparisons of several users, padded: `difference` `[U, C, F]`, `tie` and `weight` `[U, C]`; padding has weight 0."""

    difference: Array
    tie: NDArray[np.bool_]
    weight: Array


def fit_population(
    data: TrainingData,
    features: NDArray[np.float32],
    settings: PopulationSettings,
    anchor: Array | None = None,
    *,
    read: Callable[[Choices, Population], tuple[Array, Array]] | None = None,
) -> Population:
    """Returns the population of the training users.

    Args:
        data: its training comparisons; its validation comparisons choose two factors, see `PopulationSettings`.
        features: `[candidates, F]` of the texts.
        settings: see there.
        anchor: `[F]` a head for everybody that is known already; with it as the mean a population is among the choices.
        read: how validation users are read where they choose, as `bounded` does for what is served by the bound; by `laplace` if None.
    """
    table = np.asarray(features, dtype=np.float64)
    batches = list(batches_of_users(data.train, table))
    size = table.shape[1]
    spread = float(np.mean([np.mean(batch.difference[batch.weight > 0] ** 2) for batch in batches]))
    start: Array = np.eye(size) * (settings.start / max(spread, 1e-12))
    population = Population(np.zeros(size), start)
    modes: list[Array | None] = [None] * len(batches)
    for _ in range(settings.rounds):
        count, total, square = 0, np.zeros(size), np.zeros((size, size))
        for index, batch in enumerate(batches):
            mode, covariance = laplace(batch, population, start=modes[index], steps=settings.steps)
            modes[index] = mode
            count += len(mode)
            total += mode.sum(axis=0)
            square += mode.T @ mode + covariance.sum(axis=0)
        mean = total / count
        scatter = square - count * np.outer(mean, mean)
        scatter += settings.pseudo_users * (start if settings.pseudo == "start" else np.diag(np.diag(scatter) / count))
        population = Population(mean, 0.5 * (scatter + scatter.T) / (count + settings.pseudo_users))
    widths = [max(width, NO_WIDTH) for width in settings.widths]
    means = [size * population.mean for size in settings.sizes]
    means += [] if anchor is None else [size * anchor for size in settings.anchor_sizes]
    candidates = [Population(mean, width * population.covariance) for width in widths for mean in means]
    if len(candidates) == 1:
        return candidates[0]
    losses = _validation_nll(candidates, data, table, read or partial(laplace, steps=6))
    return population if losses is None else candidates[int(np.argmin(losses))]


def _validation_nll(
    populations: Sequence[Population], data: TrainingData, features: Array, read: Callable[[Choices, Population], tuple[Array, Array]]
) -> Array | None:
    """Returns the log-loss of validation users' decided targets under each population, summed over the usual counts.

    None if nobody decided anything: then nothing can be chosen by it.
    """
    told = data.validation
    difference = features[told.chosen] - features[told.rejected]
    losses, decided = np.zeros(len(populations)), False
    for batch in Episodes(told, EpisodeSettings()).validation_batches(users=128):
        context, targets = batch.context.numpy(), batch.targets.numpy()
        choices = Choices(
            difference[context] * batch.context_mask.numpy()[:, :, None],
            told.tie[context],
            told.weight[context] * batch.context_mask.numpy(),
        )
        counted = batch.target_mask.numpy() & ~told.tie[targets]
        if not counted.any():
            continue
        decided = True
        for index, population in enumerate(populations):
            mode, covariance = read(choices, population)
            margins = np.einsum("utf,uf->ut", difference[targets], mode)
            variances = np.einsum("utf,uft->ut", difference[targets], covariance @ np.swapaxes(difference[targets], 1, 2))
            losses[index] -= np.log(attenuated(margins, variances)[counted]).mean()
    return losses if decided else None


def taste_axes(population: Population, moment: Array, most: int) -> tuple[Array, Array]:
    """Returns `L` `[F, D]` and the variance of margins along every axis `[F]`, greatest first.

    `theta = mu + L u` with `u ~ N(0, I)` has the population's covariance where `D = F`, and `L^T S L` is diagonal: the axes
    are told apart by the comparisons themselves, so that votes along one say little about another.

    Args:
        population: of weights on features.
        moment: `S` `[F, F]` second moment of feature differences.
        most: `D`, at most.
    """
    values, vectors = np.linalg.eigh(population.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    variances, turned = np.linalg.eigh(root.T @ moment @ root)
    order = np.argsort(-variances, kind="stable")
    axes = root @ turned[:, order[:most]]
    # Eigenvectors come with either sign; a fixed one makes a training repeatable across libraries.
    signs = np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    signed: Array = axes * signs
    return signed, np.maximum(variances[order], 0.0)


def laplace(choices: Choices, population: Population, *, start: Array | None = None, steps: int = 50) -> tuple[Array, Array]:
    """Returns the mode `[U, F]` of every user's posterior and the inverse curvature there `[U, F, F]`.

    Steps minimise the Jaakkola-Jordan bound at the weights of the step before, which never overshoots as Newton's may, and
    end when no mode moves any more.

    Args:
        choices: of the users.
        population: the prior.
        start: `[U, F]` where to begin; the prior's mean if None.
        steps: at most.
    """
    difference, prior = choices.difference, np.asarray(np.linalg.inv(population.covariance), dtype=np.float64)
    pull = (np.where(choices.tie, 0.0, 0.5) * choices.weight)[:, None, :] @ difference
    target = pull[:, 0] + prior @ population.mean
    mode: Array = np.broadcast_to(population.mean, target.shape).copy() if start is None else start
    for _ in range(steps):
        margins = np.abs(np.einsum("ucf,uf->uc", difference, mode))
        bound = prior + np.swapaxes(difference, 1, 2) @ (difference * (choices.weight * curvature(margins))[:, :, None])
        moved = np.asarray(np.linalg.solve(bound, target[:, :, None])[:, :, 0], dtype=np.float64)
        change = float(np.abs(moved - mode).max(initial=0.0))
        mode = moved
        if change < 1e-8:
            break
    probability = sigmoid(np.einsum("ucf,uf->uc", difference, mode))
    weight = choices.weight * probability * (1.0 - probability)
    precision = prior + np.swapaxes(difference, 1, 2) @ (difference * weight[:, :, None])
    return mode, np.asarray(np.linalg.inv(precision), dtype=np.float64)


def bounded(choices: Choices, population: Population) -> tuple[Array, Array]:
    """Returns mean `[U, F]` and covariance `[U, F, F]` of every user by the bound that `models.seam.additive` adds up.

    It is taken at the expected size of a logit under the prior, so that no step depends on another: a quarter of the time of `laplace`.
    """
    difference, spread = choices.difference, population.covariance
    usual = difference @ population.mean
    variance = np.einsum("ucf,ucf->uc", difference @ spread, difference)
    slope = choices.weight * curvature(np.sqrt(usual**2 + np.maximum(variance, 0.0)))
    pull = np.where(choices.tie, 0.0, 0.5) * choices.weight - slope * usual
    precision = np.linalg.inv(spread) + np.swapaxes(difference, 1, 2) @ (difference * slope[:, :, None])
    covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    mean: Array = population.mean + np.einsum("ufg,ug->uf", covariance, np.einsum("uc,ucf->uf", pull, difference))
    return mean, covariance


def batches_of_users(comparisons: Comparisons, features: Array) -> Iterator[Choices]:
    """Yields every user's choices once, users of like activity together so that little is padding."""
    rows = sorted(comparisons.rows_of_users().values(), key=len)
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and (stop - start + 1) * len(rows[stop]) <= BATCH_ROWS:
            stop += 1
        yield padded_choices(comparisons, features, rows[start:stop])
        start = stop


def padded_choices(comparisons: Comparisons, features: Array, rows: list[NDArray[np.int64]]) -> Choices:
    """Returns the choices at `rows`, one array for each user, of comparisons between texts with `features` `[candidates, F]`."""
    shape = len(rows), max(len(mine) for mine in rows)
    difference, tie, weight = np.zeros((*shape, features.shape[1])), np.zeros(shape, dtype=np.bool_), np.zeros(shape)
    for index, mine in enumerate(rows):
        difference[index, : len(mine)] = features[comparisons.chosen[mine]] - features[comparisons.rejected[mine]]
        tie[index, : len(mine)] = comparisons.tie[mine]
        weight[index, : len(mine)] = comparisons.weight[mine]
    return Choices(difference, tie, weight)


@dataclass(frozen=True, slots=True)
class GaussianLearner:
    """Predicts by the Laplace posterior of one user's weights under a population.

    Attributes:
        name: in reports.
        population: the prior.
        features: `[candidates, F]` of the texts.
    """

    name: str
    population: Population
    features: Array

    def predict(self, context: Comparisons, targets: Comparisons) -> Predicted:
        """Returns the predictions; see `Learner`."""
        rows = np.arange(len(context))
        mode, covariance = laplace(padded_choices(context, self.features, [rows]), self.population)
        difference = self.features[targets.chosen] - self.features[targets.rejected]
        variance = np.einsum("cf,fg,cg->c", difference, covariance[0], difference)
        return Predicted(attenuated(difference @ mode[0], variance), np.sqrt(variance))


def train_hierarchical(data: TrainingData, subspace: Subspace, settings: PopulationSettings) -> GaussianLearner:
    """Returns the hierarchical Gaussian: the population of the training users, and exact modes for new ones."""
    calibration = data.calibration(subspace)
    features = calibration.candidate(data.vectors.candidates)
    return GaussianLearner("hierarchical", fit_population(data, features, settings, calibration.anchor), features.astype(np.float64))


def train_per_user_logistic(data: TrainingData, subspace: Subspace) -> GaussianLearner:
    """Returns logistic regression on every user's own comparisons alone: before the first it knows nothing, P = 1/2.

    The ridge penalty is that of the least mean log-loss over validation users and counts, so it may be any of `PENALTIES`.
    """
    calibration = data.calibration(subspace)
    features = calibration.candidate(data.vectors.candidates).astype(np.float64)
    size = features.shape[1]
    unit = np.trace(calibration.moment) / size
    batches = Episodes(data.validation, EpisodeSettings()).validation_batches(users=128)
    learners = [
        GaussianLearner("per_user_logistic", Population(np.zeros(size), np.eye(size) / (one * unit)), features) for one in PENALTIES
    ]
    losses = [np.mean([episode_nll(learner, data.validation, batch) for batch in batches]) for learner in learners]
    return learners[int(np.argmin(losses))]


def episode_nll(learner: Learner, comparisons: Comparisons, batch: EpisodeBatch) -> float:
    """Returns the mean log-loss of a batch's decided targets, each user's given that user's context."""
    total, count = 0.0, 0
    for context, told, targets, asked in zip(batch.context, batch.context_mask, batch.targets, batch.target_mask, strict=True):
        predicted = comparisons.take(targets[asked].numpy())
        found = learner.predict(comparisons.take(context[told].numpy()), predicted).probabilities[~predicted.tie]
        total -= float(np.log(np.maximum(found, 1e-12)).sum())
        count += len(found)
    return total / max(1, count)
