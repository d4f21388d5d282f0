"""The demo's rewards, prompts and settings for aligned members: what `python -m demo` gives to the library's commands.

How strongly an answer shows each manner is the truth that the demo's heads are learned from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.base_answers import Rewards
from attune.models.alignment.dpo import DpoSettings
from attune.models.alignment.guard import GuardLimits
from attune.models.alignment.trained_member import MemberSettings, Prompts
from attune.models.portfolio.pool import Pool
from demo.corpus.tastes import manner_scores
from demo.corpus.texts import MANNERS, Prompt, answer, prompts

Array = NDArray[np.float64]

# Chosen on the demo's validation prompts and those that value policies in the search. The best of sixteen answers shows clearly what a
# user wants; of eight, four in ten of the chosen ones did not. At the temperature that it serves with, 0.4, the base repeats itself, and
# its rarer manners are missing among sixteen. The diversity limit is low because the base speaks in six manners and a member keeps to
# one: even the grammar's own answers in one manner have 0.24 (formal) to 0.66 (detailed) of the mixture's distinct pairs.
DEMO_SETTINGS = MemberSettings(
    answers=16,
    pairs=2,
    temperature=0.8,
    dpo=DpoSettings(imitation=1.0, learning_rate=2e-3, epochs=2, checkpoints=8),
    limits=GuardLimits(least_diversity=0.2),
    held_out_answers=1,
)


def _manners(_prompts: Sequence[str], responses: Sequence[str]) -> Array:
    return np.array([manner_scores(text) for text in responses]).reshape(len(responses), len(MANNERS))


MANNER_REWARDS = Rewards(MANNERS, _manners)
"""How strongly an answer shows each manner: the ground truth that the demo's heads are learned from."""


def demo_prompts(seed: int = 0, training: int = 400, validation: int = 60) -> Prompts:
    """Returns the demo's prompts: training topics to learn from, validation topics to choose on, test topics to report on."""
    asked = {part: tuple(prompt.text for prompt in prompts(part, seed)) for part in ("train", "validation", "test")}
    return Prompts(asked["train"][:training], asked["validation"][:validation], asked["test"])


def pool_scores(pool: Pool) -> Array:
    """Returns how strongly each answer of a pool shows each manner, `[P, M, G, 6]`."""
    return np.array([manner_scores(text) for _, text in pool.texts().candidates]).reshape(*pool.shape, -1)


def grammar_pool(asked: Sequence[Prompt], answers: int, *, seed: int) -> Pool:
    """Returns `answers` generated answers in every manner to each prompt: one member per manner, each perfectly in character."""
    rng = np.random.default_rng(seed)
    written = tuple(tuple(tuple(answer(prompt, manner, rng) for _ in range(answers)) for manner in MANNERS) for prompt in asked)
    return Pool(MANNERS, tuple(prompt.text for prompt in asked), written)
