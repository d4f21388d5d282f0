"""Trains a TopK sparse autoencoder on token states (Gao et al. 2024, arXiv 2406.04093).

`f = TopK((z - b) W_enc + c)`, `z' = f W_dec + b`, decoder rows of length 1. The loss is the error of `z'` in units of the
states' variance, plus a small one in which latents that have long been silent explain what was left over, so that they
come back to life. Tokens and not pooled vectors: a mean over fifty tokens is dense in everything, a token is about little.
Axis letters: `S` states, `D` width, `L` latents.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attune.models.data.embeddings import Progress
from attune.models.data.progress import Steps
from attune.models.data.sae_files import SparseAutoencoder, keep_top
from attune.models.training.loop import TrainingDiverged, reproducible

Half = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class AutoencoderSettings:
    """Constants of the training.

    Attributes:
        latents: `L`.
        k: latents of one token.
        steps, batch: states a step, drawn without replacement until all were seen.
        learning_rate: of Adam; linear decay over the last fifth.
        silent_steps: a latent that did not fire for so many is dead.
        revive: dead latents that explain the rest of a state; 0 leaves them dead.
        revive_weight: of their error in the loss.
        held_out: share of the states that measure and do not train.
    """

    latents: int = 1024
    k: int = 16
    steps: int = 600
    batch: int = 1024
    learning_rate: float = 3e-3
    silent_steps: int = 100
    revive: int = 64
    revive_weight: float = 1 / 32
    held_out: float = 0.02


@dataclass(frozen=True, slots=True)
class TrainedAutoencoder:
    """The autoencoder, and settings and monitors of its training, JSON data."""

    autoencoder: SparseAutoencoder
    summary: dict[str, Any]


class StatesInvalid(ValueError):
    """States that no autoencoder can be trained on; the message carries the numbers."""


def train_sparse_autoencoder(
    states: Half, settings: AutoencoderSettings, seed: int, *, layer: int | None = None, progress: Progress | None = None
) -> TrainedAutoencoder:
    """Returns a TopK autoencoder of `states` `[S, D]`.

    Args:
        states: of tokens, any float type.
        settings: see `AutoencoderSettings`.
        seed: of the start, the held-out states and the batches.
        layer: of the trunk, kept with the autoencoder.
        progress: told steps; says them on standard error if None.

    Raises:
        StatesInvalid: fewer states than a batch, a state that is not finite, or all are equal.
        TrainingDiverged: the loss is not finite.
    """
    _check(states, settings)
    progress = progress or Steps("trained {} steps of the autoencoder")
    with reproducible(seed) as generator:
        order = torch.randperm(len(states), generator=generator).numpy()
        held, kept = np.split(order, [max(1, int(settings.held_out * len(states)))])
        mean = states[kept[:20_000]].astype(np.float64).mean(axis=0)
        spread = float(np.sqrt(np.mean((states[kept[:20_000]].astype(np.float64) - mean) ** 2)))
        module = _Autoencoder(settings, torch.from_numpy(mean / spread).float(), generator)
        optimizer = torch.optim.Adam(module.parameters(), lr=settings.learning_rate, betas=(0.9, 0.999))
        decay = settings.steps // 5
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (settings.steps - step) / max(1, decay), (step + 1) / 20)
        )
        silent = torch.zeros(settings.latents, dtype=torch.int64)
        for step in range(settings.steps):
            rows = np.sort(np.take(kept, np.arange(step * settings.batch, (step + 1) * settings.batch), mode="wrap"))
            batch = torch.from_numpy(states[rows].astype(np.float32)) / spread
            loss, fired = module.loss(batch, silent >= settings.silent_steps)
            if not torch.isfinite(loss):
                raise TrainingDiverged(f"the loss is {float(loss.detach())} at step {step}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            module.keep_rows_at_length_one()
            optimizer.step()
            module.normalise()
            schedule.step()
            silent = torch.where(fired, 0, silent + 1)
            if (step + 1) % 100 == 0 or step + 1 == settings.steps:
                progress(step + 1, settings.steps)
        found = module.export(spread, layer)
        summary = {"settings": asdict(settings), "seed": seed, "states": len(states), "layer": layer} | measure(
            found, states[np.sort(held)]
        )
    return TrainedAutoencoder(found, summary)


def measure(autoencoder: SparseAutoencoder, states: Half) -> dict[str, float]:
    """Returns `unexplained`, the share of the states' variance that is not reconstructed, `active` latents a state, and `silent` ones."""
    inputs = torch.from_numpy(states.astype(np.float32))
    latents = autoencoder.encode(inputs)
    error = (autoencoder.decode(latents) - inputs).square().mean()
    variance = (inputs - inputs.mean(dim=0)).square().mean()
    return {
        "unexplained": float(error / variance),
        "active": float((latents > 0).sum(dim=1).float().mean()),
        "silent": float((~(latents > 0).any(dim=0)).float().mean()),
    }


class _Autoencoder(nn.Module):
    def __init__(self, settings: AutoencoderSettings, mean: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        rows = torch.randn(settings.latents, len(mean), generator=generator)
        self.W_dec = nn.Parameter(rows / rows.norm(dim=1, keepdim=True))
        # The encoder starts as the decoder's transpose, which keeps more latents alive than two random matrices.
        self.W_enc = nn.Parameter(self.W_dec.detach().T.clone())
        self.b_enc = nn.Parameter(torch.zeros(settings.latents))
        self.b_dec = nn.Parameter(mean.clone())

    def loss(self, states: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of a batch, and which latents fired `[L]`."""
        before = (states - self.b_dec) @ self.W_enc + self.b_enc
        latents = keep_top(before, self.settings.k)
        left = states - (latents @ self.W_dec + self.b_dec)
        variance = (states - states.mean(dim=0)).square().mean()
        loss = left.square().mean() / variance
        revived = min(self.settings.revive, int(dead.sum()))
        if revived:
            tried = keep_top(before.masked_fill(~dead, -torch.inf), revived) @ self.W_dec
            loss = loss + self.settings.revive_weight * (left.detach() - tried).square().mean() / left.detach().square().mean()
        return loss, (latents > 0).any(dim=0)

    @torch.no_grad()
    def keep_rows_at_length_one(self) -> None:
        """Takes from the decoder's gradient what would only lengthen its rows, or Adam would spend its steps on it."""
        if self.W_dec.grad is not None:
            along = (self.W_dec.grad * self.W_dec).sum(dim=1, keepdim=True)
            self.W_dec.grad -= along * self.W_dec

    @torch.no_grad()
    def normalise(self) -> None:
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12))

    def export(self, spread: float, layer: int | None) -> SparseAutoencoder:
        """Returns the autoencoder in the states' own units."""
        return SparseAutoencoder(
            self.W_enc.detach().clone(),
            self.b_enc.detach() * spread,
            self.W_dec.detach().clone(),
            self.b_dec.detach() * spread,
            activation="topk",
            k=self.settings.k,
            layer=layer,
        )


def _check(states: Half, settings: AutoencoderSettings) -> None:
    if states.ndim != 2 or len(states) < settings.batch:
        raise StatesInvalid(f"states are {states.shape}; at least {settings.batch} (one batch) of one width are needed")
    bad = int(np.sum(~np.isfinite(states).all(axis=1)))
    if bad:
        raise StatesInvalid(f"{bad} of {len(states)} states are not finite")
    if not np.ptp(states, axis=0).any():
        raise StatesInvalid(f"all {len(states)} states are equal: there is nothing to explain")
