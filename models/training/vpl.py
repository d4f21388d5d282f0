"""Trains the baseline `vpl`: a variational encoder with attention over a user's comparisons, and a reward that reads its code.

VPL (Poddar et al. 2024, arXiv 2408.10075): `q(z | comparisons)` by self-attention over encoded pairs, a reward network
`r(h, z)`, and the evidence lower bound. Its encoder reads all comparisons together, so its state is no sum; nothing here
is served. Axis letters as in `episodes`; `D` size of the code.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from attune.models.data.preferences import Comparisons
from attune.models.training.episodes import ComparisonFeatures, EpisodeBatch, Episodes, EpisodeSettings
from attune.models.training.features import Subspace
from attune.models.training.learner import Predicted
from attune.models.training.loop import LoopSettings, TrainingData, fit, reproducible


@dataclass(frozen=True, slots=True)
class VplSettings:
    """Constants of the baseline.

    Attributes:
        latent: `D`.
        width: of tokens, of which each is one comparison.
        attention_heads: of the one layer of self-attention.
        hidden: units of the reward network.
        kl: weight of the KL divergence to N(0, I), reached after `kl_warmup` steps.
        samples: codes that a prediction is the mean over.
        subspace: the features of texts.
    """

    latent: int = 16
    width: int = 64
    attention_heads: int = 4
    hidden: int = 64
    kl: float = 3e-3
    kl_warmup: int = 300
    samples: int = 16
    subspace: Subspace = field(default_factory=Subspace)
    episodes: EpisodeSettings = field(default_factory=EpisodeSettings)
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=1500, learning_rate=2e-3, patience=6))


def train_vpl(data: TrainingData, settings: VplSettings, seed: int) -> VplLearner:
    """Returns the encoder and the reward network, as they predict."""
    with reproducible(seed):
        calibration = data.calibration(settings.subspace)
        features = torch.from_numpy(calibration.candidate(data.vectors.candidates))
        features = features / features.std(dim=0).clamp(min=1e-6)
        module = VplModule(features.shape[1], settings)
        noise = torch.Generator().manual_seed(seed)
        train, validation = (ComparisonFeatures.of(part, data, calibration) for part in (data.train, data.validation))
        ends = {id(part): (torch.from_numpy(part.chosen), torch.from_numpy(part.rejected)) for part in (data.train, data.validation)}
        episodes, rng = Episodes(data.train, settings.episodes), np.random.default_rng(seed)
        batches = Episodes(data.validation, settings.episodes).validation_batches()

        def episode_loss(part: Comparisons, columns: ComparisonFeatures, batch: EpisodeBatch, *, draw: bool) -> tuple[Tensor, Tensor]:
            chosen, rejected = ends[id(part)]
            told = features[chosen[batch.context]] - features[rejected[batch.context]]
            mean, log_std = module.encode(told, columns.tie[batch.context], batch.context_mask)
            code = mean + log_std.exp() * torch.randn(mean.shape, generator=noise) if draw else mean
            margins = module.margins(features[chosen[batch.targets]], features[rejected[batch.targets]], code)
            losses = functional.softplus(-margins)
            losses = torch.where(columns.tie[batch.targets], 0.5 * (losses + functional.softplus(margins)), losses)
            counted = columns.weight[batch.targets] * batch.target_mask
            divergence = (0.5 * (mean.square() + (2 * log_std).exp() - 1.0) - log_std).sum(dim=-1).mean()
            return (losses * counted).sum() / counted.sum(), divergence

        def loss(step: int) -> Tensor:
            likelihood, divergence = episode_loss(data.train, train, episodes.draw(rng), draw=True)
            return likelihood + settings.kl * min(1.0, step / max(1, settings.kl_warmup)) * divergence

        def validate() -> float:
            return float(np.mean([float(episode_loss(data.validation, validation, batch, draw=False)[0]) for batch in batches]))

        fit(module, loss, validate, settings.loop)
        return VplLearner(module.eval(), features, settings.samples)


class VplModule(nn.Module):
    """Encoder and reward network."""

    def __init__(self, features: int, settings: VplSettings) -> None:
        super().__init__()
        width = settings.width
        self.token = nn.Sequential(nn.Linear(features + 1, width), nn.SiLU(), nn.Linear(width, width))
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.attention = nn.MultiheadAttention(width, settings.attention_heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.code = nn.Linear(width, 2 * settings.latent)
        self.reward = nn.Sequential(nn.Linear(features + settings.latent, settings.hidden), nn.SiLU(), nn.Linear(settings.hidden, 1))

    def encode(self, difference: Tensor, tie: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log standard deviation `[B, D]` of users from `[B, C, F]` comparisons.

        A learned token stands before the comparisons: it is what is read out, and all there is of a stranger.
        """
        tokens = self.token(torch.cat([difference * (~tie).unsqueeze(-1), tie.unsqueeze(-1).float()], dim=-1))
        tokens = torch.cat([self.start.expand(len(tokens), 1, -1), tokens], dim=1)
        hidden = torch.cat([mask.new_zeros(len(mask), 1), ~mask], dim=1)
        attended, _ = self.attention(tokens[:, :1], tokens, tokens, key_padding_mask=hidden, need_weights=False)
        # The number of comparisons is given beside their mean, which attention alone would lose.
        summed = (tokens[:, 1:] * mask.unsqueeze(-1)).sum(dim=1) / 8.0
        mean, log_std = self.code(self.norm(attended[:, 0]) + summed).chunk(2, dim=-1)
        return mean, log_std.clamp(-5.0, 1.0)

    def margins(self, chosen: Tensor, rejected: Tensor, code: Tensor) -> Tensor:
        """Returns `r(chosen, z) - r(rejected, z)` `[B, T]` of texts `[B, T, F]` and codes `[B, D]`."""
        codes = code.unsqueeze(1).expand(-1, chosen.shape[1], -1)
        better, worse = (self.reward(torch.cat([side, codes], dim=-1)).squeeze(-1) for side in (chosen, rejected))
        margins: Tensor = better - worse
        return margins


class VplLearner:
    """The trained network as the harness asks it."""

    name = "vpl"

    def __init__(self, module: VplModule, features: Tensor, samples: int) -> None:
        self._module = module
        self._features = features
        latent = module.code.out_features // 2
        # The same draws for everybody: a prediction may not depend on who was predicted before.
        self._noise = torch.randn(samples, latent, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def predict(self, context: Comparisons, targets: Comparisons) -> Predicted:
        """Returns the mean prediction over codes drawn from the posterior; see `Learner`."""
        told, ties = self._difference(context), torch.from_numpy(context.tie)
        mean, log_std = self._module.encode(told[None], ties[None], torch.ones(1, len(context), dtype=torch.bool))
        codes = mean + log_std.exp() * self._noise
        chosen, rejected = (
            self._features[torch.from_numpy(side)].expand(len(codes), -1, -1) for side in (targets.chosen, targets.rejected)
        )
        margins = self._module.margins(chosen, rejected, codes).double()
        probabilities: NDArray[np.float64] = torch.sigmoid(margins).mean(dim=0).numpy()
        return Predicted(probabilities, margins.std(dim=0).numpy())

    def _difference(self, comparisons: Comparisons) -> Tensor:
        return self._features[torch.from_numpy(comparisons.chosen)] - self._features[torch.from_numpy(comparisons.rejected)]
