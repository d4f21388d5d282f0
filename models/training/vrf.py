"""Trains `vrf`: users as Gaussians, matched to shared bases (Lee et al. 2026, arXiv 2604.00997; reconstruction of SCIENCE §5).

In episodes: context comparisons become precisions and votes, their sums the user's Gaussian, the match to the bases the
weights, and targets are predicted by `sigma(M / sqrt(1 + pi S^2 / 8))`. The torch functions below are those of
`models.seam.gaussian` in batches, and a test holds the two together. Axis letters as in `episodes`; `D` latent size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.seam.families import Vrf
from models.seam.gaussian import Bases, PairEncoder
from models.training.episodes import ComparisonFeatures, EpisodeBatch, Episodes, EpisodeSettings
from models.training.features import Calibration, StandardisedHeads, Subspace
from models.training.heads import Heads, TrainedFamily
from models.training.loop import LoopSettings, TrainingData, fit, reproducible

NAME = "vrf"


@dataclass(frozen=True, slots=True)
class VrfSettings:
    """Constants of the family.

    Attributes:
        heads: `K`, the number of bases; the first is the wide one at the population's mean.
        latent: `d_z`.
        tau: `tau_0`; the temperature of matching is `tau_0 d_z`.
        features, prompt_features: sizes of `W h` and `W' e(x)`.
        hidden: units of each layer of the pair encoder.
        precision_scale: `c`, divides the precision of one comparison.
        kl: weight of the KL divergence to N(0, I), reached after `kl_warmup` steps.
        free_bits: KL per latent dimension that costs nothing, nats.
        diversity: weight of the mean squared positive correlation between heads; opposed heads are as diverse as it gets.
        ridge: weight of the mean squared effective weight in the loss.
        subspace: the features that heads may use.
    """

    heads: int = 12
    latent: int = 16
    tau: float = 0.25
    features: int = 32
    prompt_features: int = 8
    hidden: tuple[int, ...] = (64,)
    precision_scale: float = 4.0
    kl: float = 3e-3
    kl_warmup: int = 300
    free_bits: float = 0.05
    diversity: float = 0.1
    ridge: float = 1e-3
    subspace: Subspace = field(default_factory=Subspace)
    episodes: EpisodeSettings = field(default_factory=EpisodeSettings)
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=3000, patience=15))


def train_vrf(data: TrainingData, settings: VrfSettings, seed: int) -> TrainedFamily:
    """Returns K heads with their bases, the pair encoder, and the features that it reads."""
    with reproducible(seed) as generator:
        calibration = data.calibration(settings.subspace)
        module = VrfModule(calibration, settings, generator)
        train, validation = (ComparisonFeatures.of(part, data, calibration) for part in (data.train, data.validation))
        batches = Episodes(data.validation, settings.episodes).validation_batches()

        def validate() -> float:
            return float(np.mean([float(module.episode_loss(validation, batch)[0]) for batch in batches]))

        history = fit(module, training_loss(module, train, data, settings, seed), validate, settings.loop)
        summary = {"settings": asdict(settings), "seed": seed, "best_step": history.best_step, "validation_nll": history.best_loss}
        with torch.no_grad():
            regulars = module.episode_loss(validation, batches[-1])[1]
            summary |= {
                # Posterior collapse shows as a KL of zero for users with many comparisons.
                "kl_at_20": float(regulars.sum(dim=-1).mean()),
                "active_dimensions": int((regulars.mean(dim=0) > settings.free_bits).sum()),
                "max_correlation": float((module.heads.correlation() - torch.eye(settings.heads)).max()),
            }
        return TrainedFamily(module.family(), module.fold(calibration), summary)


class VrfModule(nn.Module):
    """Heads, bases and pair encoder in training; what `models.seam.gaussian` computes, in batches."""

    def __init__(self, calibration: Calibration, settings: VrfSettings, generator: torch.Generator) -> None:
        super().__init__()
        heads, latent = settings.heads, settings.latent
        self.tau = settings.tau * latent
        self.scale = settings.precision_scale
        self.heads = StandardisedHeads(heads, calibration.moment, generator)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.features = nn.Linear(len(calibration.moment), settings.features, bias=False)
        self.prompt_features = nn.Linear(len(calibration.prompt.matrix), settings.prompt_features, bias=False)
        sizes = (settings.features + settings.prompt_features, *settings.hidden)
        self.layers = nn.ModuleList(nn.Linear(size, following) for size, following in pairwise(sizes))
        self.vote = nn.Linear(sizes[-1], latent, bias=False)
        self.precision = nn.Linear(sizes[-1], latent)
        self.base_means = nn.Parameter(torch.randn(heads - 1, latent, generator=generator))
        self.raw_base_stds = nn.Parameter(torch.full((heads - 1, latent), math.log(math.expm1(0.5))))

    def bases(self) -> tuple[Tensor, Tensor]:
        """Returns means and stds `[K, D]`; the first base is N(0, I), where everybody starts."""
        zero = torch.zeros_like(self.base_means[:1])
        return torch.cat([zero, self.base_means]), torch.cat([zero + 1.0, functional.softplus(self.raw_base_stds) + 1e-3])

    def votes(self, difference: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Returns precision and vote `[..., D]` of comparisons: `PairEncoder.__call__`."""
        read, said = self.features(difference), self.prompt_features(prompt)
        forward, backward = torch.cat([read, said], dim=-1), torch.cat([-read, said], dim=-1)
        for layer in self.layers:
            forward, backward = functional.silu(layer(forward)), functional.silu(layer(backward))
        precision = functional.softplus(self.precision(0.5 * (forward + backward))) / self.scale
        return precision, self.vote(0.5 * (forward - backward))

    def posterior(self, precision: Tensor, vote: Tensor, tie: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and std `[B, D]` of users from `[B, C, D]` votes: `gaussian.posterior` of the sum of evidence."""
        counted = precision * mask.unsqueeze(-1)
        total = 1.0 + counted.sum(dim=1)
        return (counted * vote * (~tie).unsqueeze(-1)).sum(dim=1) / total, total.rsqrt()

    def weights(self, mean: Tensor, std: Tensor) -> Tensor:
        """Returns `[B, K]`: `gaussian.matching_weights`."""
        means, stds = self.bases()
        distance = (mean.unsqueeze(1) - means).square().sum(-1) + (std.unsqueeze(1) - stds).square().sum(-1)
        return torch.softmax(-distance / self.tau, dim=-1)

    def logits(self, weights: Tensor, std: Tensor, margins: Tensor) -> Tensor:
        """Returns attenuated logits `[B, T]` of `margins` `[B, T, K]`: `margin_variance` and `attenuated_probability`."""
        means, _ = self.bases()
        centred = means - (weights @ means).unsqueeze(1)
        gradient = (2.0 / self.tau) * torch.einsum("bk,btk,bkd->btd", weights, margins, centred)
        variance = (std.unsqueeze(1) * gradient).square().sum(-1)
        return (margins * weights.unsqueeze(1)).sum(-1) / torch.sqrt(1.0 + math.pi / 8.0 * variance)

    def episode_loss(self, features: ComparisonFeatures, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Returns the mean negative log-likelihood of the targets given the contexts, and the KL `[B, D]` to the prior."""
        context, targets = batch.context, batch.targets
        precision, vote = self.votes(features.difference[context], features.prompts[features.prompt[context]])
        mean, std = self.posterior(precision, vote, features.tie[context], batch.context_mask)
        margins = self.log_scale.exp() * self.heads(features.difference[targets])
        logits = self.logits(self.weights(mean, std), std, margins)
        losses = functional.softplus(-logits)
        losses = torch.where(features.tie[targets], 0.5 * (losses + functional.softplus(logits)), losses)
        counted = features.weight[targets] * batch.target_mask
        return (losses * counted).sum() / counted.sum(), 0.5 * (mean.square() + std.square() - 1.0) - std.log()

    @torch.no_grad()
    def family(self) -> Vrf:
        """Returns the numpy side of the family with the weights as they are."""
        means, stds = (tensor.double().numpy() for tensor in self.bases())
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        layers = tuple((layer.weight.double().numpy(), layer.bias.double().numpy()) for layer in linear)
        precision = self.precision.weight.double().numpy(), self.precision.bias.double().numpy()
        encoder = PairEncoder(layers, self.vote.weight.double().numpy(), *precision, self.scale)
        names = tuple(f"head{index}" for index in range(len(means)))
        return Vrf(NAME, names, float(self.log_scale.exp()), Bases(means, stds, self.tau), encoder)

    @torch.no_grad()
    def fold(self, calibration: Calibration) -> Heads:
        """Returns the graph side of the family, with the calibration folded into its layers."""
        outputs = {
            f"{NAME}_rewards": self.heads.fold(calibration.candidate),
            f"{NAME}_features": calibration.candidate.fold(self.features.weight.double().numpy()),
            f"{NAME}_prompt_features": calibration.prompt.fold(self.prompt_features.weight.double().numpy()),
        }
        reads = {name: "prompt" if name.endswith("prompt_features") else "candidate" for name in outputs}
        heads = Heads({name: nn.Sequential(layer) for name, layer in outputs.items()}, reads)  # type: ignore[arg-type]
        return heads.eval().requires_grad_(requires_grad=False)


def training_loss(
    module: VrfModule, features: ComparisonFeatures, data: TrainingData, settings: VrfSettings, seed: int
) -> Callable[[int], Tensor]:
    """Returns step -> loss of a batch of episodes drawn with `seed`: likelihood, KL with free bits, diversity and ridge."""
    rng = np.random.default_rng(seed)
    episodes = Episodes(data.train, settings.episodes)
    others = 1.0 - torch.eye(settings.heads)

    def loss(step: int) -> Tensor:
        likelihood, divergence = module.episode_loss(features, episodes.draw(rng))
        kl = settings.kl * min(1.0, step / max(1, settings.kl_warmup))
        # Free bits are per dimension over the batch, so that a dimension may carry some users and not others.
        cost = kl * divergence.mean(dim=0).clamp(min=settings.free_bits).sum()
        alike = (module.heads.correlation().clamp(min=0.0).square() * others).sum() / others.sum()
        return likelihood + cost + settings.diversity * alike + settings.ridge * module.heads.ridge()

    return loss
