"""Trains `micro`: K Bradley-Terry heads and a router on the prompt (Shen et al. 2025, arXiv 2505.24846, stage 1; SCIENCE §2).

    L = -(1/n) sum log sum_k w_k sigma(a ds_k) + alpha (1/n) sum sum_k f_k log f_k

`learn_from="prompts"` is the paper's loss, `w = f(x)`: heads specialise only where the prompt tells groups apart.
`learn_from="users"` is a reconstruction: `w_k ~ f_k(x) exp(-eta C_k)` with `C` the user's losses on context comparisons, a
mixture over users trained end to end through the very weights that Hedge computes when serving. Axis letters as in `episodes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.micro import NAME, Micro
from attune.models.training.episodes import ComparisonFeatures, EpisodeBatch, Episodes, EpisodeSettings
from attune.models.training.features import Calibration, StandardisedHeads, Subspace
from attune.models.training.heads import Heads, TrainedFamily
from attune.models.training.loop import LoopSettings, TrainingData, fit, reproducible
from attune.models.training.mixture import directions_of_users, mixture_nll, posterior_log_weights
from attune.models.training.trainers import LineUp


@dataclass(frozen=True, slots=True)
class MicroSettings:
    """Constants of the family.

    Attributes:
        heads: `K`.
        alpha: weight of the router's negative entropy; the paper has 0.5.
        learn_from: what weighs the heads in training, see the module.
        eta: learning rate of Hedge at the start; 1 is exact Bayes over heads.
        learn_eta: fit it together with the heads, since users are mixtures and not heads.
        cap: most that one comparison may cost a head, nats.
        start: where heads start: anywhere, or at clusters of training users' tastes.
        ridge: weight of the mean squared effective weight in the loss.
        router: hidden units, 128 in the paper.
        subspace: the features that heads may use.
        batch: comparisons a step where heads learn from prompts.
    """

    heads: int = 12
    alpha: float = 0.5
    learn_from: Literal["users", "prompts"] = "users"
    eta: float = 1.0
    learn_eta: bool = True
    cap: float = 4.0
    start: Literal["random", "users"] = "random"
    ridge: float = 1e-3
    router: int = 128
    subspace: Subspace = field(default_factory=Subspace)
    batch: int = 1024
    episodes: EpisodeSettings = field(default_factory=EpisodeSettings)
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=2000, patience=10))


def train_micro(data: TrainingData, settings: MicroSettings, seed: int) -> TrainedFamily:
    """Returns K heads, their router, the mean log gate as the prior, and Hedge's constants."""
    with reproducible(seed) as generator:
        calibration = data.calibration(settings.subspace)
        module = MicroModule(calibration, settings, generator)
        train, validation = (ComparisonFeatures.of(part, data, calibration) for part in (data.train, data.validation))
        if settings.start == "users":
            rng = np.random.default_rng(seed)
            found = directions_of_users(data.train, train.difference.numpy(), calibration.moment, settings.heads, rng)
            module.heads.directions.data.copy_(torch.from_numpy(found))
        if calibration.anchor is not None:
            module.log_scale.data.fill_(float(np.log(module.heads.start_near(calibration.anchor))))
        loss, validate = _training_loss(module, train, data, settings, seed), _validation(module, validation, data, settings)
        history = fit(module, loss, validate, settings.loop)
        summary = {"settings": asdict(settings), "seed": seed, "best_step": history.best_step, "validation_nll": history.best_loss}
        return served_micro(module, calibration, data, settings, summary)


def train_in_line_up(data: TrainingData, line_up: LineUp, seed: int) -> TrainedFamily:
    """Returns the family in the sizes of a line-up; see `trainers`."""
    return train_micro(data, MicroSettings(heads=line_up.heads, subspace=line_up.subspace, loop=line_up.short()), seed)


