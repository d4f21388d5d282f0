"""`python -m demo sample`: preference data as a product would have it, small enough to be looked at and committed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attune.models.data.check import write_pairs
from demo.corpus.tastes import DEFAULT_SHARPNESS, draw_users, manner_scores, utility
from demo.drawn import bradley_terry_choice, draw_comparisons
from demo.heads import DemoSettings, seed_for, written_pool


def write_sample(out: Path, *, users: int = 20, per_user: int = 10, seed: int = 0) -> int:
    """Writes comparisons of simulated users on generated answers as lines of pairs, and returns how many.

    Args:
        out: a .jsonl file.
        users: with a taste each.
        per_user: comparisons of each.
        seed: of everything drawn.
    """
    texts = written_pool("train", DemoSettings(), seed=seed).texts()
    scores = np.array([manner_scores(text) for _, text in texts.candidates])
    told = draw_comparisons(
        texts,
        utility(draw_users(users, seed_for(seed, "sample-tastes")), scores),
        per_user=per_user,
        choose=bradley_terry_choice(DEFAULT_SHARPNESS),
        seed=seed_for(seed, "sample-comparisons"),
    )
    write_pairs(told.records(), out)
    return len(told)
