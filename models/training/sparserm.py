"""Trains `sparserm`: a head on the few directions of a sparse autoencoder that tell chosen from rejected answers.

    comparisons ─┬─ half of the prompts ─> directions (`directions`)
                 └─ the other half ─> head on projections of the dense state (`direction_head`) ─> one matrix per head

Liu et al. 2025, arXiv 2511.07896. The autoencoder only chooses directions; what is served is a matrix on the pooled vector
and, for an MLP, its layers. A linear head folds into `K` rows whose outputs sum to the score; reconstruction: the strongest
directions are rows of their own, the others one row, log length another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from attune.models.data.preferences import Comparisons
from attune.models.seam.sparserm import NAME, SparseRm
from attune.models.training.direction_head import HeadSettings, TrainedHead, train_head
from attune.models.training.directions import Selection, SelectionSettings, halves, select
from attune.models.training.features import VectorsInvalid
from attune.models.training.heads import Heads, TrainedFamily
from attune.models.training.latents import Card, Latents, cards
from attune.models.training.loop import TrainingData, reproducible

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SparseRmSettings:
    """Constants of the family.

    Attributes:
        selection: how latents are chosen.
        head: the small head.
        select_share: of the prompts of the training comparisons, which choose directions and train nothing.
        with_length: whether the head also reads log length.
        shown: directions that are heads of their own.
    """

    selection: SelectionSettings = field(default_factory=SelectionSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    select_share: float = 0.5
    with_length: bool = True
    shown: int = 12


def train_sparserm(
    data: TrainingData, settings: SparseRmSettings, seed: int, *, latents: Latents, tokenizer: Tokenizer | None = None
) -> TrainedFamily:
    """Returns the family of one global head on chosen directions.

    Args:
        data: comparisons and pooled vectors.
        settings: see `SparseRmSettings`.
        seed: of the cut in halves and the head.
        latents: activity of an autoencoder in the candidates of `data`.
        tokenizer: the trunk's, to name directions by their tokens and to keep examples; None numbers them.

    Raises:
        VectorsInvalid: vectors are not finite, or vectors or latents are of another table of texts.
        SelectionInvalid, SplitInvalid: too few latents or prompts to choose from.
    """
    vectors = data.vectors.candidates
    _check(data.train, vectors, latents)
    with reproducible(seed) as generator:
        first, second = halves(data.train, share=settings.select_share, seed=seed)
        log_length = vectors[:, -1].astype(np.float64)
        selection = select(latents.frequency, log_length, first, settings.selection)
        matrix = projection(latents, selection.latents, vectors.shape[1], with_length=settings.with_length)
        features = (vectors.astype(np.float64) @ matrix.T).astype(np.float32)
        head = train_head(features, second, data.validation, settings.head, generator)
        named = [Card((), ())] * len(selection.latents) if tokenizer is None else cards(latents, tokenizer, selection.latents)
        fold = _fold_linear if settings.head.kind == "linear" else _fold_mlp
        family, layers = fold(head, matrix, features, second, _names(selection, named), named, settings)
        heads = Heads({f"{NAME}_rewards": layers}, {f"{NAME}_rewards": "candidate"})
    summary = {
        "settings": asdict(settings),
        "seed": seed,
        "validation_nll": head.validation_nll,
        "ridge": head.ridge,
        "trained_parameters": head.parameters,
        "chosen_latents": selection.chosen.tolist(),
        "rejected_latents": selection.rejected.tolist(),
        "selection_comparisons": len(first),
        "head_comparisons": len(second),
    }
    return TrainedFamily(family, heads.eval().requires_grad_(requires_grad=False), summary)


def projection(latents: Latents, chosen: NDArray[np.int64], width: int, *, with_length: bool) -> Array:
    """Returns the matrix `[F, D + 1]` that projects a pooled vector on the directions of `chosen`; a last row may read log length."""
    matrix = np.zeros((len(chosen) + with_length, width))
    matrix[: len(chosen), latents.columns] = latents.directions[chosen]
    if with_length:
        matrix[-1, -1] = 1.0
    return matrix


def _fold_linear(
    head: TrainedHead,
    matrix: Array,
    features: NDArray[np.float32],
    comparisons: Comparisons,
    names: Sequence[str],
    named: Sequence[Card],
    settings: SparseRmSettings,
) -> tuple[SparseRm, nn.Sequential]:
    layer = head.module[0]
    assert isinstance(layer, nn.Linear)
    slopes = layer.weight[0].double().numpy() / head.spread  # on raw features
    directions = len(names)
    strongest = np.argsort(-np.abs(slopes[:directions] * head.spread[:directions]), kind="stable")
    groups: list[tuple[str, tuple[str, ...], list[int]]] = [
        (names[at], named[at].examples, [int(at)]) for at in strongest[: settings.shown]
    ]
    if directions > settings.shown:
        groups.append((f"{directions - settings.shown} other directions", (), strongest[settings.shown :].tolist()))
    if settings.with_length:
        groups.append(("length", (), [directions]))
    sums = np.zeros((len(groups), len(slopes)))
    for row, (_, _, members) in enumerate(groups):
        sums[row, members] = slopes[members]
    differences = (features[comparisons.chosen].astype(np.float64) - features[comparisons.rejected]) @ sums.T
    spread = np.sqrt(np.mean(differences**2, axis=0))
    live = spread > 1e-12
    if not live.any():
        raise VectorsInvalid(f"the head gives all {len(comparisons)} comparisons the same score: there was nothing to learn")
    groups = [group for group, keep in zip(groups, live, strict=True) if keep]
    scaled = sums[live] / spread[live, None]
    folded = nn.Linear(matrix.shape[1], len(groups))
    with torch.no_grad():
        folded.weight.copy_(torch.from_numpy(scaled @ matrix))
        folded.bias.copy_(torch.from_numpy(-scaled @ head.centre))
    total = float(spread[live].sum())
    family = SparseRm(
        NAME,
        tuple(name for name, _, _ in groups),
        head.temperature * total,
        spread[live] / total,
        tuple(examples for _, examples, _ in groups),
    )
    return family, nn.Sequential(folded)


def _fold_mlp(
    head: TrainedHead,
    matrix: Array,
    features: NDArray[np.float32],
    comparisons: Comparisons,
    names: Sequence[str],  # noqa: ARG001 - an MLP's score is no sum over directions, so it is explained by none
    named: Sequence[Card],  # noqa: ARG001 - as above
    settings: SparseRmSettings,  # noqa: ARG001 - as _fold_linear
) -> tuple[SparseRm, nn.Sequential]:
    scores = head.scores(features)
    spread = float(np.sqrt(np.mean((scores[comparisons.chosen] - scores[comparisons.rejected]) ** 2)))
    if spread <= 1e-12:
        raise VectorsInvalid(f"the head gives all {len(comparisons)} comparisons the same score: there was nothing to learn")
    first, second = head.module[0], head.module[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    standard = first.weight.double().numpy() / head.spread
    into, out = nn.Linear(matrix.shape[1], first.out_features), nn.Linear(second.in_features, 1)
    with torch.no_grad():
        into.weight.copy_(torch.from_numpy(standard @ matrix))
        into.bias.copy_(first.bias - torch.from_numpy(standard @ head.centre))
        out.weight.copy_(second.weight / spread)
        out.bias.copy_((second.bias - float(scores[np.concatenate([comparisons.chosen, comparisons.rejected])].mean())) / spread)
    family = SparseRm(NAME, ("quality",), head.temperature * spread, np.ones(1), ((),))
    return family, nn.Sequential(into, nn.ReLU(), out)


def _names(selection: Selection, named: Sequence[Card]) -> list[str]:
    names = []
    for at, (latent, card) in enumerate(zip(selection.latents, named, strict=True)):
        side = "for" if at < len(selection.chosen) else "against"
        tokens = " ".join(card.tokens)
        names.append(f"{side} {latent}: {tokens}" if tokens else f"{side} {latent}")
    return names


def _check(train: Comparisons, vectors: NDArray[np.float32], latents: Latents) -> None:
    texts = len(train.texts.candidates)
    for name, array in (("candidate vectors", vectors), ("latents", latents.frequency)):
        if array.ndim != 2 or len(array) != texts:
            raise VectorsInvalid(f"{name} are {array.shape}; one row for each of {texts} texts was expected")
    bad = int(np.sum(~np.isfinite(vectors).all(axis=1)))
    if bad:
        raise VectorsInvalid(f"{bad} of {texts} candidate vectors are not finite")
    if latents.columns.stop > vectors.shape[1] - 1:
        raise VectorsInvalid(f"latents read columns up to {latents.columns.stop}; the vectors have {vectors.shape[1] - 1} and log length")
