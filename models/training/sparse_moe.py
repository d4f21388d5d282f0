"""Trains `sparse_moe`: K experts from binary preferences alone, a sparse gate on the prompt, one shared expert (SCIENCE §1).

    L = L_pref + a mean_x H(p(x)) + b (log K - H(mean_x p(x))) + c mean_{i<j} corr(ds_i, ds_j)^2 + q L_shared

After Wang et al. 2026 (arXiv 2606.04284); the formulas are not public, so this is a reconstruction. `p` is the gate over the
routed experts; local sparsity and global balance together are minus the mutual information of prompt and expert. Dense at
first, then only the `active` likeliest routed experts and the shared one are mixed, as when serving. `learn_from` is as in
`micro`. Axis letters as in `episodes`; `H = K + 1` heads, the shared one first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.sparse_moe import NAME, SparseMoe
from attune.models.training.episodes import ComparisonFeatures, EpisodeBatch, Episodes, EpisodeSettings
from attune.models.training.features import Calibration, StandardisedHeads, Subspace
from attune.models.training.heads import Heads, TrainedFamily
from attune.models.training.loop import LoopSettings, TrainingData, fit, reproducible
from attune.models.training.mixture import directions_of_kinds, directions_of_users, mixture_nll, posterior_log_weights
from attune.models.training.trainers import LineUp


@dataclass(frozen=True, slots=True)
class SparseMoeSettings:
    """Constants of the family.

    Attributes:
        experts: `K`, routed.
        active: routed experts that are mixed, beside the shared one.
        local, balance, diversity: `a`, `b` and `c` of the loss.
        shared: `q`, how much the shared expert is also trained to predict everybody alone.
        ema: share of the running mean in the balance term; batches alone are too few prompts.
        warm: share of the steps that are dense.
        temperature: `T` of the gate's softmax.
        hidden: units of the gate.
        learn_from: `users`: through their Hedge posterior in episodes; `prompts`: by the gate alone.
        start: where experts start: at clusters of training users' tastes, at such clusters for each kind of prompt, or anywhere.
        sleeping: experts that a prompt does not call for are not charged for what a user says of it.
        eta, learn_eta, cap: of Hedge, as in `micro`.
        ridge: weight of the mean squared effective weight in the loss.
        subspace: the features that experts may use.
        batch: comparisons a step where experts learn from prompts.
    """

    experts: int = 8
    active: int = 2
    local: float = 0.01
    balance: float = 0.1
    diversity: float = 0.01
    shared: float = 0.1
    ema: float = 0.9
    warm: float = 0.15
    temperature: float = 1.0
    hidden: int = 64
    learn_from: Literal["users", "prompts"] = "users"
    start: Literal["users", "kinds", "random"] = "users"
    sleeping: bool = True
    eta: float = 1.0
    learn_eta: bool = True
    cap: float = 4.0
    ridge: float = 1e-3
    subspace: Subspace = field(default_factory=Subspace)
    batch: int = 1024
    episodes: EpisodeSettings = field(default_factory=EpisodeSettings)
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=2000, patience=10))

    def __post_init__(self) -> None:
        if not 1 <= self.active <= self.experts:
            raise ValueError(f"active is {self.active} of {self.experts} experts; at least 1 and at most all can be")


def train_sparse_moe(data: TrainingData, settings: SparseMoeSettings, seed: int) -> TrainedFamily:
    """Returns the shared and the routed experts, their gate, and collapse monitors in the summary."""
    with reproducible(seed) as generator:
        calibration = data.calibration(settings.subspace)
        rng = np.random.default_rng(seed)
        train, validation = (ComparisonFeatures.of(part, data, calibration) for part in (data.train, data.validation))
        module = SparseMoeModule(calibration, raw_prompts(data), settings, generator)
        module.start(data, train, calibration, rng)
        train, validation = (with_raw_prompts(part, data) for part in (train, validation))
        loss = _training_loss(module, train, data, settings, rng)
        history = fit(module, loss, _validation(module, validation, data, settings), settings.loop)
        summary = {"settings": asdict(settings), "seed": seed, "best_step": history.best_step, "validation_nll": history.best_loss}
        return served_sparse_moe(module, calibration, data, settings, summary)


def train_in_line_up(data: TrainingData, line_up: LineUp, seed: int) -> TrainedFamily:
    """Returns the family in the sizes of a line-up; see `trainers`."""
    return train_sparse_moe(data, SparseMoeSettings(experts=line_up.heads, subspace=line_up.subspace, loop=line_up.short()), seed)


def raw_prompts(data: TrainingData) -> Tensor:
    """Returns the trunk's vectors of the training prompts `[P, D + 1]`; the gate normalises them itself."""
    return torch.from_numpy(np.ascontiguousarray(data.vectors.prompts[np.unique(data.train.prompt)]))


