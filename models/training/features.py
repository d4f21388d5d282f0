"""From trunk vectors to what trainers see: an affine map fitted on the training comparisons, and standardised heads.

Everything here is affine in the trunk's vector, so that it folds into one weight and one bias per head when training ends
and serving computes a single matrix product. Axis letters: `D` the trunk's width (`D + 1` elsewhere, length included),
`F` features, `C` comparisons, `K` heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparisons
from attune.models.training.style_directions import style_directions

Array = NDArray[np.float64]

APART = 0.3
"""How far heads that start near one direction are turned aside from it, in its size."""


class VectorsInvalid(ValueError):
    """Vectors that no head can be trained on; the message carries the numbers."""


@dataclass(frozen=True, slots=True)
class Affine:
    """`x = A (h - mu)`.

    Attributes:
        matrix: `A` `[F, D]`.
        mean: `mu` `[D]`.
    """

    matrix: Array
    mean: Array

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the features `[N, F]` of `vectors` `[N, D]`."""
        return ((vectors.astype(np.float64) - self.mean) @ self.matrix.T).astype(np.float32)

    def fold(self, weight: Array, bias: Array | None = None) -> nn.Linear:
        """Returns the layer on raw vectors that computes `weight x + bias`, with `weight` `[K, F]` and `bias` `[K]`."""
        folded = weight @ self.matrix
        layer = nn.Linear(folded.shape[1], folded.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(folded))
            layer.bias.copy_(torch.from_numpy(-folded @ self.mean + (0.0 if bias is None else bias)))
        return layer


@dataclass(frozen=True, slots=True)
class Subspace:
    """Which directions of the trunk's vectors the heads may use.

    Attributes:
        components: keep this many directions in which users differ most consistently (reconstruction: the low-rank space of
            tastes that LoRe and PALM assume, found in closed form); None keeps every dimension.
        shrinkage: how much the second moment of differences is shrunk to its mean when directions are found; larger trusts
            directions of little variance less.
        everybody: the logit of ridge on all dimensions is a feature too, the first, so that a training starts from what is known of
            everybody and only has to find how people differ; see `ridge`.
        kind: `principal` keeps the principal components of the texts themselves instead, and the length beside them: no
            choice is looked at, so few or noisy users cannot mislead it, and what varies little is lost. With `components` 0
            the length is alone.
        style: with `principal`, how a text is written stands beside them (`style_directions`); no choice is looked at either.
    """

    components: int | None = 12
    shrinkage: float = 1.0
    kind: Literal["tastes", "principal"] = "tastes"
    everybody: bool = False
    style: bool = False


@dataclass(frozen=True, slots=True)
class Calibration:
    """The affine maps of candidates and prompts, and the second moment of feature differences over the training comparisons.

    Attributes:
        candidate: features of a candidate's vector, mean 0 over the candidates of the training comparisons.
        prompt: features of a prompt's vector, standardised.
        moment: `S` `[F, F]`, weighted mean of `dx dx^T`.
        anchor: `[F]` weights of the head that everything starts from; None where features have none.
    """

    candidate: Affine
    prompt: Affine
    moment: Array
    anchor: Array | None = None

    @classmethod
    def of(cls, train: Comparisons, vectors: Vectors, subspace: Subspace) -> Calibration:
        """Returns the calibration of `train`.

        Args:
            train: the calibration set: no other comparison is looked at.
            vectors: of the texts of `train`.
            subspace: which features to keep.

        Raises:
            VectorsInvalid: vectors are not finite or too few for the texts, or all differences are zero.
        """
        _check(train, vectors)
        used = np.concatenate([train.chosen, train.rejected])
        mean, spread = _moments(vectors.candidates[used])
        differences = vectors.candidates[train.chosen].astype(np.float64) - vectors.candidates[train.rejected]
        if not differences[train.weight > 0].any():
            raise VectorsInvalid(f"all {len(train)} comparisons are between equal vectors: there is nothing to learn")
        if subspace.components is not None and subspace.kind == "principal":
            texts = vectors.candidates[np.unique(used)]
            matrix = _principal_components(texts, subspace.components)
            if subspace.style:
                matrix = np.concatenate([matrix, _of_variance_one(style_directions(vectors.candidates, train), texts)])
        elif subspace.components is not None:
            matrix = (_taste_axes(train, differences / spread, subspace.components, subspace.shrinkage) / spread[:, None]).T
        else:
            matrix = np.diag(1.0 / spread)
        prompt_mean, prompt_spread = _moments(vectors.prompts[np.unique(train.prompt)])
        return cls(
            Affine(matrix, mean),
            Affine(np.diag(1.0 / prompt_spread), prompt_mean),
            _second_moment(differences @ matrix.T, train.weight),
        )

    def with_head(self, weights: Array, train: Comparisons, vectors: Vectors) -> Calibration:
        """Returns the calibration with one more feature, the first: the logit of a head with `weights` `[D + 1]` on raw vectors."""
        matrix = np.concatenate([weights[None], self.candidate.matrix])
        raw = vectors.candidates[train.chosen].astype(np.float64) - vectors.candidates[train.rejected]
        anchor = np.zeros(len(matrix))
        anchor[0] = 1.0
        return Calibration(Affine(matrix, self.candidate.mean), self.prompt, _second_moment(raw @ matrix.T, train.weight), anchor)


