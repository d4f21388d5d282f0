"""Stage 2 of MiCRo: the router learns from few comparisons that come with a context; heads are frozen (Shen et al. 2025, SCIENCE §2).

    target_ik = w_ik exp(-L_ik / tau) / sum_j w_ij exp(-L_ij / tau),   w = the router's own law, recomputed once an epoch
    cross-entropy of target_i and f(x_i, c_i) on the router

The context is prepended to the prompt by the text template before the trunk, so a router is a function of one vector per
comparison and never knows which part of it was context. Axis letters: `C` comparisons, `K` heads, `D` width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from attune.models.seam.reward_heads import LEAST_LOG_GATE
from attune.models.training.loop import TrainingDiverged, reproducible

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """Constants of stage 2, the paper's.

    Attributes:
        tau: temperature of the targets, 1e-3 on HelpSteer2 and 1e-4 on RPR: winner takes all; 1 is Bayes over heads.
        learning_rate, epochs, batch: 2e-3, 10 and 32 in the paper.
    """

    tau: float = 1e-3
    learning_rate: float = 2e-3
    epochs: int = 10
    batch: int = 32

    def __post_init__(self) -> None:
        if not (0 < self.tau < float("inf") and self.epochs > 0 and self.batch > 0 and self.learning_rate > 0):
            raise ValueError(
                f"tau {self.tau}, learning_rate {self.learning_rate}, epochs {self.epochs} and batch {self.batch} must be above 0"
            )


@dataclass(frozen=True, slots=True)
class ContextComparisons:
    """What stage 2 reads of comparisons, with the heads' say already computed.

    Attributes:
        vectors: `[C, D + 1]` float32, the trunk's vectors of context and prompt, one for every comparison.
        margins: `[C, K]` logits of chosen minus rejected under the frozen heads.
        tie: `[C]` bool.
        opened: `[K]` False for masked heads.

    Raises:
        ValueError: shapes do not agree, or a number is not finite.
    """

    vectors: NDArray[np.float32]
    margins: Array
    tie: NDArray[np.bool_]
    opened: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count, heads = self.margins.shape
        if self.vectors.shape[:1] != (count,) or self.tie.shape != (count,) or self.opened.shape != (heads,) or not self.opened.any():
            shapes = self.vectors.shape, self.margins.shape, self.tie.shape, self.opened.shape
            raise ValueError(f"vectors, margins, tie and opened are {shapes}; [C, D], [C, K], [C] and [K] with an open head are needed")
        for name, array in (("vectors", self.vectors), ("margins", self.margins)):
            if not np.all(np.isfinite(array)):
                raise ValueError(f"{int(np.sum(~np.isfinite(array).all(axis=1)))} of {count} rows of {name} are not finite")

    def take(self, rows: NDArray[np.int64]) -> ContextComparisons:
        """Returns the comparisons at `rows`."""
        return ContextComparisons(self.vectors[rows], self.margins[rows], self.tie[rows], self.opened)


def soft_targets(log_gate: Tensor, margins: Tensor, tie: Tensor, opened: Tensor, tau: float) -> Tensor:
    """Returns `[C, K]`, which head each comparison speaks for: `w_k exp(-L_k / tau)`, normalised; masked heads have none.

    Args:
        log_gate: `[C, K]` the router's law of each comparison's *own* context and prompt.
        margins: `[C, K]` logits.
        tie: `[C]`; the loss of a tie is the mean over both orders.
        opened: `[K]` bool.
        tau: temperature.
    """
    losses = functional.softplus(-margins)
    losses = torch.where(tie.unsqueeze(-1), 0.5 * (losses + functional.softplus(margins)), losses)
    prior = log_gate.clamp(min=LEAST_LOG_GATE)
    return torch.softmax((prior - losses / tau).masked_fill(~opened, -torch.inf), dim=-1)


def train_router(router: nn.Sequential, data: ContextComparisons, settings: RouterSettings, seed: int) -> list[float]:
    """Trains `router` in place on stage 2 and returns the mean cross-entropy of each epoch, nats.

    Args:
        router: from vectors `[N, D + 1]` to log-probabilities `[N, K]`; its first layer is linear. Starts from what stage 1 left.
        data: to learn from; heads are frozen and appear as margins only.
        settings: see there.
        seed: of the order of comparisons.

    Raises:
        TrainingDiverged: a loss is not finite.
    """
    with reproducible(seed):
        vectors = torch.from_numpy(np.ascontiguousarray(data.vectors))
        margins = torch.from_numpy(data.margins).double()
        tie, opened = torch.from_numpy(data.tie), torch.from_numpy(data.opened)
        mean, spread = vectors.mean(dim=0), vectors.std(dim=0, unbiased=False)
        varying = spread > 1e-6 * mean.abs().clamp(min=1.0)
        spread = torch.where(varying, spread, torch.ones_like(spread))
        # What never varied, such as the length of prompts that are all alike, is exactly 0: Adam would make large weights of
        # its rounding errors, and the first prompt of another length would go anywhere.
        inputs = (vectors - mean) / spread * varying
        rng = np.random.default_rng(seed)
        losses: list[float] = []
        # Trained on standardised inputs, or the paper's learning rate would mean another thing for every trunk.
        _read_standardised(router, mean, spread)
        router.requires_grad_(requires_grad=True)
        optimizer = torch.optim.Adam(router.parameters(), lr=settings.learning_rate)
        for epoch in range(settings.epochs):
            with torch.no_grad():
                targets = soft_targets(router(inputs).double(), margins, tie, opened, settings.tau).float()
            total = 0.0
            order = rng.permutation(len(vectors))
            for start in range(0, len(order), settings.batch):
                rows = torch.from_numpy(order[start : start + settings.batch])
                said = router(inputs[rows]).masked_fill(~opened, -torch.inf).log_softmax(dim=-1)
                # 0 * -inf of masked heads is no number; they are left out of the sum instead.
                loss = -(targets[rows] * said.masked_fill(~opened, 0.0)).sum(dim=-1).mean()
                if not torch.isfinite(loss):
                    raise TrainingDiverged(f"the router's loss is {float(loss.detach())} in epoch {epoch}")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(rows)
            losses.append(total / len(order))
        _read_standardised(router, -mean / spread, 1.0 / spread)
        router.eval().requires_grad_(requires_grad=False)
        return losses


@torch.no_grad()
def _read_standardised(router: nn.Sequential, mean: Tensor, spread: Tensor) -> None:
    """Changes the first layer so that it says of `(e - mean) / spread` what it said of `e`."""
    first = router[0]
    if not isinstance(first, nn.Linear):
        raise TypeError(f"the router begins with a {type(first).__name__}; a linear layer is needed")
    first.bias.add_(first.weight @ mean)
    first.weight.mul_(spread)
