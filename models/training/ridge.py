"""Penalised logistic regression in seconds: the first head for any data, the start of the other families, and what they must beat.

    differences of standardised inputs ─> along their principal axes ─> Newton for each strength ─> the strength of least log-loss
                                                                                                    over validation people

With a few thousand comparisons several hundred inputs are too many for gradient steps stopped early; a strength chosen on
people holds them back evenly (Hoerl and Kennard 1970; le Cessie and van Houwelingen 1992). There is no intercept, since
turning a comparison round must turn its prediction round. `C` comparisons, `F` inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.seam.hedge import sigmoid

Array = NDArray[np.float64]

STRENGTHS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Penalties on the squared weights of standardised inputs, in comparisons."""

STEPS = 50
"""Newton's, at most."""

EXACT = 0.01
"""Share of a gradient that a step may leave; the next one takes it up."""


@dataclass(frozen=True, slots=True)
class Ridge:
    """A head over inputs `[F]`, logits per unit of input.

    Attributes:
        weights: `[F]` on the inputs as they came.
        strength: the penalty that was chosen.
        validation_nll: mean over validation people of their mean log-loss.
        inputs: what the head reads, in words.
    """

    weights: Array
    strength: float
    validation_nll: float
    inputs: str = ""


def fit_ridge(
    inputs: NDArray[np.float32],
    train: Comparisons,
    validation: Comparisons,
    strengths: Sequence[float] = STRENGTHS,
) -> Ridge:
    """Returns the head of the strength that validation people lose least under.

    Args:
        inputs: `[candidates, F]` of the texts that both parts share.
        train: fitted on; ties count half either way.
        validation: other people or prompts; decides.
        strengths: to choose from, at least one.

    Raises:
        ValueError: no comparison is left.
    """
    path = ridge_path(inputs, train, validation, strengths)
    found = [Ridge(weights, strength, nll_over_people(margins, validation)) for strength, (weights, margins) in path.items()]
    return min(found, key=lambda one: one.validation_nll)


def ridge_path(
    inputs: NDArray[np.float32],
    train: Comparisons,
    asked: Comparisons,
    strengths: Sequence[float],
    *,
    emphasis: Array | None = None,
) -> dict[float, tuple[Array, Array]]:
    """Returns strength -> weights `[F]` fitted on `train`, and margins `[C]` of `asked` under them; see `fit_ridge`.

    Args:
        inputs: `[candidates, F]` of the texts that both parts share.
        train: fitted on.
        asked: what margins are wanted of.
        strengths: at least one.
        emphasis: `[F]` factors on the standardised inputs: what is larger is held back less. None for 1.

    Raises:
        ValueError: no comparison is left.
    """
    used = np.concatenate([train.chosen, train.rejected])
    spread = inputs[used].std(axis=0, dtype=np.float64)
    scale = np.where(spread > 1e-6, 1.0 / np.where(spread > 1e-6, spread, 1.0), 0.0)
    scale = scale if emphasis is None else scale * emphasis
    told, wanted = (_differences(inputs, part) * scale for part in (train, asked))
    if not len(told) or not len(wanted):
        raise ValueError(f"{len(told)} comparisons to fit and {len(wanted)} to choose by are too few")
    back = _principal_axes(told)
    told, wanted = told @ back, wanted @ back
    weights, path = np.zeros(told.shape[1]), {}
    if not told.any():
        # All answers alike in these inputs, as answers of one word are in length: the head that knows nothing.
        return {max(strengths): (np.zeros(inputs.shape[1]), np.zeros(len(wanted)))}
    for strength in sorted(strengths, reverse=True):  # each starts from the one before it, which lies near
        weights = newton(told, train.tie, train.weight, strength, start=weights)
        path[strength] = ((back @ weights) * scale, wanted @ weights)
    return path


def newton(differences: Array, tie: NDArray[np.bool_], weight: Array, strength: float, *, start: Array | None = None) -> Array:
    """Returns the weights `[F]` of least penalised log-loss over `differences` `[C, F]` of chosen less rejected.

    A step that does not lessen the loss is halved, so that the end is the minimum whatever the start. Steps are found by conjugate
    gradients, so that no curvature matrix is ever made or solved; few are needed where inputs are uncorrelated, as `ridge_path` makes
    them.
    """
    target = np.where(tie, 0.5, 1.0)
    weights: Array = np.zeros(differences.shape[1]) if start is None else start
    squares = differences**2

    def loss(at: Array) -> float:
        margins = differences @ at
        costs = np.logaddexp(0.0, -margins) * target + np.logaddexp(0.0, margins) * (1.0 - target)
        return float(weight @ costs + 0.5 * strength * at @ at)

    now = loss(weights)
    for _ in range(STEPS):
        chance = sigmoid(differences @ weights)
        gradient = differences.T @ (weight * (chance - target)) + strength * weights
        counted = weight * chance * (1.0 - chance)
        step = _newton_step(differences, counted, strength, gradient, counted @ squares + strength)
        while loss(weights - step) > now and np.abs(step).max() > 1e-9:
            step = 0.5 * step
        weights = weights - step
        before, now = now, loss(weights)
        if before - now < 1e-9 * max(1.0, abs(now)):
            break
    return weights


def _newton_step(differences: Array, counted: Array, strength: float, gradient: Array, scale: Array) -> Array:
    """Returns `(X^T diag(counted) X + strength)^-1 gradient` to a hundredth, by conjugate gradients with the diagonal `scale`."""
    step, left = np.zeros_like(gradient), gradient.copy()
    steered = left / scale
    direction, now = steered, float(left @ steered)
    goal = EXACT**2 * now
    for _ in range(2 * len(gradient)):
        if now <= goal:
            break
        bent = differences.T @ (counted * (differences @ direction)) + strength * direction
        far = now / float(direction @ bent)
        step, left = step + far * direction, left - far * bent
        steered = left / scale
        before, now = now, float(left @ steered)
        direction = steered + (now / before) * direction
    return step


def _principal_axes(differences: Array) -> Array:
    """Returns `[F, R]` the orthonormal axes along which `differences` `[C, F]` vary, as many as they span.

    Seen along them nothing changes of a penalised minimum, and inputs are uncorrelated.
    """
    rows, inputs = differences.shape
    gram = differences @ differences.T if rows < inputs else differences.T @ differences
    values, vectors = np.linalg.eigh(gram)
    spanned = values > 1e-10 * max(values[-1], 1e-300)
    axes: Array = vectors[:, spanned] if rows >= inputs else differences.T @ (vectors[:, spanned] / np.sqrt(values[spanned]))
    return axes


def nll_over_people(margins: Array, comparisons: Comparisons) -> float:
    """Returns the mean over people of their mean log-loss, for `margins` `[C]` in logits: who told much is still one of them."""
    losses = np.logaddexp(0.0, -margins)
    losses = np.where(comparisons.tie, 0.5 * (losses + np.logaddexp(0.0, margins)), losses)
    return float(np.mean([losses[mine].mean() for mine in comparisons.rows_of_users().values()]))


def _differences(inputs: NDArray[np.float32], comparisons: Comparisons) -> Array:
    found: Array = inputs[comparisons.chosen].astype(np.float64) - inputs[comparisons.rejected]
    return found