class StandardisedHeads(nn.Module):
    """Linear heads whose differences have second moment 1 on the calibration set at every step, exactly.

    `s_k = v_k . x / sqrt(v_k^T S v_k)`: how far a head spreads is then no parameter, only its direction is, and one logit
    scale per family carries the size. Centred features make the mean of `s_k` zero.
    """

    moment: Tensor

    def __init__(self, heads: int, moment: Array, generator: torch.Generator) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(heads, moment.shape[0], generator=generator))
        self.register_buffer("moment", torch.from_numpy(moment).float())

    def effective(self) -> Tensor:
        """Returns the weights on features `[K, F]`, after standardisation."""
        variance = ((self.directions @ self.moment) * self.directions).sum(dim=1, keepdim=True)
        return self.directions / variance.clamp(min=1e-12).sqrt()

    @torch.no_grad()
    def start_near(self, anchor: Array) -> float:
        """Points all heads along `anchor` `[F]`, each a little aside, and returns the spread of its logit over the calibration set."""
        spread = float(np.sqrt(anchor @ self.moment.double().numpy() @ anchor))
        sizes = self.moment.diagonal().clamp(min=1e-12).sqrt()
        aside = self.directions / sizes
        aside = aside / ((aside @ self.moment) * aside).sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt()
        self.directions.copy_(torch.from_numpy(anchor / max(spread, 1e-9)).float() + APART * aside)
        return max(spread, 1e-9)

    def forward(self, features: Tensor) -> Tensor:
        """Returns rewards `[..., K]` of features `[..., F]`, or their differences for differences of features."""
        return features @ self.effective().T

    def ridge(self) -> Tensor:
        """Returns the mean square of the effective weights: large where a head lives in directions of little variance."""
        return self.effective().square().mean()

    def correlation(self) -> Tensor:
        """Returns the correlation `[K, K]` of the heads' differences over the calibration set."""
        weights = self.effective()
        return weights @ self.moment @ weights.T

    def fold(self, features: Affine) -> nn.Linear:
        """Returns the heads as one layer on raw vectors."""
        return features.fold(self.effective().detach().double().numpy())


class SizedHeads(StandardisedHeads):
    """Standardised heads, each times a size of its own: where scores are mixed, what all like may be quieter than what few like.

    The heads' spread over the calibration set is their size, and a family's logit scale is the mean of the sizes.
    """

    def __init__(self, heads: int, moment: Array, generator: torch.Generator) -> None:
        super().__init__(heads, moment, generator)
        self.log_sizes = nn.Parameter(torch.zeros(heads))

    def effective(self) -> Tensor:
        """Returns the weights on features `[K, F]`, after standardisation and times the sizes."""
        return super().effective() * self.log_sizes.exp().unsqueeze(-1)

    @torch.no_grad()
    def start_from(self, weights: Array) -> float:
        """Sets the heads to `weights` `[K, F]` up to one factor, and returns it: the root mean square of their spreads."""
        spreads = np.sqrt(np.einsum("kf,fg,kg->k", weights, self.moment.double().numpy(), weights))
        scale = float(np.sqrt(np.mean(spreads**2)))
        self.directions.copy_(torch.from_numpy(weights / np.maximum(spreads, 1e-9)[:, None]))
        self.log_sizes.copy_(torch.from_numpy(np.log(np.maximum(spreads / scale, 1e-3))))
        return scale

    def correlation(self) -> Tensor:
        """Returns the correlation `[K, K]` of the heads' differences over the calibration set."""
        weights = super().effective()
        return weights @ self.moment @ weights.T


