"""Who is trained on and who is measured: strangers whom training never met, and regulars on what was held back from them.

users ─┬─ test users ─> unseen: context, targets
       ├─ validation users ─> stop the training
       └─ training users ─┬─ most of what they told ─> training; the first of it is the context of "seen"
                          └─ held-out prompts (or pairs, where there is one prompt) ─> targets of "seen"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.data.splits import SplitInvalid, draw, prompt_keys, split
from attune.models.measuring.families.fewshot import cut

FRACTIONS = (2 / 3, 2 / 15, 1 / 5)
"""Users in train, validation and test: a fifth is kept for testing, a sixth of the others stops the training."""

HELD_PROMPTS, HELD_PAIRS = 0.2, 0.15


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One data set cut for one seed.

    Attributes:
        train, validation: what trainers see.
        unseen: context and targets of users who are in neither.
        seen: context and targets of training users; the context is a part of `train`, the targets are not.
        held_by: whether the targets of `seen` are on other prompts than `train`, or merely other pairs.
    """

    train: Comparisons
    validation: Comparisons
    unseen: tuple[Comparisons, Comparisons]
    seen: tuple[Comparisons, Comparisons]
    held_by: Literal["prompts", "pairs"]


def hold_out(
    comparisons: Comparisons, *, seed: int, context: int = 20, targets: int = 20, per_user: int | None = None, texts_apart: bool = False
) -> HeldOut:
    """Returns the parts of `comparisons` for one seed.

    Args:
        comparisons: of users with ids.
        seed: of everything drawn.
        context: most comparisons that a measured user tells.
        targets: most that are predicted per user.
        per_user: most comparisons of one user in training and validation; None takes all.
        texts_apart: see `cut`; it concerns `unseen` alone.

    Raises:
        SplitInvalid: there are too few users.
    """
    parts = split(comparisons, "user", FRACTIONS, seed=seed)
    rng = np.random.default_rng([seed, 1])
    prompts = np.unique(prompt_keys(comparisons))
    by_prompt = len(prompts) >= 1 / HELD_PROMPTS
    if by_prompt:
        kept_prompts, _ = draw(prompts, (1 - HELD_PROMPTS, HELD_PROMPTS), seed=seed, what="prompt")
        told = np.isin(prompt_keys(parts.train), kept_prompts)
        validation = parts.validation.take(np.isin(prompt_keys(parts.validation), kept_prompts))
    else:
        told, validation = _told_pairs(parts.train, rng), parts.validation
    train, held = parts.train.take(told), parts.train.take(~told & ~parts.train.tie)
    train, validation = (_at_most(part, per_user, rng) for part in (train, validation))
    return HeldOut(
        train,
        validation,
        cut(parts.test, context=context, targets=targets, seed=seed, texts_apart=texts_apart),
        (_at_most(train.take(~train.tie), context, rng), _at_most(held, targets, rng)),
        "prompts" if by_prompt else "pairs",
    )


def all_but_validation(comparisons: Comparisons, *, seed: int) -> tuple[Comparisons, Comparisons]:
    """Returns what the families that are kept learn from, and the choices of validation people (or prompts, of few people).

    Raises:
        SplitInvalid: there is but one comparison.
    """
    for by in ("user", "prompt"):
        try:
            parts = split(comparisons, by, FRACTIONS, seed=seed)
        except SplitInvalid:
            continue
        return parts.train.join(parts.test), parts.validation
    rows = np.random.default_rng(seed).permutation(len(comparisons))
    validation, train = np.sort(rows[: max(1, len(rows) // 5)]), np.sort(rows[max(1, len(rows) // 5) :])
    if not len(train):
        raise SplitInvalid(f"{len(comparisons)} comparison is too few: one is learned from and another one says when to stop")
    return comparisons.take(train), comparisons.take(validation)


def _told_pairs(comparisons: Comparisons, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Returns a mask of what training may see: all but some pairs of every user; a pair judged twice is on one side."""
    low, high = np.minimum(comparisons.chosen, comparisons.rejected), np.maximum(comparisons.chosen, comparisons.rejected)
    _, pair = np.unique(np.column_stack([comparisons.user, low, high]), axis=0, return_inverse=True)
    told: NDArray[np.bool_] = (rng.random(int(pair.max()) + 1) >= HELD_PAIRS)[pair.ravel()]
    return told


def _at_most(comparisons: Comparisons, most: int | None, rng: np.random.Generator) -> Comparisons:
    """Returns at most so many comparisons of every user, in a random order."""
    if not len(comparisons):
        return comparisons
    rows = [rng.permutation(mine)[:most] for mine in comparisons.rows_of_users().values()]
    return comparisons.take(np.concatenate(rows))
