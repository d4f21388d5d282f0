"""Which pairs of one user's rated answers to one prompt are compared: all of them, or a fair sample where there are too many.

A sample is drawn from all pairs alike, with a seed of the user and the prompt: it does not depend on the order of other rows, and
no answer is in more pairs because it came first.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of positions, the better answer first; `possible` could have been made, `equal` are of like ratings or the same text."""

    chosen: tuple[tuple[int, int], ...]
    possible: int
    equal: int


def pair_up(ratings: Sequence[float], texts: Sequence[str], *, least_gap: float, most: int, seed: str) -> Pairs:
    """Returns at most `most` pairs of answers whose ratings differ by more than `least_gap` and whose texts differ.

    Args:
        ratings: of each answer.
        texts: of each answer.
        least_gap: not below 0.
        most: pairs; all that are possible where there are no more.
        seed: of the sample.
    """
    count = len(ratings)
    order = sorted(range(count), key=lambda index: (ratings[index], index))
    ascending = [ratings[index] for index in order]
    # Partners of the answer at place p are the places from `first[p]` on: what is rated higher by more than the gap.
    first = [_first_above(ascending, place, least_gap) for place in range(count)]
    ends = list(accumulate(count - start for start in first))
    ranked = ends[-1] if ends else 0
    twins = _same_text_pairs(ratings, texts, least_gap)
    possible = ranked - twins
    if possible <= most:
        ranks: Sequence[int] = range(ranked)
    else:
        # So many more that what is left after equal texts went is enough; the first `most` of a random order are a fair sample.
        ranks = random.Random(seed).sample(range(ranked), min(ranked, most + twins))
    found: list[tuple[int, int]] = []
    for rank in ranks:
        place = bisect_right(ends, rank)
        better = order[first[place] + rank - (ends[place - 1] if place else 0)]
        if texts[better] != texts[order[place]]:
            found.append((better, order[place]))
        if len(found) == most:
            break
    found.sort(key=lambda pair: (min(pair), max(pair)))
    return Pairs(tuple(found), possible, count * (count - 1) // 2 - possible)


def _first_above(ascending: Sequence[float], place: int, gap: float) -> int:
    """Returns the first place whose rating is above that of `place` by more than `gap`, by the difference that is asked for."""
    low, high = place + 1, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] - ascending[place] > gap:
            high = middle
        else:
            low = middle + 1
    return low


def _same_text_pairs(ratings: Sequence[float], texts: Sequence[str], least_gap: float) -> int:
    """Returns how many pairs of one text with itself differ in rating by more than the gap."""
    repeated = {text for text, times in Counter(texts).items() if times > 1}
    if not repeated:
        return 0
    of_text: dict[str, list[float]] = {text: [] for text in repeated}
    for rating, text in zip(ratings, texts, strict=True):
        if text in repeated:
            of_text[text].append(rating)
    total = 0
    for values in of_text.values():
        ascending = sorted(values)
        total += sum(len(ascending) - _first_above(ascending, place, least_gap) for place in range(len(ascending)))
    return total