def _moments(vectors: NDArray[np.float32]) -> tuple[Array, Array]:
    mean = vectors.mean(axis=0, dtype=np.float64)
    spread = vectors.std(axis=0, dtype=np.float64)
    # A dimension that never varies says nothing: dividing by 1 keeps it at zero instead of blowing rounding up.
    return mean, np.where(spread > 1e-6, spread, 1.0)


def _second_moment(differences: Array, weight: Array) -> Array:
    moment: Array = (differences * weight[:, None]).T @ differences / weight.sum()
    return moment


def _principal_components(texts: NDArray[np.float32], components: int) -> Array:
    """Returns `[components + 1, D + 1]`: principal components of the trunk's dimensions, and the length; each of variance 1.

    What does not vary over the texts, such as a length that was masked out, is no feature.
    """
    centred = texts - texts.mean(axis=0, dtype=np.float64)
    # Not by a singular value decomposition of the texts, whose other half would be as large as all of their vectors again.
    axes = np.linalg.eigh(centred[:, :-1].T @ centred[:, :-1])[1].T[::-1][:components]
    spreads = np.append(np.linalg.norm(centred[:, :-1] @ axes.T, axis=0), np.linalg.norm(centred[:, -1])) / np.sqrt(len(texts))
    matrix = np.zeros((len(spreads), texts.shape[1]))
    matrix[:-1, :-1] = axes * np.where(axes.sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    matrix[-1, -1] = 1.0
    varying = spreads > 1e-6
    kept: Array = matrix[varying] / spreads[varying, None]
    return kept


def _of_variance_one(directions: Array, texts: NDArray[np.float32]) -> Array:
    spreads = (texts.astype(np.float64) @ directions.T).std(axis=0)
    varying = spreads > 1e-6
    kept: Array = directions[varying] / spreads[varying, None]
    return kept


def _taste_axes(train: Comparisons, differences: Array, components: int, shrinkage: float) -> Array:
    """Returns `[D, components]`, the directions in which users' mean differences vary most against the differences themselves.

    `C`, the mean of `dx_i dx_j^T` over different comparisons of one user, is what a user's choices have in common: noise of
    single choices cancels, tastes do not. The axes solve `C g = lambda (S + shrinkage tr(S)/D I) g`.
    """
    decided = np.where(train.tie, 0.0, 1.0)[:, None] * differences
    sums = np.zeros((len(train.users), differences.shape[1]))
    np.add.at(sums, train.user, decided)
    counts = np.bincount(train.user, minlength=len(train.users))
    pairs = float(np.sum(counts * (counts - 1)))
    if pairs == 0:
        raise VectorsInvalid(f"none of {len(train.users)} users has two comparisons: their tastes have no common directions to find")
    common = (sums.T @ sums - decided.T @ decided) / pairs
    moment = _second_moment(differences, train.weight)
    shrunk = moment + shrinkage * np.trace(moment) / len(moment) * np.eye(len(moment))
    # Whitening by the Cholesky factor turns the generalised problem into an ordinary symmetric one.
    root = np.linalg.inv(np.linalg.cholesky(shrunk))
    values, axes = np.linalg.eigh(root @ common @ root.T)
    top = np.argsort(-values, kind="stable")[:components]
    found = root.T @ axes[:, top]
    # Eigenvectors come with either sign; a fixed one makes a training repeatable across libraries.
    signed: Array = found * np.where(found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])] < 0, -1.0, 1.0)
    return signed


def _check(train: Comparisons, vectors: Vectors) -> None:
    for name, array, texts in (("candidate", vectors.candidates, train.texts.candidates), ("prompt", vectors.prompts, train.texts.prompts)):
        if array.ndim != 2 or len(array) != len(texts):
            raise VectorsInvalid(f"{name} vectors are {array.shape}; one row for each of {len(texts)} texts was expected")
        bad = int(np.sum(~np.isfinite(array).all(axis=1)))
        if bad:
            raise VectorsInvalid(f"{bad} of {len(array)} {name} vectors are not finite")
