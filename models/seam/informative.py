"""Pairs that tell most: which two members to show when the aim is to learn, with logged probabilities as ever (reconstruction).

Of a pair, what one comparison is expected to tell of who is best for this user: `I = H(p) - sum_m q_m H(p_m)` nats, with `p` the
probability that the first is preferred, `q_m` that member `m` is best, and `p_m` the first given the second. All are shares and means over
the joint samples of weights and members' values, so an uncertain member is asked about too. (Lindley 1956; of the decision and not of
every parameter, as in Russo and Van Roy 2018.) `S` samples, `M` members.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.hedge import sigmoid
from attune.models.seam.routing import Choice, next_law

Array = NDArray[np.float64]

SOFTNESS = 0.03
"""Share of the greatest information by which a pair must be behind for its probability to fall by a factor e."""

EXPLORING = 0.25
"""The same where the law explores. Of five questions a uniform one of every twenty costs more right members than anything else that the law
does (models/LOG.md); so no pair falls below `exp(-4)` of its share of the exploration, and most of it goes where something can be told."""


def pair_information(sampled: Array, logit_scale: float) -> Array:
    """Returns what a comparison of each two members is expected to tell of who is best, `[M, M]` nats, symmetric, 0 on the diagonal.

    Args:
        sampled: `[S, M]` values under joint posterior samples.
        logit_scale: turns differences of values into logits of a choice.
    """
    best = np.eye(sampled.shape[1])[np.argmax(sampled, axis=1)]
    probabilities = np.asarray(sigmoid(logit_scale * (sampled[:, :, None] - sampled[:, None, :])))  # [S, M, M]
    shares = best.mean(axis=0)
    given = np.einsum("sm,sab->mab", best, probabilities) / np.maximum(best.sum(axis=0), 1.0)[:, None, None]
    information = _entropy(probabilities.mean(axis=0)) - np.einsum("m,mab->ab", shares, _entropy(given))
    np.fill_diagonal(information, 0.0)
    found: Array = np.maximum(information, 0.0)
    return 0.5 * (found + found.T)


def pair_law(information: Array, epsilon: float) -> Array:
    """Returns the distribution of ordered pairs `[M, M]`: softmax over pairs, mixed with a much flatter one, each order of a pair alike.

    `(1 - epsilon) softmax(I / (SOFTNESS max I)) + epsilon softmax(I / (EXPLORING max I))`; where nothing can be told, uniform.

    Args:
        information: `[M, M]`, see `pair_information`; at least two members. Or `[P, M, M]` under each of several prompts: then the law is
            of prompts and pairs together.
        epsilon: exploration in [0, 1].
    """
    rows, columns = np.triu_indices(information.shape[-1], 1)
    told = information[..., rows, columns]
    shares = (1.0 - epsilon) * _softened(told, SOFTNESS) + epsilon * _softened(told, EXPLORING)
    law = np.zeros_like(information)
    law[..., rows, columns] = law[..., columns, rows] = 0.5 * shares
    return law


def choose_prompt(information: Array, *, epsilon: float, rng: np.random.Generator) -> tuple[int, Array, Array]:
    """Returns a prompt drawn by `pair_law` of prompts and pairs together, the distribution of prompts `[P]`, and that of pairs given it.

    Args:
        information: `[P, M, M]` under each prompt; of one member alone the prompt is drawn uniformly.
        epsilon: exploration in [0, 1].
        rng: source of the draw.
    """
    prompts, members = information.shape[:2]
    together = pair_law(information, epsilon) if members > 1 else np.full(information.shape, 1.0 / prompts)
    law = together.sum(axis=(1, 2))
    law = law / law.sum()
    drawn = int(rng.choice(prompts, p=law))
    return drawn, law, together[drawn] / together[drawn].sum()


def choose_to_learn(
    sampled: Array, *, count: int, epsilon: float, rng: np.random.Generator, logit_scale: float, mean: Array, pairs: Array | None = None
) -> Choice:
    """Returns members drawn by `pair_law`: two of them a pair, one the first of a pair, further ones by what is left of the first's law.

    Args:
        sampled: `[S, M]` utilities under joint samples.
        count: how many, 1..M.
        epsilon: exploration, [0, 1].
        rng: source of the draw.
        logit_scale: see `pair_information`.
        mean: `[M]` expected values, for the choice.
        pairs: `[M, M]` the distribution of pairs, where the prompt was drawn with them (`choose_prompt`); else it is computed here.

    Raises:
        ValueError: `count` is not within 1..M.
    """
    members = sampled.shape[1]
    if not 1 <= count <= members:
        raise ValueError(f"count is {count}; there are {members} members")
    std = np.std(sampled, axis=0)
    if members == 1:
        return Choice((0,), np.ones(1), 1.0, 1.0, mean, std)
    pairs = pair_law(pair_information(sampled, logit_scale), epsilon) if pairs is None else pairs
    first = pairs.sum(axis=1)
    order, joint = [int(rng.choice(members, p=first))], 1.0
    joint *= float(first[order[0]])
    while len(order) < count:
        law = pairs[order[0]] / first[order[0]] if len(order) == 1 else next_law(first, mean, tuple(order))
        order.append(int(rng.choice(members, p=law)))
        joint *= float(law[order[-1]])
    return Choice(tuple(order), first, float(first[order[0]]), joint, mean, std)


def _softened(told: Array, softness: float) -> Array:
    raised = np.exp((told - told.max()) / max(softness * float(told.max()), 1e-12))
    shares: Array = raised / raised.sum()
    return shares


def _entropy(probability: Array) -> Array:
    inside = np.clip(probability, 1e-12, 1.0 - 1e-12)
    found: Array = -inside * np.log(inside) - (1.0 - inside) * np.log1p(-inside)
    return found
