"""The small grammar that turns a topic's clauses into an answer.

A skeleton is a line of text with two kinds of blanks: `{core}` takes a clause of the topic (`{Core}` with a capital),
`<open>` takes one phrase of the manner's list of that name, which may hold blanks of its own. Blanks of one kind in one
skeleton take different clauses, in the order of the content, because the points of a recipe are steps.
Knows nothing of prompts, manners or splits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_PHRASE = re.compile(r"<(\w+)>")
_CLAUSE = re.compile(r"\{(\w)(\w*)\}")


def realise(
    skeletons: Sequence[str], grammar: Mapping[str, Any], mood: str, clauses: Mapping[str, tuple[str, ...]], rng: np.random.Generator
) -> str:
    """Returns one text: a skeleton drawn evenly, its phrases and clauses drawn evenly and put in.

    Args:
        skeletons: the lines to draw from.
        grammar: the manner's phrase lists by name; a list may differ by mood, then it is a mapping from mood to list.
        mood: selects such lists.
        clauses: the clauses of each kind.
        rng: the only source of chance.

    Raises:
        ValueError: a skeleton asks for more clauses of a kind than the topic has.
    """
    text = _PHRASE.sub(lambda blank: _phrase(grammar[blank[1]], mood, rng), skeletons[int(rng.integers(len(skeletons)))])
    wanted: dict[str, int] = {}
    for blank in _CLAUSE.finditer(text):
        kind = (blank[1] + blank[2]).lower()
        wanted[kind] = wanted.get(kind, 0) + 1
    drawn = {kind: iter(_draw(kind, clauses[kind], count, rng)) for kind, count in wanted.items()}

    def put_in(blank: re.Match[str]) -> str:
        kind = (blank[1] + blank[2]).lower()
        clause = clauses[kind][0] if kind == "about" else next(drawn[kind])
        return clause[0].upper() + clause[1:] if blank[1].isupper() else clause

    return _CLAUSE.sub(put_in, text)


def _phrase(phrases: Any, mood: str, rng: np.random.Generator) -> str:
    choices: Sequence[str] = phrases[mood] if isinstance(phrases, Mapping) else phrases
    return choices[int(rng.integers(len(choices)))]


def _draw(kind: str, choices: tuple[str, ...], count: int, rng: np.random.Generator) -> list[str]:
    if kind == "about":
        return []
    if count > len(choices):
        raise ValueError(f"a skeleton asks for {count} clauses of kind {kind!r}; the topic has {len(choices)}")
    return [choices[i] for i in sorted(rng.choice(len(choices), count, replace=False))]
