"""Comparisons by simulated users over the answers of a pool: what the demo's heads are trained on and measured with.

A user sees two answers to one prompt and picks one by a utility that only the simulation knows. Axis letters: `U` users,
`N` answers of the pool.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons, Texts
from demo.corpus.tastes import DEFAULT_SHARPNESS

Array = NDArray[np.float64]
Choose = Callable[[np.random.Generator, Array], NDArray[np.bool_]]
"""Gaps in utility `[C]` of the first to the second answer -> whether the first is chosen."""


def bradley_terry_choice(sharpness: float = DEFAULT_SHARPNESS) -> Choose:
    """Returns choices with `P(first) = sigma(sharpness * gap)`."""
    return lambda rng, gaps: rng.random(len(gaps)) < 1.0 / (1.0 + np.exp(-sharpness * gaps))


def flipped_choice(noise: float) -> Choose:
    """Returns choices of the better answer, turned round with probability `noise`."""
    return lambda rng, gaps: (gaps > 0) ^ (rng.random(len(gaps)) < noise)


def draw_comparisons(
    texts: Texts,
    utilities: Array,
    *,
    per_user: int,
    choose: Choose,
    seed: int,
    prompts: NDArray[np.int64] | None = None,
    least_gap: float = 0.0,
    name: str = "user",
) -> Comparisons:
    """Returns `per_user` comparisons of every user, between two different answers to a prompt.

    Args:
        texts: the answers; at least two different ones for every prompt.
        utilities: `[N, U]` how much each user likes each answer.
        per_user: comparisons a user.
        choose: how a user picks.
        seed: of everything drawn.
        prompts: indices of the prompts to ask; all if None.
        least_gap: pairs whose utilities are closer are not asked.
        name: prefix of the users' names.

    Raises:
        ValueError: hardly any pair is far enough apart in utility.
    """
    rng = np.random.default_rng(seed)
    prompts = np.arange(len(texts.prompts)) if prompts is None else prompts
    index = {prompt: row for row, (prompt, _) in enumerate(texts.prompts)}
    answers: list[list[int]] = [[] for _ in texts.prompts]
    for row, (prompt, _) in enumerate(texts.candidates):
        answers[index[prompt]].append(row)
    # Answers as numbers by text: two draws of the grammar may agree word for word, and nobody can prefer a text to itself.
    numbers: dict[tuple[str, str], int] = {}
    text = np.array([numbers.setdefault(candidate, len(numbers)) for candidate in texts.candidates])
    users = utilities.shape[1]
    found: list[NDArray[np.int64]] = []
    wanted = np.repeat(np.arange(users), per_user)
    for _ in range(200):
        if not len(wanted):
            break
        asked = rng.choice(prompts, size=len(wanted))
        pairs = np.array([rng.choice(answers[prompt], size=2, replace=False) for prompt in asked])
        gaps = utilities[pairs[:, 0], wanted] - utilities[pairs[:, 1], wanted]
        kept = (text[pairs[:, 0]] != text[pairs[:, 1]]) & (np.abs(gaps) >= least_gap)
        found.append(np.column_stack([wanted, asked, pairs])[kept])
        wanted = wanted[~kept]
    else:
        raise ValueError(f"{len(wanted)} of the comparisons found no pair at least {least_gap} apart in utility")
    user, prompt, first, second = np.concatenate(found).T
    first_wins = choose(rng, utilities[first, user] - utilities[second, user])
    count = len(user)
    order = np.argsort(user, kind="stable")
    return Comparisons(
        texts,
        tuple(f"{name}-{number}" for number in range(users)),
        user[order],
        prompt[order],
        np.where(first_wins, first, second)[order],
        np.where(first_wins, second, first)[order],
        np.zeros(count, dtype=np.bool_),
        np.ones(count),
        np.full(count, np.nan),
    )
