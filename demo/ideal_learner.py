"""Exact Bayes that may ask: how soon anybody at all could find a user's best member by comparisons of pairs.

    particles of the law of tastes ─> what each pair (and question) tells of who is best ─> two answers ─> a choice ─> weights of particles

It knows how tastes are distributed, how sharply people choose, and what every member would answer, and so bounds policy `learn`, which
knows none of this. What it looks at may be replaced by what a family sees, to tell what the heads' errors cost. Axis letters: `N`
particles, `P` prompts, `M` members, `G` answers, `Q` pairs of members, `U` users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.informative import pair_law
from demo.corpus.tastes import DEFAULT_SHARPNESS, choose, draw_users, utility
from demo.simulate import EPSILON, Arena

Array = NDArray[np.float64]


def ideal_learner(
    feedback: Arena,
    held_out: Arena,
    tastes: Array,
    *,
    seed: int,
    counts: Sequence[int],
    seen: tuple[Array, Array] | None = None,
    sharpness: float = DEFAULT_SHARPNESS,
    as_served: bool = False,
    learn_from: int = 1,
    particles: int = 3000,
) -> Array:
    """Returns `[U, n]` 1 where the member of the greatest expected utility is the truly best one, after so many comparisons.

    Args:
        feedback: where users compare.
        held_out: where the truly best member is the best.
        tastes: `[U, 6]` of the users.
        seed: of everything drawn.
        counts: numbers of comparisons, increasing.
        seen: what it takes for the manners of the answers of `feedback`, `[P, M, G, 6]`, and for those of each member, `[M, 6]`; None is
            the truth. With errors in them a choice says less, see `softened`.
        sharpness: of the users' choices.
        as_served: pairs are drawn by the law of policy `learn`; else the most informative one is asked.
        learn_from: how many prompts it may choose from for each comparison.
        particles: tastes that stand for all.
    """
    truth = held_out.scores.mean(axis=(0, 2))  # [M, 6]
    manners, worth = (feedback.scores, truth) if seen is None else seen
    scale = sharpness if seen is None else softened(sharpness, manners - feedback.scores)
    prior = draw_users(particles, seed + 1_000_003)
    values = prior @ worth.T  # [N, M]
    is_best = np.eye(values.shape[1])[np.argmax(values, axis=1)].T
    chances = _chances(scale * np.moveaxis(utility(prior, manners), -1, 0))
    rows, columns = np.triu_indices(len(worth), 1)
    found = np.zeros((len(tastes), len(counts)))
    for user, taste in enumerate(tastes):
        rng = np.random.default_rng([seed, user])
        order, logs = rng.permutation(len(manners)), np.zeros(particles)
        for count in range(max(counts) + 1):
            weights = np.exp(logs - logs.max())
            weights /= weights.sum()
            if count in counts:
                found[user, list(counts).index(count)] = float(np.argmax(weights @ values) == np.argmax(truth @ taste))
            if count == max(counts):
                break
            offered = order[np.arange(count * learn_from, (count + 1) * learn_from) % len(order)]
            told = np.array([told_of_the_best(weights * is_best, chances[:, prompt]) for prompt in offered])
            drawn = int(rng.choice(told.size, p=_law(told, len(worth)))) if as_served else int(np.argmax(told))
            prompt, pair = offered[drawn // told.shape[1]], drawn % told.shape[1]
            answers = rng.integers(manners.shape[2], size=2)
            shown = feedback.scores[prompt, [rows[pair], columns[pair]], answers]
            chance = chances[:, prompt, pair, answers[0], answers[1]].astype(np.float64)
            first = choose(rng, utility(taste, shown), sharpness) == 0
            logs += np.log(np.maximum(chance if first else 1.0 - chance, 1e-12))
    return found


def told_of_the_best(weights: Array, chances: NDArray[np.float32]) -> Array:
    """Returns what one comparison of each pair tells of who is best, `[Q]` nats: the mean over the answers that may be drawn.

    Args:
        weights: `[M, N]` of the particles, each in the row of the member that is best for it; they sum to 1.
        chances: `[N, Q, G, G]` probability that the first of a pair is preferred.
    """
    shares = weights.sum(axis=1)
    together = (weights.astype(np.float32) @ chances.reshape(len(chances), -1)).reshape(-1, *chances.shape[1:]).astype(np.float64)
    given = together / np.maximum(shares, 1e-12)[:, None, None, None]
    found: Array = (_entropy(together.sum(axis=0)) - np.einsum("m,mqgh->qgh", shares, _entropy(given))).mean(axis=(1, 2))
    return np.maximum(found, 0.0)


def softened(sharpness: float, errors: Array) -> float:
    """Returns how sharply people choose by manners that are seen with errors, `[..., 6]`: the probit approximation (MacKay 1992).

    The difference of two answers is off by `taste . (e_1 - e_2)`, which is taken for independent noise of the mean size over tastes.
    What all answers are off by cancels.
    """
    errors = errors - errors.reshape(-1, errors.shape[-1]).mean(axis=0)
    size = float(np.mean(np.sum(draw_users(4000, 0) ** 2, axis=1)))
    return sharpness / math.sqrt(1.0 + math.pi / 8.0 * sharpness**2 * 2.0 * float(np.mean(errors**2)) * size)


def _chances(logits: Array) -> NDArray[np.float32]:
    """Returns `[N, P, Q, G, G]` from `[N, P, M, G]`, in single precision: it is the large one."""
    rows, columns = np.triu_indices(logits.shape[2], 1)
    small = logits.astype(np.float32)
    chances: NDArray[np.float32] = np.exp(-np.logaddexp(np.float32(0.0), small[:, :, columns, None, :] - small[:, :, rows, :, None]))
    return chances


def _law(told: Array, members: int) -> Array:
    """Returns the law of prompts and pairs `[P Q]` that policy `learn` draws from, where it is told `[P, Q]`."""
    rows, columns = np.triu_indices(members, 1)
    information = np.zeros((len(told), members, members))
    information[:, rows, columns] = information[:, columns, rows] = told
    law = 2.0 * pair_law(information, EPSILON)[:, rows, columns].ravel()
    return np.asarray(law / law.sum())


def _entropy(probability: Array) -> Array:
    inside = np.clip(probability, 1e-12, 1.0 - 1e-12)
    found: Array = -inside * np.log(inside) - (1.0 - inside) * np.log1p(-inside)
    return found
