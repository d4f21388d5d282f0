"""Trains `additive`: a population of linear tastes, and the axes along which users differ, as heads of the scorer graph.

    comparisons ─> population N(mu, Sigma) over weights on features ─> axes L, mu ─> heads r_0, r_0 +- c z_j / a

The axes are ordered by how much of the users' disagreement they explain; on axes a user is N(0, I) before the first
comparison (`models.seam.additive`). Everything is in closed form but the expectation-maximisation of `hierarchical`: no step
size, no seed that matters. Axis letters: `F` features, `D` axes, `K = 2 D + 1` heads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attune.models.seam.additive import NAME, Additive
from attune.models.training.features import Affine, Subspace
from attune.models.training.first_head import ENOUGH
from attune.models.training.heads import OF_FIRST_HEAD, Heads, TrainedFamily
from attune.models.training.hierarchical import PopulationSettings, bounded, fit_population, taste_axes
from attune.models.training.loop import TrainingData
from attune.models.training.prior_trust import told_twice
from attune.models.training.trainers import LineUp
from attune.models.training.validating import validation_nll

Array = NDArray[np.float64]

UNCORRELATED_USERS = 20.0
"""Pseudo users of a population on features that no choice was looked at for; 2 and 60 are about as good on cuts of 70 to 300 people."""

VOTES = (1.0, 1.15, 1.35, 1.6)
"""Multiples of what a choice votes with by the bound, of which one is chosen.

After any number of choices the bound is short by a tenth where logits spread by 1, and by a fifth where they spread by 2.
"""


@dataclass(frozen=True, slots=True)
class AdditiveSettings:
    """Constants of the family.

    Attributes:
        axes: `D`, at most; fewer where there are fewer features. Evidence has `D (D + 3) / 2` doubles.
        population: see there.
        subspace: the features that axes may use.
    """

    axes: int = 12
    population: PopulationSettings = field(default_factory=PopulationSettings)
    subspace: Subspace = field(default_factory=Subspace)


def train_additive(data: TrainingData, settings: AdditiveSettings, seed: int) -> TrainedFamily:
    """Returns everybody's head and both ends of every axis; nothing is drawn, and `seed` is only noted."""
    calibration = data.calibration(settings.subspace)
    features = calibration.candidate(data.vectors.candidates)
    population = fit_population(data, features, settings.population, calibration.anchor, read=bounded)
    axes, explained = taste_axes(population, calibration.moment, settings.axes)
    size = axes.shape[1]
    everybody = float(population.mean @ calibration.moment @ population.mean)
    # Rewards are in units of the spread of margins, so that one logit scale carries the size as in the other families.
    scale = float(np.sqrt(everybody + explained[:size].sum()))
    # A draw from the prior has |u|_1 of .8 D on average; six standard deviations more leave room for what was learned.
    reach = 0.8 * size + 6.0 * float(np.sqrt(0.36 * size)) + 2.0
    ends = reach * axes.T
    weight = np.concatenate([population.mean[None], population.mean + ends, population.mean - ends]) / scale
    heads = fold_heads(calibration.candidate, weight)
    names = ("everybody", *(f"axis{index}+" for index in range(size)), *(f"axis{index}-" for index in range(size)))
    trained = TrainedFamily(Additive(NAME, names, scale, reach), heads)
    summary = {
        "settings": asdict(settings),
        "seed": seed,
        "validation_nll": validation_nll(trained, data),
        "margin_variance_of_everybody": everybody,
        "margin_variance_of_axes": explained.tolist(),
    }
    if calibration.anchor is not None:
        # The mean of tastes; the axes' share of the first head is a difference between people, and is none of this.
        summary[OF_FIRST_HEAD] = float(population.mean @ calibration.anchor)
    return TrainedFamily(trained.family, heads, summary)


def train_in_line_up(data: TrainingData, line_up: LineUp, seed: int) -> TrainedFamily:
    """Returns the family in the sizes of a line-up, on the features that validation people lose least with.

    Where many people are known, the directions in which they were seen to differ are best: `axes` of them, or `most_axes` where texts
    recur, as jokes do, since many axes tell them apart and a user's taste for each. Found on few people such directions are mostly chance,
    and what no choice was looked at for is better: how texts are written alone, or beside the principal components of the texts.
    """
    subspace, population = line_up.subspace, line_up.population
    several = [AdditiveSettings(line_up.axes, population, subspace)]
    if subspace.components is not None:
        most = max(line_up.axes, line_up.most_axes)
        if most > line_up.axes:
            several.append(AdditiveSettings(most, population, replace(subspace, components=most)))
        if subspace.kind == "tastes":
            written = replace(subspace, kind="principal", components=0, style=True)
            if not _features(data, written) > _features(data, replace(written, style=False)):
                written = replace(written, style=False)  # nothing of how texts are written stands in the vectors: it is not to be said
            apart = replace(population, pseudo_users=UNCORRELATED_USERS, pseudo="uncorrelated")
            several.append(AdditiveSettings(most, population, written))
            several.append(AdditiveSettings(most, apart, replace(written, components=most)))
    telling = [one for one in several if _telling(data, one.subspace)] or several[:1]
    trained = [train_additive(data, one, seed) for one in telling]
    return with_vote(min(trained, key=lambda one: float(one.summary["validation_nll"])), data)


def _features(data: TrainingData, subspace: Subspace) -> int:
    return len(data.calibration(subspace).candidate.matrix)


def _telling(data: TrainingData, subspace: Subspace) -> bool:
    """Returns whether answers that were compared differ in any feature beside everybody's head, which may say nothing."""
    moment = data.calibration(subspace).moment
    return bool(moment[int(subspace.everybody) :].any())


def with_vote(trained: TrainedFamily, data: TrainingData) -> TrainedFamily:
    """Returns the family with the vote of `VOTES` that validation people lose least with.

    The bound is fixed before anything is told of a user, so it leans to the middle, and a user's mean with it: people are then said to be
    nearer to the average than their choices bear out. Fewer than `ENOUGH` people who chose twice judge by chance, and it is 1 then.
    """
    family = trained.family
    if not isinstance(family, Additive) or told_twice(data.validation) < ENOUGH:
        return trained
    louder = [replace(trained, family=replace(family, vote=one)) for one in VOTES]
    losses = [validation_nll(one, data) for one in louder]
    best = int(np.argmin(losses))
    said = {"vote": {f"{one:g}": loss for one, loss in zip(VOTES, losses, strict=True)}, "validation_nll": losses[best]}
    return replace(louder[best], summary={**trained.summary, **said})


def told_apart_by(trained: TrainedFamily) -> str:
    """Returns in words what features a trained family's axes are made of; nothing for a family that was not trained so."""
    subspace = trained.summary.get("settings", {}).get("subspace", {})
    if not isinstance(trained.family, Additive) or not subspace:
        return ""
    if subspace["kind"] == "tastes":
        return "the directions in which people's choices differed most"
    written = "how texts are written" if subspace["style"] else "their length"
    return written if subspace["components"] == 0 else f"what texts vary most in, and {written}"


def fold_heads(features: Affine, weight: Array) -> Heads:
    """Returns the graph side: `<NAME>_rewards` as one layer on raw vectors, of `weight` `[K, F]` on features."""
    outputs = {f"{NAME}_rewards": nn.Sequential(features.fold(weight))}
    return Heads(outputs, {f"{NAME}_rewards": "candidate"}).eval().requires_grad_(requires_grad=False)
