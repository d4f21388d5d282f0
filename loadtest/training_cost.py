"""Prints how long each family takes to train on many cached comparisons, in seconds.

    python -m loadtest.training_cost [--comparisons 100000] [--width 384]

Random vectors and users, one thread, the sizes that `attune measure families` trains with. The target is 180 s on two cores for 100,000
comparisons. Wall time is what a user waits on an idle machine; on a shared one CPU time is the fairer number.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # trainings are single-threaded to be repeatable

import numpy as np

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparisons, Texts
from attune.models.training.features import Subspace
from attune.models.training.loop import TrainingData
from attune.models.training.trainers import LineUp, trainers

PROMPTS, ANSWERS, PER_USER, TASTES = 2000, 5, 40, 6


def example_data(comparisons: int, width: int, rng: np.random.Generator) -> TrainingData:
    """Returns training data of that many comparisons by users of six tastes, and a tenth as many to stop by."""
    texts = Texts(
        tuple((f"prompt {prompt}", None) for prompt in range(PROMPTS)),
        tuple((f"prompt {prompt}", f"answer {answer}") for prompt in range(PROMPTS) for answer in range(ANSWERS)),
    )
    candidates = rng.normal(size=(PROMPTS * ANSWERS, width + 1)).astype(np.float32)
    vectors = Vectors(rng.normal(size=(PROMPTS, width + 1)).astype(np.float32), candidates)
    tastes = rng.normal(size=(width + 1, TASTES))

    def told(count: int, name: str) -> Comparisons:
        users = max(2, count // PER_USER)
        user = np.repeat(np.arange(users), PER_USER)[:count]
        prompt = rng.integers(0, PROMPTS, size=len(user))
        first = rng.integers(0, ANSWERS, size=len(user))
        one, other = prompt * ANSWERS + first, prompt * ANSWERS + (first + rng.integers(1, ANSWERS, size=len(user))) % ANSWERS
        liking = candidates @ tastes
        wins = (liking[one, user % TASTES] > liking[other, user % TASTES]) ^ (rng.random(len(user)) < 0.1)
        names = tuple(f"{name} {number}" for number in range(users))
        size = len(user)
        return Comparisons(
            texts, names, user, prompt, np.where(wins, one, other), np.where(wins, other, one),
            np.zeros(size, dtype=np.bool_), np.ones(size), np.full(size, np.nan),
        )  # fmt: skip

    return TrainingData(told(comparisons, "train"), told(comparisons // 10, "validation"), vectors)


def main() -> None:
    """Prints one line per family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=384)
    arguments = parser.parse_args()
    data = example_data(arguments.comparisons, arguments.width, np.random.default_rng(0))
    line_up = LineUp(Subspace())
    print(f"{len(data.train):,} comparisons, {arguments.width} + 1 dimensions")
    for name, train in trainers().items():
        data.calibrations.clear()
        started, cpu = time.perf_counter(), time.process_time()
        trained = train(data, line_up, 0)
        spent = time.perf_counter() - started, time.process_time() - cpu
        print(
            f"{name:<16}{spent[0]:8.1f} s by the clock {spent[1]:8.1f} s of CPU, validation loss {trained.summary['validation_nll']:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
