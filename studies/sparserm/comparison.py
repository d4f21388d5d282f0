"""`python -m studies sparserm`: do directions of a sparse autoencoder beat random ones, and at what price against the dense state?

Every method gets the same comparisons of a seed and the same head; what differs is the features. Selection, head and
validation never share a prompt, and the test is the same for all seeds and is looked at once. Axis letters: `N`
candidates, `C` test comparisons, `F` features, `K` latents on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparisons
from attune.models.data.splits import prompt_keys
from attune.models.measuring.figures import accuracy, calibration_error, negative_log_likelihood, over_resamples
from attune.models.training.direction_head import HeadSettings, train_head
from attune.models.training.directions import Rank, Selection, SelectionSettings, select
from attune.models.training.latents import Latents
from attune.models.training.loop import LoopSettings, reproducible
from attune.models.training.sparserm import projection
from studies.sparserm.tasks import LabelledTask, Parts, cut_pool, cut_test

Array = NDArray[np.float64]
Features = NDArray[np.float32]

PROPOSED, RANDOM, DENSE = "selected directions", "random directions", "dense state"
RANKS: tuple[Rank, ...] = ("t", "frequency")
INNER_SEED = 7
FEW_CLUSTERS = 20
"""A bootstrap over fewer prompts than this is no interval; pairs are then resampled by their chosen text."""

MLP = HeadSettings(
    kind="mlp", ridges=(0.01,), loop=LoopSettings(steps=100, learning_rate=3e-3, weight_decay=0.0, evaluate_every=10, patience=4)
)


@dataclass(frozen=True, slots=True)
class StudySettings:
    """Constants of the study.

    Attributes:
        seeds: cuts of the pool, starts of heads, random directions.
        selection: of the headline.
        sweep: other `K` that selected and random directions are compared at, with the linear head.
        heads: name -> head; the first is the headline's.
    """

    seeds: tuple[int, ...] = tuple(range(10))
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    sweep: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    heads: Mapping[str, HeadSettings] = field(
        default_factory=lambda: {
            "linear, Bradley-Terry": HeadSettings(),
            "linear, margin": HeadSettings(loss="margin"),
            "MLP, Bradley-Terry": MLP,
            "MLP, margin": replace(MLP, loss="margin"),
        }
    )


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One head on one set of features: what it says of the test, and how many numbers it trained."""

    probabilities: Array
    parameters: int

    @property
    def right(self) -> Array:
        """`[C]` 1 where the chosen answer is predicted, 0.5 at exactly one half."""
        right: Array = (self.probabilities > 0.5) + 0.5 * (self.probabilities == 0.5)
        return right


