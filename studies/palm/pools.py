"""Pools of sampled answers to choose among, and what they are worth under every reward: sampled once, kept in the study's folder.

    prompts of training topics ─> search pools        prompts of other topics, drawn with replacement ─> fresh pools
    base, temperature 0.8 ─> answers [P, N] ─> scores [P, N, 11]: TRADED, then the demo's manners

A prompt that is drawn again gets answers of its own, so that fresh pools are independent draws from one population: a phrasing of a
topic that the search never met, drawn evenly, and answers of the base. A certificate speaks of that population's means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from attune.models.alignment.causal import BASE, LanguageModel, sample
from demo.corpus.tastes import manner_scores
from demo.corpus.texts import MANNERS, Split, prompts
from demo.rewards import DEMO_SETTINGS
from studies.palm.traded import TRADED, traded_scores

Array = NDArray[np.float64]
Progress = Callable[[str], None]

SCORES = (*TRADED, *MANNERS)
TEMPERATURE = DEMO_SETTINGS.temperature
_CUDA_BATCH, _CPU_BATCH = 2048, 128


def search_prompts(seed: int, count: int) -> tuple[str, ...]:
    """Returns `count` phrasings of training topics at most, all different, in an order drawn from `seed`."""
    return tuple(prompt.text for prompt in prompts("train", seed)[:count])


def fresh_prompts(seed: int, count: int, splits: Sequence[Split] = ("validation", "test")) -> tuple[str, ...]:
    """Returns `count` phrasings of the topics of `splits`, each drawn evenly from all of them, with replacement."""
    every = [prompt.text for split in splits for prompt in prompts(split, 0)]
    return tuple(every[index] for index in np.random.default_rng([seed, 14]).integers(0, len(every), count))


def pool_scores(model: LanguageModel, made_of: str, asked: Sequence[str], answers: int, seed: int, file: Path, progress: Progress) -> Array:
    """Returns scores `[P, N, 11]` of `answers` sampled answers to each prompt, columns as SCORES; `file` keeps them.

    Args:
        model: that answers.
        made_of: what tells its files from those of another.
        asked: prompts.
        answers: to each.
        seed: of the sampling.
        file: written in one step, so that what a killed run leaves is whole.
        progress: told a line now and then.

    Raises:
        ValueError: `file` holds pools of another model or seed, of other prompts or of another number of answers, or is damaged.
    """
    told = f"{made_of} at {TEMPERATURE}, seed {seed}, {answers} answers"
    if file.is_file():
        try:
            with np.load(file) as kept:
                same, scores = kept["asked"].tolist() == list(asked) and str(kept["told"]) == told, kept["scores"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ValueError(f"{file} cannot be read ({error}); delete it, or give another folder") from error
        if not same:
            raise ValueError(f"{file} holds other pools than of {len(asked)} prompts by {told}; give another folder")
        return np.asarray(scores, dtype=np.float64)
    batch = _CUDA_BATCH if torch.cuda.is_available() else _CPU_BATCH
    rows = [prompt for prompt in asked for _ in range(answers)]
    said = sample(model, BASE, rows, seed, batch, lambda count: progress(f"{count:,} of {len(rows):,} answers"), TEMPERATURE)
    scores = np.array([np.concatenate([traded_scores(one.text), manner_scores(one.text)]) for one in said])
    scores = scores.reshape(len(asked), answers, len(SCORES))
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez_compressed(part, scores=scores, asked=np.array(asked), told=np.array(told))
    part.replace(file)
    return scores