def with_raw_prompts(features: ComparisonFeatures, data: TrainingData) -> ComparisonFeatures:
    """Returns the features with the trunk's own prompt vectors in place of standardised ones."""
    prompts = torch.from_numpy(np.ascontiguousarray(data.vectors.prompts))
    return ComparisonFeatures(features.difference, features.prompt, prompts, features.tie, features.weight)


class SparseMoeModule(nn.Module):
    """Experts, gate and scales in training; `weights` is the torch side of `models.seam.sparse_moe`."""

    usage: Tensor

    def __init__(self, calibration: Calibration, prompts: Tensor, settings: SparseMoeSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.heads = StandardisedHeads(1 + settings.experts, calibration.moment, generator)
        # Routed experts spread alike; what everybody agrees on may spread less, and must not drown them.
        self.log_shared = nn.Parameter(torch.tensor(-1.0))
        norm = nn.LayerNorm(prompts.shape[1])
        with torch.no_grad():
            seen = norm(prompts)
            spread = seen.std(dim=0, unbiased=False)
            # LN(e) is nearly alike for all prompts of a trunk; its deviations over the training prompts are what is read.
            norm.weight.copy_(1.0 / torch.where(spread > 1e-6, spread, torch.ones_like(spread)))
            norm.bias.copy_(-seen.mean(dim=0) * norm.weight)
        norm.requires_grad_(requires_grad=False)
        self.gate = nn.Sequential(
            norm, nn.Linear(prompts.shape[1], settings.hidden), nn.GELU(), nn.Linear(settings.hidden, settings.experts)
        )
        last = self.gate[3]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)  # near uniform: an expert that is never likely at first is never trained
            last.bias.zero_()
        self.shared_logit = nn.Parameter(torch.tensor(-1.0))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.log_eta = nn.Parameter(torch.tensor(float(np.log(settings.eta))), requires_grad=settings.learn_eta)
        self.register_buffer("usage", torch.full((settings.experts,), 1.0 / settings.experts))

    @torch.no_grad()
    def start(self, data: TrainingData, features: ComparisonFeatures, calibration: Calibration, rng: np.random.Generator) -> None:
        """Points the shared expert where winners are on average, and the routed ones at clusters of users."""
        size = len(self.heads.moment)
        steady = self.heads.moment + 1e-3 * self.heads.moment.trace() / size * torch.eye(size)
        self.heads.directions[0] = torch.linalg.solve(steady, features.difference.mean(dim=0))
        if self.settings.start == "users":
            found = directions_of_users(data.train, features.difference.numpy(), calibration.moment, self.settings.experts, rng)
            self.heads.directions[1:] = torch.from_numpy(found)
        elif self.settings.start == "kinds":
            prompts, sizes = features.prompts.double().numpy(), (self.settings.experts, self.settings.active)
            found = directions_of_kinds(data.train, features.difference.numpy(), prompts, calibration.moment, sizes, rng)
            self.heads.directions[1:] = torch.from_numpy(found)
        length = self.heads.directions.norm(dim=1, keepdim=True).clamp(min=1e-12)
        self.heads.directions.mul_(size**0.5 / length)

    def sizes(self) -> Tensor:
        """Returns how far each head spreads `[H]`: 1 for routed experts, at most 1 for the shared one."""
        return torch.cat([self.log_shared.clamp(max=0.0).exp().reshape(1), torch.ones(self.settings.experts)])

    def margins(self, difference: Tensor) -> Tensor:
        """Returns logits `[..., H]` of differences `[..., F]`."""
        logits: Tensor = self.log_scale.exp() * self.heads(difference) * self.sizes()
        return logits

    def log_gate(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the log gate over all heads `[..., H]` and over routed experts alone `[..., K]`."""
        routed = torch.log_softmax(self.gate(prompts) / self.settings.temperature, dim=-1)
        shared = torch.nn.functional.logsigmoid(self.shared_logit).expand(*routed.shape[:-1], 1)
        rest = torch.nn.functional.logsigmoid(-self.shared_logit)
        return torch.cat([shared, rest + routed], dim=-1), routed

    @torch.no_grad()
    def awake(self, prompts: Tensor) -> Tensor:
        """Returns how far experts are charged for what is said of a prompt `[..., H]`; no gradient: a gate must not dodge losses."""
        routed = (self.log_gate(prompts)[1].exp() * self.settings.experts).clamp(max=1.0)
        return torch.cat([torch.ones_like(routed[..., :1]), routed], dim=-1)

    def cut(self, log_weights: Tensor) -> Tensor:
        """Returns log weights with all but the shared and the `active` likeliest routed experts closed, renormalised."""
        kept = log_weights[..., 1:].topk(self.settings.active, dim=-1).indices + 1
        closed = torch.full_like(log_weights, -1e9).scatter(-1, kept, 0.0)
        closed[..., 0] = 0.0
        return torch.log_softmax(log_weights + closed, dim=-1)

    def episode(self, features: ComparisonFeatures, batch: EpisodeBatch, *, dense: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss of the targets given the contexts, the shared expert's own loss, and the targets' routed gate."""
        gate, routed = self.log_gate(features.prompts[features.prompt[batch.targets]])
        context = self.margins(features.difference[batch.context])
        awake = self.awake(features.prompts[features.prompt[batch.context]]) if self.settings.sleeping else None
        weights = posterior_log_weights(
            gate, context, features.tie[batch.context], batch.context_mask, eta=self.log_eta.exp(), cap=self.settings.cap, awake=awake
        )
        margins = self.margins(features.difference[batch.targets])
        tie, weight = features.tie[batch.targets], features.weight[batch.targets] * batch.target_mask
        likelihood = mixture_nll(weights if dense else self.cut(weights), margins, tie, weight)
        return likelihood, _alone(margins, tie, weight), routed[batch.target_mask]

    def plain(self, features: ComparisonFeatures, rows: Tensor, *, dense: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the same for comparisons of anybody `[N]`, weighed by the gate alone."""
        gate, routed = self.log_gate(features.prompts[features.prompt[rows]])
        margins = self.margins(features.difference[rows])
        tie, weight = features.tie[rows], features.weight[rows]
        return mixture_nll(gate if dense else self.cut(gate), margins, tie, weight), _alone(margins, tie, weight), routed

    def regularisers(self, routed: Tensor) -> Tensor:
        """Returns local sparsity, global balance and diversity, weighted, of a batch's gates `[N, K]`; moves the running mean."""
        settings = self.settings
        share = routed.exp()
        local = -(share * routed).sum(dim=-1).mean()
        mean = (1.0 - settings.ema) * share.mean(dim=0) + settings.ema * self.usage
        # The running mean is a constant to the gradient, which would be that much smaller: divided out again.
        balance = (mean * mean.clamp(min=1e-12).log()).sum() / (1.0 - settings.ema)
        self.usage.copy_(mean.detach())
        correlation = self.heads.correlation()[1:, 1:]
        pairs = max(1, settings.experts * (settings.experts - 1))
        diversity = (correlation.square().sum() - correlation.diagonal().square().sum()) / pairs
        return settings.local * local + settings.balance * balance + settings.diversity * diversity


def _alone(margins: Tensor, tie: Tensor, weight: Tensor) -> Tensor:
    return mixture_nll(torch.zeros_like(margins[..., :1]), margins[..., :1], tie, weight)


def _training_loss(
    module: SparseMoeModule, features: ComparisonFeatures, data: TrainingData, settings: SparseMoeSettings, rng: np.random.Generator
) -> Callable[[int], Tensor]:
    episodes = Episodes(data.train, settings.episodes) if settings.learn_from == "users" else None
    dense_until = settings.warm * settings.loop.steps

    def loss(step: int) -> Tensor:
        dense = step < dense_until
        if episodes is None:
            rows = torch.from_numpy(rng.integers(0, len(data.train), size=min(settings.batch, len(data.train))))
            likelihood, alone, routed = module.plain(features, rows, dense=dense)
        else:
            likelihood, alone, routed = module.episode(features, episodes.draw(rng), dense=dense)
        return likelihood + settings.shared * alone + module.regularisers(routed) + settings.ridge * module.heads.ridge()

    return loss


def _validation(
    module: SparseMoeModule, features: ComparisonFeatures, data: TrainingData, settings: SparseMoeSettings
) -> Callable[[], float]:
    # Always with the cut, as served: a dense loss early on would win over every sparse one.
    if settings.learn_from == "prompts":
        rows = torch.arange(len(data.validation))
        return lambda: float(module.plain(features, rows, dense=False)[0])
    batches = Episodes(data.validation, settings.episodes).validation_batches()
    return lambda: float(np.mean([float(module.episode(features, batch, dense=False)[0]) for batch in batches]))


@torch.no_grad()
def served_sparse_moe(
    module: SparseMoeModule, calibration: Calibration, data: TrainingData, settings: SparseMoeSettings, summary: dict[str, Any]
) -> TrainedFamily:
    """Returns the family as it is served, with the weights that `module` has now."""
    heads = Heads(
        {f"{NAME}_rewards": nn.Sequential(_fold_heads(module, calibration)), f"{NAME}_gate": _fold_gate(module)},
        {f"{NAME}_rewards": "candidate", f"{NAME}_gate": "prompt"},
    )
    gate, routed = module.log_gate(raw_prompts(data))
    names = ("quality", *(f"expert{index}" for index in range(settings.experts)))
    hedge = HedgeSettings(eta=float(module.log_eta.exp()), cap=settings.cap)
    log_prior = gate.double().exp().mean(dim=0).clamp(min=1e-12).log().numpy()
    family = SparseMoe(NAME, names, float(module.log_scale.exp()), hedge, log_prior, settings.active, sleeping=settings.sleeping)
    return TrainedFamily(family, heads.eval().requires_grad_(requires_grad=False), summary | _monitors(module, routed))


def _fold_heads(module: SparseMoeModule, calibration: Calibration) -> nn.Linear:
    weights = (module.heads.effective() * module.sizes().unsqueeze(1)).double().numpy()
    return calibration.candidate.fold(weights)


def _fold_gate(module: SparseMoeModule) -> nn.Sequential:
    norm, first, gelu, last = module.gate
    assert isinstance(last, nn.Linear)
    cooled = nn.Linear(last.in_features, last.out_features)
    cooled.weight.copy_(last.weight / module.settings.temperature)
    cooled.bias.copy_(last.bias / module.settings.temperature)
    # The shared expert's share is a constant: a row of zeros and its logarithm, above the routed experts' own.
    experts = module.settings.experts
    widen = nn.Linear(experts, 1 + experts)
    widen.weight.copy_(torch.cat([torch.zeros(1, experts), torch.eye(experts)]))
    shared, rest = (torch.nn.functional.logsigmoid(sign * module.shared_logit) for sign in (1.0, -1.0))
    widen.bias.copy_(torch.cat([shared.reshape(1), rest.expand(experts)]))
    return nn.Sequential(norm, first, gelu, cooled, nn.LogSoftmax(dim=-1), widen)


def _monitors(module: SparseMoeModule, routed: Tensor) -> dict[str, Any]:
    """Returns collapse monitors over the training prompts: how many experts are used by all together, and by one alone."""
    share = routed.exp()
    mean = share.mean(dim=0)
    correlation = module.heads.correlation()[1:, 1:]
    off = correlation - torch.eye(len(correlation))
    return {
        "effective_experts": float(torch.exp(-(mean * mean.clamp(min=1e-12).log()).sum())),
        "experts_per_prompt": float(torch.exp(-(share * routed).sum(dim=-1).mean())),
        "max_abs_correlation": float(off.abs().max()),
        "gate_mean": [round(float(value), 4) for value in mean],
        "shared_share": float(torch.sigmoid(module.shared_logit)),
        "shared_size": float(module.sizes()[0]),
        "eta": float(module.log_eta.exp()),
    }
