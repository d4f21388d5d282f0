"""Questions about none of the topics: what an honest model says of them is that it does not know.

    content/outside.json: templates x nouns of a group, whole questions, made-up words ─> outside_question(rng)

A fifth of the templates, nouns and whole questions is held out by the content alone. A held-out question has a noun that
training never shows, in any template: most of them are also asked about the topics. Knows nothing of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from demo.corpus.bank import load, rank

_HELD_OUT: Final = 5  # one of so many
_WHOLE, _MADE_UP = 0.1, 0.15  # shares of the questions that are whole sentences, and that ask for something that does not exist
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


@dataclass(frozen=True, slots=True)
class Questions:
    """Whole questions, and groups of templates (each with one blank) and of the nouns that fit them."""

    whole: tuple[str, ...]
    groups: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


def outside_question(rng: np.random.Generator, *, held_out: bool = False) -> str:
    """Returns a question about none of the topics: groups, templates and nouns are drawn evenly.

    Args:
        rng: the only source of chance.
        held_out: whether it is a whole question, or one with a noun, that training never shows.
    """
    asked = questions(held_out=held_out)
    if rng.random() < _WHOLE:
        return _one(asked.whole, rng)
    templates, nouns = asked.groups[int(rng.integers(len(asked.groups)))]
    noun = made_up_word(rng) if not held_out and rng.random() < _MADE_UP else _one(nouns, rng)
    text = _one(templates, rng).format(noun)
    return text[0].upper() + text[1:]


@cache
def questions(*, held_out: bool) -> Questions:
    """Returns what questions are made of: the part that is held out, or all the rest."""
    content = load("outside")
    groups = content["groups"].values()
    templates = [tuple(group["templates"]) if held_out else _part(group["templates"], held_out) for group in groups]
    return Questions(
        _part(content["whole"], held_out), tuple(zip(templates, [_part(group["nouns"], held_out) for group in groups], strict=True))
    )


def made_up_word(rng: np.random.Generator) -> str:
    """Returns two or three syllables that name nothing."""
    return "".join(_one(_CONSONANTS, rng) + _one(_VOWELS, rng) + _one(("", *_CONSONANTS), rng) for _ in range(int(rng.integers(2, 4))))


def _part(texts: Sequence[str], held_out: bool) -> tuple[str, ...]:  # noqa: FBT001  passed on as it came
    left_out = set(sorted(texts, key=lambda text: rank("outside", text))[: len(texts) // _HELD_OUT])
    return tuple(text for text in texts if (text in left_out) == held_out)


def _one(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