def study(
    task: LabelledTask, vectors: Vectors, latents: Latents, settings: StudySettings, *, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Returns every method's figures on one task, JSON data.

    Args:
        task: with texts that `vectors` and `latents` are of.
        vectors: pooled.
        latents: of an autoencoder that no test text trained.
        settings: see `StudySettings`.
        progress: told a line per seed.
    """
    outcomes: dict[str, list[MethodResult]] = {}
    for seed in settings.seeds:
        for name, outcome in one_seed(task, vectors, latents, settings, seed).items():
            outcomes.setdefault(name, []).append(outcome)
        progress(
            f"{task.name} seed {seed}: " + ", ".join(f"{name} {outcomes[name][-1].right.mean():.3f}" for name in (PROPOSED, RANDOM, DENSE))
        )
    methods = {name: _figures(found) for name, found in outcomes.items()}
    differences = {
        name: _difference(outcomes[PROPOSED], outcomes[name], task.test)
        for name in (RANDOM, DENSE, "random latents' directions", "raw latents")
    }
    return {
        "about": task.about,
        "pool": {"comparisons": len(task.pool), "sha256": task.pool.sha256()},
        "test": {"comparisons": len(task.test), "prompts": len(np.unique(prompt_keys(task.test))), "sha256": task.test.sha256()},
        "methods": methods,
        "selected_minus": differences,
    }


def choose_selection(
    tasks: Sequence[tuple[LabelledTask, Vectors, Latents]], settings: StudySettings, *, seeds: Sequence[int] = (0, 1, 2)
) -> tuple[SelectionSettings, list[dict[str, Any]]]:
    """Returns the way of ranking latents whose directions are right most often, and what each way gave; tests are not looked at.

    A quarter of the pool's prompts stands for the test. `each` is not chosen: it follows the paper's share of the width.

    Args:
        tasks: each with its vectors and latents.
        settings: whose selection is varied in rank and length control.
        seeds: cuts of what is left of the pool.
    """
    found: list[dict[str, Any]] = []
    for rank, length_control in product(RANKS, (True, False)):
        ways = replace(settings.selection, rank=rank, length_control=length_control)
        by_task = {}
        for task, vectors, latents in tasks:
            inner = cut_test(task.name, task.about, task.pool, seed=INNER_SEED)
            right = [_headline(inner, vectors, latents, ways, settings, seed) for seed in seeds]
            by_task[task.name] = float(np.mean(right))
        found.append({"rank": rank, "length_control": length_control, "accuracy": by_task, "mean": float(np.mean(list(by_task.values())))})
    best = max(found, key=lambda one: one["mean"])
    return replace(settings.selection, rank=best["rank"], length_control=best["length_control"]), found


def _headline(task: LabelledTask, vectors: Vectors, latents: Latents, ways: SelectionSettings, settings: StudySettings, seed: int) -> float:
    parts = cut_pool(task.pool, seed=seed)
    picked = select(latents.frequency, vectors.candidates[:, -1].astype(np.float64), parts.selection, ways).latents
    features = _projected(vectors, projection(latents, picked, vectors.candidates.shape[1], with_length=False))
    return float(_outcome(features, parts, task.test, next(iter(settings.heads.values())), seed).right.mean())


def one_seed(task: LabelledTask, vectors: Vectors, latents: Latents, settings: StudySettings, seed: int) -> dict[str, MethodResult]:
    """Returns what every method says of the test after one seed's training."""
    parts = cut_pool(task.pool, seed=seed)
    rng = np.random.default_rng(seed)
    log_length = vectors.candidates[:, -1].astype(np.float64)
    layer = vectors.candidates[:, latents.columns]
    headline, *others = settings.heads.items()
    most = replace(settings.selection, each=max((settings.selection.each, *settings.sweep)))
    ranked = _select_at_most(latents, log_length, parts.selection, most)
    each = settings.selection.each

    def picked(count: int) -> NDArray[np.int64]:
        return np.concatenate([ranked.chosen[:count], ranked.rejected[:count]])

    def project(count: int, *, with_length: bool) -> Features:
        return _projected(vectors, projection(latents, picked(count), vectors.candidates.shape[1], with_length=with_length))

    drawn = rng.normal(size=(2 * max(each, *settings.sweep), layer.shape[1]))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    random = (layer.astype(np.float64) @ drawn.T).astype(np.float32)
    supported = np.flatnonzero(ranked.support >= settings.selection.least_texts)
    elsewhere = rng.permutation(np.setdiff1d(supported, picked(each)))[: 2 * each]
    length = vectors.candidates[:, -1:]
    features: dict[str, Features] = {
        PROPOSED: project(each, with_length=False),
        RANDOM: random[:, : 2 * each],
        "random latents' directions": _projected(vectors, projection(latents, elsewhere, vectors.candidates.shape[1], with_length=False)),
        DENSE: layer,
        "raw latents": latents.strength[:, picked(each)],
        "all latents": latents.strength,
        f"{PROPOSED}, with length": project(each, with_length=True),
        f"{RANDOM}, with length": np.hstack([random[:, : 2 * each], length]),
        f"{DENSE}, with length": np.hstack([layer, length]),
        "length alone": length,
    }
    found = {name: _outcome(x, parts, task.test, headline[1], seed) for name, x in features.items()}
    both = give_all_to_head(task.pool, parts)
    found[f"{DENSE}, also on the selection's comparisons"] = _outcome(layer, both, task.test, headline[1], seed)
    for name, head in others:
        found |= {f"{method}: {name}": _outcome(features[method], parts, task.test, head, seed) for method in (PROPOSED, RANDOM, DENSE)}
    for count in settings.sweep:
        found[f"{PROPOSED}: K = {count}"] = _outcome(project(count, with_length=False), parts, task.test, headline[1], seed)
        found[f"{RANDOM}: K = {count}"] = _outcome(random[:, : 2 * count], parts, task.test, headline[1], seed)
    return found


def give_all_to_head(pool: Comparisons, parts: Parts) -> Parts:
    """Returns the parts with the selection's comparisons given to the head as well: what a method without a selection could use."""
    ours = {(int(row), int(other)) for one in (parts.selection, parts.head) for row, other in zip(one.chosen, one.rejected, strict=True)}
    mask = np.array([(int(row), int(other)) in ours for row, other in zip(pool.chosen, pool.rejected, strict=True)])
    return replace(parts, head=pool.take(mask))


def _select_at_most(latents: Latents, log_length: Array, comparisons: Comparisons, settings: SelectionSettings) -> Selection:
    """Returns the ranking with as many latents on either side as have support, where `each` are not there."""
    one = select(latents.frequency, log_length, comparisons, replace(settings, each=1))
    sides = [int(np.sum(sign * one.score > 0)) for sign in (1, -1)]
    return select(latents.frequency, log_length, comparisons, replace(settings, each=min(settings.each, *sides)))


def _projected(vectors: Vectors, matrix: Array) -> Features:
    return (vectors.candidates.astype(np.float64) @ matrix.T).astype(np.float32)


def _outcome(features: Features, parts: Parts, test: Comparisons, head: HeadSettings, seed: int) -> MethodResult:
    with reproducible(seed) as generator:
        trained = train_head(features, parts.head, parts.validation, head, generator)
    scores = trained.scores(features)
    margins = trained.temperature * (scores[test.chosen] - scores[test.rejected])
    return MethodResult(1.0 / (1.0 + np.exp(-np.clip(margins, -700, 700))), trained.parameters)


def _figures(outcomes: Sequence[MethodResult]) -> dict[str, Any]:
    return {
        "accuracy": over_seeds([accuracy(one.probabilities) for one in outcomes]),
        "nll": over_seeds([negative_log_likelihood(one.probabilities) for one in outcomes]),
        "ece": over_seeds([calibration_error(one.probabilities) for one in outcomes]),
        "parameters": outcomes[0].parameters,
    }


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Returns the mean over seeds with its 95 % t interval."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": len(values)}


def _difference(ours: Sequence[MethodResult], theirs: Sequence[MethodResult], test: Comparisons) -> dict[str, Any]:
    paired = np.array([one.right - other.right for one, other in zip(ours, theirs, strict=True)])
    keys = prompt_keys(test)
    by = "prompts" if len(np.unique(keys)) >= FEW_CLUSTERS else "chosen texts"
    clusters = keys if by == "prompts" else test.chosen
    low, high = clustered(paired.mean(axis=0), clusters)
    return {"over_seeds": over_seeds(paired.mean(axis=1).tolist()), "over_test": {"low": low, "high": high, "resampled": by}}


def clustered(values: Array, clusters: NDArray[np.int64], *, resamples: int = 2000) -> tuple[float, float]:
    """Returns the 2.5 and 97.5 percentiles of the mean of `values` `[C]` over resampled clusters."""
    _, of = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(of, weights=values), np.bincount(of)
    rng = np.random.default_rng(0)
    drawn = over_resamples(rng, len(sums), resamples, lambda picked: sums[picked].sum(axis=1) / counts[picked].sum(axis=1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
