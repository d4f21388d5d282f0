"""Plain features of how a text is written, without a trunk: what any head must beat, and a check on what it has learned.

Counts go in as logarithms or shares, so that one long text does not outweigh the others. `N` texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FEATURES = (
    "length",
    "sentences",
    "words a sentence",
    "letters a word",
    "different words",
    "commas",
    "questions",
    "exclamations",
    "digits",
    "capitals",
    "lines",
    "list items",
    "first person",
)
"""Names of the columns, in order; the first is the logarithm of the number of words."""

_SENTENCE = re.compile(r"[.!?]+(?:\s|$)")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_FIRST_PERSON = frozenset({"i", "me", "my", "mine", "we", "us", "our", "i'm", "i've", "i'd", "i'll"})


def style_features(texts: Sequence[str]) -> NDArray[np.float32]:
    """Returns `[N, 13]`, see `FEATURES`."""
    return np.array([_of(text) for text in texts], dtype=np.float32).reshape(len(texts), len(FEATURES))


def _of(text: str) -> list[float]:
    words = text.split()
    count = max(1, len(words))
    sentences = max(1, len(_SENTENCE.findall(text)))
    letters = sum(map(str.isalpha, text))
    lower = [word.strip(".,;:!?\"'()").lower() for word in words]
    return [
        float(np.log1p(len(words))),
        float(np.log1p(sentences)),
        float(np.log1p(count / sentences)),
        letters / count,
        len(set(lower)) / count,
        text.count(",") / count,
        text.count("?") / sentences,
        text.count("!") / sentences,
        sum(map(str.isdigit, text)) / max(1, len(text)),
        sum(map(str.isupper, text)) / max(1, letters),
        float(np.log1p(text.count("\n"))),
        float(np.log1p(len(_LIST_ITEM.findall(text)))),
        sum(word in _FIRST_PERSON for word in lower) / count,
    ]
