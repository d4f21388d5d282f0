"""Ground truth for the demo and the simulator: how strongly a text shows each manner, and users who care.

    text ─> manner_scores [6] in [0, 1];  draw_users ─> weights [U, 6];  weights · scores = utility;  choose = Bradley-Terry

The measure is a rule that a person can check by hand: words are counted for concise and detailed, signs from a short
list for the other four. It sees nothing but the text, so it judges the language model's own answers as well as the
generated ones. A user's taste is a point on the simplex over the six manners.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from demo.corpus.texts import MANNERS

DEFAULT_CONCENTRATION: Final = 0.3
DEFAULT_SHARPNESS: Final = 38.0  # 10 % of choices between two random manners go against the taste; most of those are near-ties

# Words at which the two length scores are full and empty. Linear in between: 14 words are fully concise, 56 fully detailed.
_CONCISE_FULL, _CONCISE_EMPTY = 14, 26
_DETAILED_EMPTY, _DETAILED_FULL = 44, 56
_FULL_SIGNS = 3  # so many signs of a manner score 1

# The signs of the four other manners, whole words and phrases parted by "|", whatever their case.
_PLAYFUL = (
    "ooh|woohoo|yippee|wheee|psst|ha|hip hip|hooray|drum roll|oh boy|ta-da|voilà|tickety-boo|confetti|party|superstar|wink|boom|"
    "yum|giggle|beep boop|silly|cheeky|easy peasy"
)
_FORMAL = (
    "should|is to be|are to be|be noted|be observed|be stated|be maintained|be preferred|be selected|be avoided|be scheduled|"
    "is known|are known|one should|one would|one remains|it is also to be|it is advisable|it is customary|in addition, it|"
    "furthermore|moreover|with regard to|concerning|enquiry|enquire|kindly|assistance|advisable|recommended|thank you for|"
    "gratefully|appreciated|visitors|the following|as follows|upon|thereby|of general interest|at your disposal"
)
_CAUTIOUS = (
    "may|might|maybe|perhaps|possibly|probably|could|it depends|i am not|unsure|seem|seems|appears|as far as i|most likely|"
    "if in doubt|double-check|careful|caution|safe|differ|though|although|however|keep in mind|bear in mind|wrong"
)
_BOLD = (
    "no doubt|trust me|without question|make no mistake|guarantee|crystal clear|only one right|absolutely|forget everything|"
    "nothing else|nothing less|never|end of story|that is a fact|every single|certain|the only|plain truth|do it today|above all|"
    "know it all|verdict|stand by"
)
_SIGNS = tuple(
    re.compile(rf"{extra}\b(?:{words})\b", re.IGNORECASE)
    for words, extra in ((_PLAYFUL, "!|"), (_FORMAL, ""), (_CAUTIOUS, ""), (_BOLD, ""))  # an exclamation mark is playful
)
_WORD = re.compile(r"\w+(?:['’-]\w+)*")  # noqa: RUF001  the typographic apostrophe is meant


def manner_scores(text: str) -> NDArray[np.float64]:
    """Returns `[6]` how strongly `text` shows each of MANNERS, in [0, 1]."""
    words = len(_WORD.findall(text))
    concise = (_CONCISE_EMPTY - words) / (_CONCISE_EMPTY - _CONCISE_FULL) if words else 0.0
    detailed = (words - _DETAILED_EMPTY) / (_DETAILED_FULL - _DETAILED_EMPTY)
    signs = [len(pattern.findall(text)) / _FULL_SIGNS for pattern in _SIGNS]
    return np.array([concise, detailed, *signs]).clip(0.0, 1.0)


def draw_users(count: int, seed: int, concentration: float = DEFAULT_CONCENTRATION) -> NDArray[np.float64]:
    """Returns `[count, 6]` tastes drawn from a symmetric Dirichlet: each row non-negative, summing to 1.

    At the default concentration most users care for one or two manners, and a few for many.

    Raises:
        ValueError: `count` is negative or `concentration` is not positive.
    """
    if count < 0 or not concentration > 0:
        raise ValueError(f"count is {count} and concentration {concentration}; expected at least 0 and more than 0")
    return np.random.default_rng(seed).dirichlet(np.full(len(MANNERS), concentration), size=count)


def utility(weights: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns how much a user likes each text, in [0, 1].

    Args:
        weights: `[6]` or `[U, 6]` tastes.
        scores: `[6]` or `[N, 6]` from `manner_scores`.

    Returns:
        `scores @ weights.T`: a scalar array, `[N]`, `[U]` or `[N, U]`.
    """
    return np.asarray(scores @ np.asarray(weights).T)


def choose(rng: np.random.Generator, utilities: NDArray[np.float64], sharpness: float = DEFAULT_SHARPNESS) -> int:
    """Returns the index of the answer that a user picks; ties and small differences are decided by chance.

    The choice is Bradley-Terry for two answers and Plackett-Luce (softmax) for more:
    P(i) is proportional to exp(sharpness * utility_i) (Bradley and Terry 1952).

    Raises:
        ValueError: there is nothing to choose from.
    """
    if len(utilities) == 0:
        raise ValueError("utilities is empty; expected at least one")
    scaled = sharpness * (np.asarray(utilities) - np.max(utilities))
    probabilities = np.exp(scaled) / np.exp(scaled).sum()
    return int(rng.choice(len(probabilities), p=probabilities))
