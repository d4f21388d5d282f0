"""What mixtures of Bradley-Terry heads share in training: Hedge and the mixed likelihood in torch, and where heads may start.

The torch side of `models.seam.hedge`, differentiable; parity is tested. Axis letters: `B` users, `T` targets, `C` context,
`K` heads, `F` features, `U` users with comparisons.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from attune.models.data.preferences import Comparisons

Array = NDArray[np.float64]

LLOYD_ROUNDS = 50


def posterior_log_weights(
    gate: Tensor, margins: Tensor, tie: Tensor, mask: Tensor, *, eta: Tensor, cap: float, awake: Tensor | None = None
) -> Tensor:
    """Returns log weights `[B, T, K]` of users after their context, `log w_k = log f_k - eta C_k` normalised.

    Args:
        gate: `[B, T, K]` log gate of the targets' prompts.
        margins: `[B, C, K]` logits of the context.
        tie: `[B, C]` bool.
        mask: `[B, C]` False where a row is padding.
        eta: learning rate of Hedge, above 0.
        cap: most that one comparison may cost a head, nats.
        awake: `[B, C, K]` how far each head is charged for each comparison, see `models.seam.sparse_moe`; all in full if None.
    """
    losses = functional.softplus(-margins)
    losses = torch.where(tie.unsqueeze(-1), 0.5 * (losses + functional.softplus(margins)), losses).clamp(max=cap)
    if awake is not None:
        losses = awake * (losses - (awake * losses).sum(dim=-1, keepdim=True) / awake.sum(dim=-1, keepdim=True))
    total = (losses * mask.unsqueeze(-1)).sum(dim=1, keepdim=True)
    return torch.log_softmax(gate - eta * total, dim=-1)


def mixture_nll(log_weights: Tensor, margins: Tensor, tie: Tensor, weight: Tensor) -> Tensor:
    """Returns the weighted mean of `-log sum_k w_k sigma(m_k)` (Shen et al. 2025, arXiv 2505.24846).

    Args:
        log_weights: `[..., K]`.
        margins: `[..., K]` logits.
        tie: `[...]` bool; the loss of a tie is the mean over both orders.
        weight: `[...]`; 0 where a row is padding.
    """
    losses = -torch.logsumexp(log_weights + functional.logsigmoid(margins), dim=-1)
    swapped = -torch.logsumexp(log_weights + functional.logsigmoid(-margins), dim=-1)
    losses = torch.where(tie, 0.5 * (losses + swapped), losses)
    return (losses * weight).sum() / weight.sum()


def directions_of_users(
    comparisons: Comparisons, difference: NDArray[np.float32], moment: Array, heads: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Returns `[K, F]`, one direction for each of K clusters of users: where heads of a mixture may start.

    A mixture over users has poor optima in which two groups share a head while another head is nobody's. A user's mean
    difference of winner and loser points along their taste, so clusters of these means are already close (reconstruction:
    k-means of whitened means, the best of several starts; then `S^-1 c` as a discriminant would have it).

    Args:
        comparisons: of the training users; ties are not looked at.
        difference: `[C, F]` features of winner minus loser.
        moment: `S` `[F, F]` of the differences.
        heads: `K`.
        rng: draws the starts.
    """
    decided = np.where(comparisons.tie, 0.0, 1.0)
    sums = np.zeros((len(comparisons.users), difference.shape[1]))
    np.add.at(sums, comparisons.user, decided[:, None] * difference)
    counts = np.bincount(comparisons.user, weights=decided, minlength=len(comparisons.users))
    means = sums[counts > 0] / counts[counts > 0, None] if counts.any() else np.zeros((1, difference.shape[1]))  # nobody decided anything
    steady = moment + 1e-3 * np.trace(moment) / len(moment) * np.eye(len(moment))
    root = np.linalg.inv(np.linalg.cholesky(steady))
    centres = k_means(means @ root.T, heads, rng)[0]
    directions = centres @ root
    # A cluster around zero has no direction: it starts anywhere. As long as random starts are, so that steps turn them alike.
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions = np.where(lengths > 1e-9, directions, rng.normal(size=directions.shape))
    directions *= np.sqrt(directions.shape[1]) / np.linalg.norm(directions, axis=1, keepdims=True)
    return directions.astype(np.float32)


def directions_of_kinds(
    comparisons: Comparisons,
    difference: NDArray[np.float32],
    prompts: Array,
    moment: Array,
    sizes: tuple[int, int],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Returns `[K, F]`: for each kind of prompt, a direction for each cluster of users on prompts of that kind.

    Where the prompt tells what is at stake and the user which way, a mean over all of a user's comparisons says neither.

    Args:
        comparisons: as in `directions_of_users`.
        difference: likewise.
        prompts: `[P, F_e]` features of all prompts, of one scale.
        moment: likewise.
        sizes: `K` and how many heads each prompt should use; there are as many kinds as that leaves, rounded up.
        rng: draws the starts.
    """
    heads, each = sizes
    used = np.unique(comparisons.prompt)
    kinds = -(-heads // each)
    kind = np.full(len(prompts), -1)
    kind[used] = k_means(prompts[used], kinds, rng)[1]
    found = []
    for number in range(kinds):
        rows = np.flatnonzero(kind[comparisons.prompt] == number)
        # A kind without prompts has no say; its heads start where users are in general.
        rows = rows if len(rows) else np.arange(len(comparisons))
        found.append(directions_of_users(comparisons.take(rows), difference[rows], moment, each, rng))
    return np.concatenate(found)[:heads]


def k_means(points: Array, clusters: int, rng: np.random.Generator, *, restarts: int = 8) -> tuple[Array, NDArray[np.int64]]:
    """Returns centres `[K, F]` and each point's cluster `[U]`, of the start with the least sum of squares.

    Lloyd's algorithm (1982), seeded by k-means++ (Arthur and Vassilvitskii 2007). With fewer points than clusters, centres repeat.
    """
    best: tuple[float, Array, NDArray[np.int64]] | None = None
    for _ in range(restarts):
        centres = points[rng.integers(len(points), size=1)]
        while len(centres) < clusters:
            nearest = _squares(points, centres).min(axis=1)
            total = nearest.sum()
            shares = nearest / total if total > 0 else np.full(len(points), 1.0 / len(points))
            centres = np.concatenate([centres, points[[rng.choice(len(points), p=shares)]]])
        label = _squares(points, centres).argmin(axis=1)
        for _ in range(LLOYD_ROUNDS):
            members = [points[label == cluster] for cluster in range(clusters)]
            centres = np.stack([mine.mean(axis=0) if len(mine) else centre for mine, centre in zip(members, centres, strict=True)])
            moved = _squares(points, centres).argmin(axis=1)
            if np.array_equal(moved, label):
                break
            label = moved
        cost = float(_squares(points, centres).min(axis=1).sum())
        if best is None or cost < best[0]:
            best = (cost, centres, label)
    assert best is not None, f"restarts is {restarts}; at least 1 is needed"
    return best[1], best[2]


def _squares(points: Array, centres: Array) -> Array:
    distances: Array = (points**2).sum(axis=1)[:, None] - 2.0 * points @ centres.T + (centres**2).sum(axis=1)
    return np.maximum(distances, 0.0)
