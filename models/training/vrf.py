"""Trains `vrf`: users as Gaussians, matched to shared bases (Lee et al. 2026, arXiv 2604.00997; reconstruction of SCIENCE §5).

In episodes: context comparisons become precisions and votes, their sums the user's Gaussian, the match to the bases the
weights, and targets are predicted by `sigma(M / sqrt(1 + pi S^2 / 8))`. The torch functions below are those of
`models.seam.gaussian` in batches, and a test holds the two together. Axis letters as in `episodes`; `D` latent size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from attune.models.seam.gaussian import Bases, PairEncoder
from attune.models.seam.vrf import NAME, Vrf
from attune.models.training.episodes import ComparisonFeatures, EpisodeBatch, Episodes, EpisodeSettings
from attune.models.training.features import Calibration, SizedHeads, StandardisedHeads, Subspace
from attune.models.training.heads import Heads, TrainedFamily
from attune.models.training.hierarchical import Population, PopulationSettings, fit_population, taste_axes
from attune.models.training.loop import LoopSettings, TrainingData, fit, reproducible
from attune.models.training.trainers import LineUp

Array = NDArray[np.float64]

NEARLY = 0.02
"""How far texts differ that hardly do, as a share of an ordinary difference."""

_START_FLOOR = -4.0  # a variance of 0.018, fifty times less than the prior's


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
        start: where heads, bases and votes start: anywhere, at the closed form of a population of linear tastes, or at that of
            both which ends with the better validation loss. Real people's tastes are many and small, and the population wins;
            users who want one of a few manners are found from anywhere.
        reach: `kappa` of the population's start: how far one standard deviation of users moves the log weights.
        pace: of the learning rate from there; full steps leave it at once.
        population: of that start.
        nearly_equal: share of context comparisons that are replaced by one of texts that hardly differ, with a winner at random.
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
    start: Literal["anywhere", "population", "better"] = "anywhere"
    reach: float = 0.5
    pace: float = 0.3
    population: PopulationSettings = field(default_factory=PopulationSettings)
    nearly_equal: float = 0.05
    subspace: Subspace = field(default_factory=Subspace)
    episodes: EpisodeSettings = field(default_factory=lambda: EpisodeSettings(users=32, max_context=300))
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=3000, patience=15))

    def __post_init__(self) -> None:
        if self.start != "anywhere" and self.heads < 3:
            raise ValueError(f"vrf starts at a population with 3 heads or more, one of them everybody's; heads is {self.heads}")


def train_vrf(data: TrainingData, settings: VrfSettings, seed: int) -> TrainedFamily:
    """Returns K heads with their bases, the pair encoder, and the features that it reads."""
    if settings.start == "better":
        both = [train_vrf(data, replace(settings, start=start), seed) for start in ("population", "anywhere")]
        return min(both, key=lambda one: float(one.summary["validation_nll"]))
    with reproducible(seed) as generator:
        calibration = data.calibration(settings.subspace)
        module = VrfModule(calibration, settings, generator)
        loop = settings.loop
        if settings.start == "population":
            loop = replace(loop, learning_rate=settings.pace * loop.learning_rate)
            population = fit_population(data, calibration.candidate(data.vectors.candidates), settings.population, calibration.anchor)
            module.start_from(population, calibration, settings.reach)
        train, validation = (ComparisonFeatures.of(part, data, calibration) for part in (data.train, data.validation))
        batches = Episodes(data.validation, settings.episodes).validation_batches()

        def validate() -> float:
            return float(np.mean([float(module.episode_loss(validation, batch)[0]) for batch in batches]))

        history = fit(module, training_loss(module, train, data, settings, seed), validate, loop)
        summary = {"settings": asdict(settings), "seed": seed, "best_step": history.best_step, "validation_nll": history.best_loss}
        summary |= {"start_nll": history.validation[0][1], **module.monitors(validation, batches[-1], settings.free_bits)}
        return TrainedFamily(module.family(), module.fold(calibration), summary)


def train_in_line_up(data: TrainingData, line_up: LineUp, seed: int) -> TrainedFamily:
    """Returns the family in the sizes of a line-up: the start of the population, and small steps from there; see `trainers`."""
    loop = LoopSettings(steps=line_up.steps, learning_rate=1e-2, evaluate_every=50, patience=10)
    bases = line_up.axes + 2 if line_up.bases is None else line_up.bases
    return train_vrf(data, VrfSettings(heads=bases, start="population", diversity=0.01, subspace=line_up.subspace, loop=loop), seed)


class VrfModule(nn.Module):
    """Heads, bases and pair encoder in training; what `models.seam.gaussian` computes, in batches."""

    def __init__(self, calibration: Calibration, settings: VrfSettings, generator: torch.Generator) -> None:
        super().__init__()
        heads, latent = settings.heads, settings.latent
        self.tau = settings.tau * latent
        self.scale = settings.precision_scale
        # Where heads start as what everybody likes and what few do, they need sizes; heads from anywhere share one.
        kind = SizedHeads if settings.start == "population" else StandardisedHeads
        self.heads: StandardisedHeads = kind(heads, calibration.moment, generator)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.features = nn.Linear(len(calibration.moment), settings.features, bias=False)
        self.prompt_features = nn.Linear(len(calibration.prompt.matrix), settings.prompt_features, bias=False)
        sizes = (settings.features + settings.prompt_features, *settings.hidden)
        self.layers = nn.ModuleList(nn.Linear(size, following) for size, following in pairwise(sizes))
        self.vote = nn.Linear(sizes[-1], latent, bias=False)
        self.gate = nn.Linear(settings.features, latent, bias=False)
        self.raw_floor = nn.Parameter(torch.tensor(_START_FLOOR))
        self.precision = nn.Linear(sizes[-1], latent)
        self.base_means = nn.Parameter(torch.randn(heads - 1, latent, generator=generator))
        self.raw_base_stds = nn.Parameter(torch.full((heads - 1, latent), math.log(math.expm1(0.5))))

    @torch.no_grad()
    def start_from(self, population: Population, calibration: Calibration, reach: float) -> None:
        """Sets the weights to the closed form of a population of linear tastes (reconstruction); everything is learned further.

        Along axes `L`, users are `u ~ N(0, I)` and comparisons `z = L^T dx` are uncorrelated with variances `lambda`. A
        user's Gaussian after some choices is then, to first order, the sum of votes `z_j / 2` with precisions `z_j^2` times
        the curvature of `models.seam.additive`. Heads `mu + g L v_k` at bases
        `c v_k`, with `v` a tight frame that sums to zero, answer a position `u` by `mu + L u`, to first order of the softmax,
        where `kappa = 2 c / tau`, and `g = d / (w kappa (K - 1))` with `w` the weight that a special base has before the
        first comparison. The first head, that of the wide base at the population's mean, is what everybody likes.
        """
        assert isinstance(self.heads, SizedHeads)
        specials, latent = self.base_means.shape
        size = min(latent, len(population.mean), specials - 1)
        axes, variances = taste_axes(population, calibration.moment, size)
        frame = _tight_frame(specials, size)
        means = np.zeros((specials, latent))
        means[:, :size] = 0.5 * reach * self.tau * frame
        # Frames have rows of unlike length: stds make up for it, so that all special bases weigh alike at the start.
        lengths = np.sum(means**2, axis=1)
        stds = 1.0 - np.sqrt((lengths.max() - lengths) / latent + 0.04)
        apart = lengths.max() + 0.04 * latent
        special = np.exp(-apart / self.tau) / (1.0 + specials * np.exp(-apart / self.tau))
        gain = size / (special * reach * specials)
        weights = np.concatenate([population.mean[None], population.mean + gain * frame @ axes.T])
        self.log_scale.fill_(float(np.log(self.heads.start_from(weights))))
        self.base_means.copy_(torch.from_numpy(means) + 0.01 * self.base_means)
        self.raw_base_stds.copy_(torch.from_numpy(np.log(np.expm1(np.maximum(stds, 0.05)))[:, None]))
        self._start_votes(axes, variances[:size])

    def _start_votes(self, axes: Array, variances: Array) -> None:
        """Sets the pair encoder to linear votes along `axes` `[F, d]` of comparisons with these `variances` `[d]`."""
        layers = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        size = min(len(variances), self.features.out_features, *(layer.out_features for layer in layers))
        spreads = np.sqrt(np.maximum(variances, 1e-12))
        for layer in (self.features, self.prompt_features, *layers, self.vote, self.precision, self.gate):
            layer.weight.mul_(0.1)
        self.features.weight[:size] = torch.from_numpy((axes / spreads).T[:size]).float()
        gain = np.ones(size)
        for layer in layers:
            layer.weight[:size] = 0.0
            layer.weight[:size, :size] = torch.eye(size)
            layer.bias[:size] = 0.0
            gain *= 0.5  # the odd part of SiLU is x / 2
        self.vote.weight[:size] = 0.0
        self.vote.weight[:size, :size] = torch.diag(torch.from_numpy(0.5 * spreads[:size] / gain)).float()
        # With g = z / 2, `g_j^2 / sqrt(1 + |g|^2)` is z_j^2 / 4 of small differences and z_j^2 / (2 |z|) of large ones, as in
        # Jaakkola and Jordan's bound. Axes without a head hardly see a comparison: what they would learn has nowhere to go yet.
        self.gate.weight[:size] = 0.0
        self.gate.weight[:size, :size] = torch.diag(torch.from_numpy(0.5 * spreads[:size])).float()
        self.precision.bias.fill_(math.log(math.expm1(self.scale)))

    @property
    def floor(self) -> Tensor:
        """Returns the least variance of a user, above 0 and below 1."""
        return torch.sigmoid(self.raw_floor)

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
        apart = self.gate(read).square()
        told = apart / torch.sqrt(1.0 + apart.sum(dim=-1, keepdim=True))
        precision = told * functional.softplus(self.precision(0.5 * (forward + backward))) / self.scale
        return precision, self.vote(0.5 * (forward - backward))

    def posterior(self, precision: Tensor, vote: Tensor, tie: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and std `[B, D]` of users from `[B, C, D]` votes: `gaussian.posterior` of the sum of evidence."""
        counted = precision * mask.unsqueeze(-1)
        total = 1.0 + counted.sum(dim=1)
        votes = vote * (mask & ~tie).unsqueeze(-1)
        return votes.sum(dim=1) / total, torch.sqrt(self.floor + (1.0 - self.floor) / total)

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

    def episode_loss(self, features: ComparisonFeatures, batch: EpisodeBatch, shrunk: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the mean negative log-likelihood of the targets given the contexts, and the KL `[B, D]` to the prior.

        `shrunk` `[B, C]` multiplies the differences of the contexts.
        """
        context, targets = batch.context, batch.targets
        told = features.difference[context] if shrunk is None else features.difference[context] * shrunk.unsqueeze(-1)
        precision, vote = self.votes(told, features.prompts[features.prompt[context]])
        mean, std = self.posterior(precision, vote, features.tie[context], batch.context_mask)
        margins = self.log_scale.exp() * self.heads(features.difference[targets])
        logits = self.logits(self.weights(mean, std), std, margins)
        losses = functional.softplus(-logits)
        losses = torch.where(features.tie[targets], 0.5 * (losses + functional.softplus(logits)), losses)
        counted = features.weight[targets] * batch.target_mask
        return (losses * counted).sum() / counted.sum(), 0.5 * (mean.square() + std.square() - 1.0) - std.log()

    @torch.no_grad()
    def monitors(self, features: ComparisonFeatures, regulars: EpisodeBatch, free_bits: float) -> dict[str, float]:
        """Returns what shows a collapse, of users with many comparisons.

        A posterior that ignores its comparisons has a KL of zero and no active dimension; weights that ignore the posterior
        are alike for all users (`heads_per_user` near `effective_heads`, `weight_spread` near 0); heads that are one have
        a correlation of 1.
        """
        context = regulars.context
        precision, vote = self.votes(features.difference[context], features.prompts[features.prompt[context]])
        mean, std = self.posterior(precision, vote, features.tie[context], regulars.context_mask)
        divergence = 0.5 * (mean.square() + std.square() - 1.0) - std.log()
        weights = self.weights(mean, std)
        average = weights.mean(dim=0)
        correlation = self.heads.correlation()
        return {
            "kl_at_20": float(divergence.sum(dim=-1).mean()),
            "active_dimensions": float((divergence.mean(dim=0) > free_bits).sum()),
            "effective_heads": float((-(average * average.log()).sum()).exp()),
            "heads_per_user": float((-(weights * weights.clamp(min=1e-30).log()).sum(dim=-1).mean()).exp()),
            "weight_spread": float(weights.std(dim=0).mean() / average.mean()),
            "max_correlation": float((correlation - torch.eye(len(correlation))).max()),
        }

    @torch.no_grad()
    def family(self) -> Vrf:
        """Returns the numpy side of the family with the weights as they are."""
        means, stds = (tensor.double().numpy() for tensor in self.bases())
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        layers = tuple((layer.weight.double().numpy(), layer.bias.double().numpy()) for layer in linear)
        precision = self.precision.weight.double().numpy(), self.precision.bias.double().numpy()
        encoder = PairEncoder(layers, self.vote.weight.double().numpy(), self.gate.weight.double().numpy(), *precision, self.scale)
        names = tuple(f"head{index}" for index in range(len(means)))
        return Vrf(NAME, names, float(self.log_scale.exp()), Bases(means, stds, self.tau), encoder, float(self.floor))

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


def _tight_frame(rows: int, columns: int) -> Array:
    """Returns `V` `[rows, columns]` with `V^T V = (rows / columns) I` and columns that sum to 0: cosines, `columns < rows`."""
    angles = (2 * np.arange(rows)[:, None] + 1) * np.arange(1, columns + 1) * np.pi / (2 * rows)
    frame: Array = np.sqrt(2.0 / columns) * np.cos(angles)
    return frame


def training_loss(
    module: VrfModule, features: ComparisonFeatures, data: TrainingData, settings: VrfSettings, seed: int
) -> Callable[[int], Tensor]:
    """Returns step -> loss of a batch of episodes drawn with `seed`: likelihood, KL with free bits, diversity and ridge."""
    rng = np.random.default_rng(seed)
    episodes = Episodes(data.train, settings.episodes)
    others = 1.0 - torch.eye(settings.heads)

    def loss(step: int) -> Tensor:
        batch = episodes.draw(rng)
        nearly = rng.random(batch.context.shape) < settings.nearly_equal
        shrunk = np.where(nearly, NEARLY * rng.choice([-1.0, 1.0], size=nearly.shape), 1.0)
        likelihood, divergence = module.episode_loss(features, batch, torch.from_numpy(shrunk.astype(np.float32)))
        kl = settings.kl * min(1.0, step / max(1, settings.kl_warmup))
        # Free bits are per dimension over the batch, so that a dimension may carry some users and not others.
        cost = kl * divergence.mean(dim=0).clamp(min=settings.free_bits).sum()
        alike = (module.heads.correlation().clamp(min=0.0).square() * others).sum() / others.sum()
        return likelihood + cost + settings.diversity * alike + settings.ridge * module.heads.ridge()

    return loss
