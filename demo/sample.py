"""`python -m demo data` and `sample`: preference data as a product would have it, and the prompts that its members are aligned on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attune.models.data.check import write_pairs
from attune.models.measuring.report_files import write_text
from demo.corpus.tastes import DEFAULT_SHARPNESS, draw_users, manner_scores, utility
from demo.drawn import bradley_terry_choice, draw_comparisons
from demo.heads import DemoSettings, seed_for, written_pool
from demo.rewards import demo_prompts


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


def write_data(out: Path, *, users: int, per_user: int, seed: int = 0) -> int:
    """Writes what public commands make a bundle of into the folder `out`, and returns how many comparisons.

    Written: `prefs.jsonl`, comparisons as `write_sample` draws them, and `prompts.txt`, one a line.

    Args:
        out: made if absent.
        users: with a taste each.
        per_user: comparisons of each.
        seed: of everything drawn.
    """
    asked = demo_prompts(seed)
    write_text(out / "prompts.txt", "".join(f"{prompt}\n" for prompt in (*asked.training, *asked.validation)))
    return write_sample(out / "prefs.jsonl", users=users, per_user=per_user, seed=seed)
