"""So many people who are known, and strangers beside them: raters of jokes, and planted tastes for real arguments.

The planted ones choose between two arguments on one topic by how these are written, with logistic noise. Nothing that learns is
told which tastes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparison, Comparisons
from studies.families.public_sets import read_jester, read_ukpconvarg

Array = NDArray[np.float64]
Taste = Callable[[str], float]

EACH = 30
"""Comparisons of one person; strangers tell the first `TOLD` of them and are predicted on the others."""

TOLD = 20
VALIDATION = 0.2
NOISE = 0.5
MOST_CHARACTERS = 400
"""Of a planted argument: longer ones are cut by no trunk, but all would be chosen by their length."""

FIRST_PERSON = (" i ", " my ", " we ", " me ")


@dataclass(frozen=True, slots=True)
class KnownPeople:
    """Training and validation people, and what strangers tell and are asked; all four share a table of texts."""

    train: Comparisons
    validation: Comparisons
    context: Comparisons
    targets: Comparisons


def longer(text: str) -> float:
    """Returns how much somebody likes the text who likes long ones."""
    return 2.5 * (float(np.log(len(text))) - 5.2)


def asking(text: str) -> float:
    """Returns how much somebody likes the text who likes questions and exclamations."""
    return 6.0 * ("?" in text) + 3.0 * ("!" in text)


def speaking(text: str) -> float:
    """Returns how much somebody likes the text who likes those that speak of their author."""
    return 4.5 * sum(text.lower().count(word) for word in FIRST_PERSON) / (1.0 + len(text) / 120.0)


TASTES: Mapping[str, Sequence[Taste]] = {
    "opposed": (longer, lambda text: -longer(text)),
    "three": (lambda text: 1.5 * longer(text), asking, speaking),
    "alike": (longer,),
}
JESTER = "jester"
WORLDS = (JESTER, *TASTES)


def known_people(world: str, folder: Path, *, known: int, strangers: int, seed: int) -> KnownPeople:
    """Returns one draw of a world.

    Args:
        world: one of `WORLDS`.
        folder: with `jester5k` and `ukpconvarg1`.
        known: people who are trained on and who judge, a fifth of them the latter.
        strangers: others.
        seed: draws people and what they compare.
    """
    people = known + strangers
    rows: Iterable[Comparison]
    if world == JESTER:
        rows = read_jester(folder / "jester5k", per_user=EACH, users=people, seed=seed).records()
    else:
        rows = planted(arguments(folder / "ukpconvarg1"), TASTES[world], people, seed)
    return parted(Comparisons.from_records(rows), known)


def parted(everybody: Comparisons, known: int) -> KnownPeople:
    """Returns the first `known` people, the first fifth of them apart, and the others as strangers."""
    last = round(known * VALIDATION)
    rank = np.zeros(len(everybody), dtype=np.int64)
    for mine in everybody.rows_of_users().values():
        rank[mine] = np.arange(len(mine))
    unknown = everybody.user >= known
    parts = ((everybody.user >= last) & ~unknown, everybody.user < last, unknown & (rank < TOLD), unknown & (rank >= TOLD))
    return KnownPeople(*(everybody.take(part) for part in parts))


def arguments(folder: Path) -> dict[str, list[str]]:
    """Returns the short arguments on each topic that has eight or more."""
    of_topic: dict[str, dict[str, None]] = {}
    for prompt, text in read_ukpconvarg(folder, least_decided=1).texts.candidates:
        if len(text) < MOST_CHARACTERS:
            of_topic.setdefault(prompt, {})[text] = None
    return {topic: [*texts] for topic, texts in sorted(of_topic.items()) if len(texts) >= 8}


def planted(texts: Mapping[str, Sequence[str]], tastes: Sequence[Taste], people: int, seed: int) -> list[Comparison]:
    """Returns choices of people who have the tastes in turn."""
    rng = np.random.default_rng(seed)
    topics = [*texts]
    rows = []
    for person in range(people):
        taste = tastes[person % len(tastes)]
        asked: set[frozenset[str]] = set()
        while len(asked) < EACH:
            topic = topics[rng.integers(len(topics))]
            one, two = (texts[topic][index] for index in rng.choice(len(texts[topic]), 2, replace=False))
            if frozenset((one, two)) in asked:
                continue
            asked.add(frozenset((one, two)))
            wins = taste(one) - taste(two) + NOISE * rng.logistic() > 0
            rows.append(Comparison(f"p{person}", topic, one if wins else two, two if wins else one))
    return rows
