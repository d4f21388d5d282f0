"""Synthetic worlds: random vectors in place of texts and users whose tastes are known directions of them.

What a family could reach is then known exactly: `Bayes` is an observer who knows every kind of user and how noisy choices are.
Axis letters: `N` answers, `G` kinds of users, `U` users, `C` comparisons, `D` width of the vectors without the length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparisons, Texts
from attune.models.training.loop import TrainingData
from demo.drawn import draw_comparisons, flipped_choice

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

PARTS: Mapping[str, int] = {"train": 200, "validation": 60, "context": 60, "targets": 60}
"""Prompts of each part: what is told and what is predicted are on different prompts, none of them met in training."""


@dataclass(frozen=True, slots=True)
class WorldSizes:
    """How large a world is.

    Attributes:
        users, per_user: training users and comparisons of each.
        test_users: unseen ones; `told` comparisons are told, `targets` predicted. Validation people tell twice as many as these, or
            `per_user` if that is more.
        answers: of each prompt.
        width: `D`.
        noise: share of choices that are turned round.
        least_gap: pairs closer in the user's utility are not asked; utilities have standard deviation 1 or so.
    """

    users: int = 400
    per_user: int = 40
    test_users: int = 200
    told: int = 20
    targets: int = 40
    answers: int = 8
    width: int = 24
    noise: float = 0.1
    least_gap: float = 0.3


@dataclass(frozen=True, slots=True)
class World:
    """Training data and unseen users of known kinds.

    Attributes:
        data: for trainers; kinds are not in it.
        context, targets: of the unseen users.
        utilities: `[N, G]` what each kind likes.
        kind: `[U]` of the unseen users.
        noise: of their choices.
        prompt_kind: `[P]` what a prompt is about, where that matters.
    """

    data: TrainingData
    context: Comparisons
    targets: Comparisons
    utilities: Array
    kind: Ints
    noise: float
    prompt_kind: Ints


def build_world(vectors: Vectors, utilities: Array, prompt_kind: Ints, sizes: WorldSizes, *, seed: int) -> World:
    """Returns a world of equally many users of each kind.

    Args:
        vectors: of `sum(PARTS.values())` prompts and `answers` candidates of each, in order.
        utilities: `[N, G]`.
        prompt_kind: `[P]`.
        sizes: see there.
        seed: of users' comparisons.
    """
    texts = world_texts(sizes)
    starts = np.cumsum([0, *PARTS.values()])
    prompts = {name: np.arange(starts[index], starts[index + 1]) for index, name in enumerate(PARTS)}
    kinds = utilities.shape[1]

    def told(part: str, users: int, each: int) -> Comparisons:
        return draw_comparisons(
            texts,
            utilities[:, np.arange(users) % kinds],
            per_user=each,
            choose=flipped_choice(sizes.noise),
            seed=seed * 100 + list(PARTS).index(part),
            prompts=prompts[part],
            least_gap=sizes.least_gap,
            name=part,
        )

    validation = max(kinds, sizes.users // 4)
    each = max(sizes.per_user, 2 * sizes.told)
    data = TrainingData(told("train", sizes.users, sizes.per_user), told("validation", validation, each), vectors)
    context, targets = told("context", sizes.test_users, sizes.told), told("targets", sizes.test_users, sizes.targets)
    return World(data, context, targets, utilities, np.arange(sizes.test_users) % kinds, sizes.noise, prompt_kind)


def world_texts(sizes: WorldSizes) -> Texts:
    """Returns names that stand for texts: prompts of all parts in order, `answers` for each."""
    prompts = sum(PARTS.values())
    candidates = tuple((f"prompt {prompt}", f"answer {answer}") for prompt in range(prompts) for answer in range(sizes.answers))
    return Texts(tuple((f"prompt {prompt}", None) for prompt in range(prompts)), candidates)


def random_vectors(sizes: WorldSizes, rng: np.random.Generator) -> Vectors:
    """Returns vectors of a trunk that never was: neither centred nor of one scale, log-lengths last, prompts about nothing."""
    scales = rng.uniform(0.5, 2.0, size=sizes.width)

    def drawn(count: int) -> NDArray[np.float32]:
        meaning = 0.3 + scales * rng.normal(size=(count, sizes.width))
        return np.column_stack([meaning, rng.normal(3.5, 0.5, size=count)]).astype(np.float32)

    prompts = sum(PARTS.values())
    return Vectors(drawn(prompts), drawn(prompts * sizes.answers))


def simplex_directions(groups: int, width: int, rng: np.random.Generator) -> Array:
    """Returns `[G, D]` unit vectors that sum to zero and are all equally far apart: what one group likes, the others dislike."""
    corners = np.eye(groups) - 1.0 / groups
    basis = np.linalg.qr(rng.normal(size=(width, groups)))[0]
    turned = corners @ basis.T
    directions: Array = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    return directions


def opposed_world(groups: int, sizes: WorldSizes, *, seed: int) -> World:
    """Returns a world of `groups` opposed groups whose mean taste is nothing (Shen et al. 2025, Theorem 3.2).

    Raises:
        ValueError: fewer than two groups, or more than the vectors have dimensions.
    """
    if not 2 <= groups <= sizes.width:
        raise ValueError(f"{groups} groups; 2 to {sizes.width} can be opposed in {sizes.width} dimensions")
    rng = np.random.default_rng([seed, groups])
    vectors = random_vectors(sizes, rng)
    meaning = vectors.candidates[:, :-1].astype(np.float64)
    standard = (meaning - meaning.mean(axis=0)) / meaning.std(axis=0)
    utilities = standard @ simplex_directions(groups, sizes.width, rng).T
    return build_world(vectors, utilities, np.zeros(len(vectors.prompts), dtype=np.int64), sizes, seed=seed)


def bayes_probabilities(world: World, count: int) -> tuple[Array, Array]:
    """Returns what an observer who knows every kind believes after `count` comparisons: targets `[C]` and kinds `[U, G]`.

    A choice is the better answer's with probability `1 - noise`, so the posterior over kinds is exact. That pairs which a user
    finds alike are never asked is not used: before anything is told, whoever learned it from data may do better.
    """
    kinds = world.utilities.shape[1]

    def likelihoods(told: Comparisons) -> Array:
        right = world.utilities[told.chosen] > world.utilities[told.rejected]
        return np.where(right, 1.0 - world.noise, world.noise)

    seen = np.log(likelihoods(world.context))
    posterior = np.zeros((len(world.kind), kinds))
    for user, rows in world.context.rows_of_users().items():
        posterior[user] = seen[rows[:count]].sum(axis=0)
    posterior = np.exp(posterior - posterior.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    return (likelihoods(world.targets) * posterior[world.targets.user]).sum(axis=1), posterior
