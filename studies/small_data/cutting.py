"""Real sets cut to the size that a new deployment has: so many comparisons of training and validation people, others for the test.

Where a set has enough people, people are kept apart; where labels are by a handful of raters or objectives, prompts are. Nothing
of the test is looked at before the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from studies.families.public_sets import read_jester, read_ukpconvarg
from studies.sparserm.labelled_sets import read_hidden_context, read_summeval_op

Apart = Literal["people", "prompts"]

VALIDATION = 0.2
"""Share of the cut that chooses strengths and stops trainings."""


@dataclass(frozen=True, slots=True)
class SmallSet:
    """One set: how it is read from its folder, and what is kept apart.

    Attributes:
        folder: below the folder of data sets.
        apart: what training and test do not share.
        per_person: most comparisons of one person.
        read: the comparisons.
    """

    folder: str
    apart: Apart
    per_person: int
    read: Callable[[Path], Comparisons]


SETS: Mapping[str, SmallSet] = {
    "jester": SmallSet("jester5k", "people", 30, lambda folder: read_jester(folder, per_user=60, users=1500)),
    "ukpconvarg1": SmallSet("ukpconvarg1", "people", 12, lambda folder: read_ukpconvarg(folder, least_decided=10)),
    "helpful": SmallSet("hidden_context_hh", "prompts", 4000, lambda folder: read_hidden_context(folder, ["helpful"])),
    "summeval": SmallSet("summeval_op", "prompts", 4000, lambda folder: read_summeval_op(folder, raters=True)),
}


@dataclass(frozen=True, slots=True)
class Cut:
    """Training, validation and test of one size and seed; `test` is in an order of its own for every person."""

    train: Comparisons
    validation: Comparisons
    test: Comparisons


def cut(comparisons: Comparisons, small: SmallSet, *, size: int, seed: int, most_tested: int) -> Cut:
    """Returns the set cut to about `size` comparisons for training and validation together.

    Args:
        comparisons: the whole set.
        small: what it is.
        size: comparisons in all; whole people (or prompts) are taken until there are as many.
        seed: of the order in which they are taken.
        most_tested: people (or prompts) in the test, at most.

    Raises:
        ValueError: nothing is left for the test.
    """
    rng = np.random.default_rng(seed)
    groups = comparisons.user if small.apart == "people" else comparisons.prompt
    kept = np.concatenate([rng.permutation(mine)[: small.per_person] for mine in comparisons.rows_of_users().values()])
    if small.apart == "prompts":  # a set with a few long prompts is cut within them too
        kept = _thinned(kept, groups, size, rng)
    order = rng.permutation(np.unique(groups[kept]))
    counts = np.bincount(groups[kept], minlength=int(groups.max()) + 1)[order]
    used = int(np.searchsorted(np.cumsum(counts), size)) + 1
    least = int(np.ceil(VALIDATION * used))
    parts = order[least:used], order[:least], order[used : used + most_tested]
    if not all(len(part) for part in parts):
        raise ValueError(f"{size} of {len(kept)} comparisons leave {len(order) - used} of {len(order)} {small.apart} for the test")
    train, validation, test = (comparisons.take(kept[np.isin(groups[kept], part)]) for part in parts)
    return Cut(train, validation, test.take(~test.tie))


def _thinned(kept: NDArray[np.int64], groups: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns `kept` with no more of one prompt than leaves a third of the prompts for the test."""
    shuffled = rng.permutation(kept)
    prompts = len(np.unique(groups[kept]))
    most = max(1, int(np.ceil(1.5 * size / prompts)))
    rank = np.zeros(len(shuffled), dtype=np.int64)
    seen: dict[int, int] = {}
    for index, group in enumerate(groups[shuffled].tolist()):
        rank[index] = seen.get(group, 0)
        seen[group] = seen.get(group, 0) + 1
    return shuffled[rank < most]