class MicroModule(nn.Module):
    """Heads, router and scales in training."""

    def __init__(self, calibration: Calibration, settings: MicroSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = StandardisedHeads(settings.heads, calibration.moment, generator)
        self.router = nn.Sequential(
            nn.Linear(len(calibration.prompt.matrix), settings.router),
            nn.ReLU(),
            nn.Linear(settings.router, settings.heads),
            nn.LogSoftmax(dim=-1),
        )
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.log_eta = nn.Parameter(torch.tensor(float(np.log(settings.eta))), requires_grad=settings.learn_eta)
        self.cap = settings.cap

    def margins(self, difference: Tensor) -> Tensor:
        """Returns logits `[..., K]` of differences `[..., F]`."""
        logits: Tensor = self.log_scale.exp() * self.heads(difference)
        return logits

    def episode_loss(self, features: ComparisonFeatures, batch: EpisodeBatch) -> Tensor:
        """Returns the mean negative log-likelihood of the targets given the contexts."""
        context = self.margins(features.difference[batch.context])
        gate = self.router(features.prompts[features.prompt[batch.targets]])
        weights = posterior_log_weights(
            gate, context, features.tie[batch.context], batch.context_mask, eta=self.log_eta.exp(), cap=self.cap
        )
        margins, weight = self.margins(features.difference[batch.targets]), features.weight[batch.targets] * batch.target_mask
        return mixture_nll(weights, margins, features.tie[batch.targets], weight)

    def plain_loss(self, features: ComparisonFeatures, rows: Tensor) -> Tensor:
        """Returns the paper's loss without its entropy term, over comparisons of anybody `[N]`."""
        gate = self.router(features.prompts[features.prompt[rows]])
        return mixture_nll(gate, self.margins(features.difference[rows]), features.tie[rows], features.weight[rows])

    def negative_entropy(self, features: ComparisonFeatures, rows: Tensor) -> Tensor:
        """Returns the mean over `rows` of `sum_k f_k log f_k`."""
        gate: Tensor = self.router(features.prompts[features.prompt[rows]])
        return (gate.exp() * gate).sum(dim=-1).mean()


def _training_loss(
    module: MicroModule, features: ComparisonFeatures, data: TrainingData, settings: MicroSettings, seed: int
) -> Callable[[int], Tensor]:
    rng = np.random.default_rng(seed)
    episodes = Episodes(data.train, settings.episodes) if settings.learn_from == "users" else None

    def loss(step: int) -> Tensor:  # noqa: ARG001 - episodes are drawn afresh
        if episodes is None:
            rows = torch.from_numpy(rng.integers(0, len(data.train), size=min(settings.batch, len(data.train))))
            likelihood = module.plain_loss(features, rows)
        else:
            batch = episodes.draw(rng)
            rows, likelihood = batch.targets[batch.target_mask], module.episode_loss(features, batch)
        return likelihood + settings.alpha * module.negative_entropy(features, rows) + settings.ridge * module.heads.ridge()

    return loss


def _validation(module: MicroModule, features: ComparisonFeatures, data: TrainingData, settings: MicroSettings) -> Callable[[], float]:
    if settings.learn_from == "prompts":
        rows = torch.arange(len(data.validation))
        return lambda: float(module.plain_loss(features, rows))
    batches = Episodes(data.validation, settings.episodes).validation_batches()
    return lambda: float(np.mean([float(module.episode_loss(features, batch)) for batch in batches]))


@torch.no_grad()
def served_micro(
    module: MicroModule, calibration: Calibration, data: TrainingData, settings: MicroSettings, summary: dict[str, Any]
) -> TrainedFamily:
    """Returns the family as it is served, with the weights that `module` has now."""
    prompts = torch.from_numpy(calibration.prompt(data.vectors.prompts))[torch.from_numpy(np.unique(data.train.prompt))]
    gate = module.router(prompts)
    first, *rest = module.router
    assert isinstance(first, nn.Linear)
    router = nn.Sequential(calibration.prompt.fold(first.weight.double().numpy(), first.bias.double().numpy()), *rest)
    heads = Heads(
        {f"{NAME}_rewards": nn.Sequential(module.heads.fold(calibration.candidate)), f"{NAME}_gate": router},
        {f"{NAME}_rewards": "candidate", f"{NAME}_gate": "prompt"},
    )
    hedge = HedgeSettings(eta=float(module.log_eta.exp()), cap=settings.cap)
    names = tuple(f"head{index}" for index in range(settings.heads))
    log_prior = gate.mean(dim=0).double().numpy()
    family = Micro(NAME, names, float(module.log_scale.exp()), hedge, log_prior, np.ones(settings.heads, dtype=bool))
    correlation = module.heads.correlation()
    monitors = {
        # exp(H(mean gate)) and exp(mean H(gate)): how many heads all prompts use together, and one prompt alone.
        "effective_heads": float(torch.exp(-(gate.exp().mean(0) * gate.exp().mean(0).log()).sum())),
        "heads_per_prompt": float(torch.exp(-(gate.exp() * gate).sum(-1).mean())),
        "max_correlation": float((correlation - torch.eye(settings.heads)).max()),
        "eta": hedge.eta,
    }
    return TrainedFamily(family, heads.eval().requires_grad_(requires_grad=False), summary | monitors)
