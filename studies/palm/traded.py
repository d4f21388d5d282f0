"""Rewards that can be traded: deterministic functions of an answer's text in [0, 1], continuous in what they count.

    text ─> words, sentences, syllables ─> brevity, substance, short sentences, readability, variety

Every answer has some of each, and an answer between two others has something between: unlike manners, of which a text shows one.
Letters: `N` answers, `d` rewards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.base_answers import Rewards

Array = NDArray[np.float64]

BREVITY, SUBSTANCE, SHORT, READABLE, VARIETY = "brevity", "substance", "short_sentences", "readability", "variety"
TRADED: Final = (BREVITY, SUBSTANCE, SHORT, READABLE, VARIETY)

SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "three": (BREVITY, SUBSTANCE, SHORT),
    "three with readability": (BREVITY, SUBSTANCE, READABLE),
    "four": (BREVITY, SUBSTANCE, SHORT, VARIETY),
    "four with readability": (BREVITY, SUBSTANCE, SHORT, READABLE),
}

_WORD = re.compile(r"\w+(?:['’-]\w+)*")  # noqa: RUF001  the typographic apostrophe is meant
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_VOWELS = re.compile(r"[aeiouy]+")

_BRIEF_WORDS, _LONG_WORDS = 30, 120  # up to the first nothing is lost, at the second everything
_CONTENT_LETTERS, _CONTENT_WORDS = 5, 6  # a word of so many letters says something; of so many different ones 1 - 1/e is said
_SHORT_SENTENCE, _LONG_SENTENCE = 5, 30
_FLESCH: Final = (206.835, 1.015, 84.6)  # reading ease (Flesch 1948): constant, per word of a sentence, per syllable of a word


def traded_scores(text: str) -> Array:
    """Returns `[5]` rewards of `text` in [0, 1], in the order of TRADED; an answer without a word has 0 of each."""
    words = [word.lower() for word in _WORD.findall(text)]
    if not words:
        return np.zeros(len(TRADED))
    sentences = max(1, sum(bool(_WORD.search(part)) for part in _SENTENCE_END.split(text)))
    told = len({word for word in words if len(word) >= _CONTENT_LETTERS})
    length = len(words) / sentences
    constant, of_length, of_syllables = _FLESCH
    ease = constant - of_length * length - of_syllables * sum(map(_syllables, words)) / len(words)
    scores = {
        BREVITY: (_LONG_WORDS - len(words)) / (_LONG_WORDS - _BRIEF_WORDS),
        SUBSTANCE: 1.0 - np.exp(-told / _CONTENT_WORDS),
        SHORT: (_LONG_SENTENCE - length) / (_LONG_SENTENCE - _SHORT_SENTENCE),
        READABLE: ease / 100.0,
        VARIETY: len(set(words)) / len(words),
    }
    return np.array([scores[name] for name in TRADED]).clip(0.0, 1.0)


def traded_rewards(names: Sequence[str]) -> Rewards:
    """Returns some of TRADED as reward functions of answers.

    Raises:
        ValueError: a name is none of them.
    """
    places = [TRADED.index(name) for name in names]

    def score(_prompts: Sequence[str], responses: Sequence[str]) -> Array:
        return np.array([traded_scores(text) for text in responses]).reshape(len(responses), len(TRADED))[:, places]

    return Rewards(tuple(names), score)


def _syllables(word: str) -> int:
    groups = len(_VOWELS.findall(word))
    silent = groups > 1 and word.endswith("e") and not word.endswith("le")
    return max(1, groups - silent)
