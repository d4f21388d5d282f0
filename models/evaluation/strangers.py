"""Few-shot curves on a set of real comparisons: families trained on some users, measured on users they never met."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.data.embeddings import Embedder, embed_texts
from models.data.preferences import Comparisons
from models.data.splits import split
from models.evaluation.fewshot import COUNTS, FewShot, cut, few_shot
from models.evaluation.opposed import Trainer
from models.evaluation.rows import rows_from_heads
from models.seam.families import Families
from models.training.loop import TrainingData


def few_shot_strangers(
    comparisons: Comparisons,
    trainers: Sequence[Trainer],
    trunk: Embedder,
    *,
    seed: int,
    cache: Path | None = None,
    targets: int = 20,
    counts: Sequence[int] = COUNTS,
) -> FewShot:
    """Returns the curves on the fifth of users who are kept for testing; a sixth of the others stops the training.

    Args:
        comparisons: of users with ids.
        trainers: `(data, seed) -> TrainedFamily`, the settings bound.
        trunk: embeds the texts.
        seed: of the split, the trainings and the cut into context and targets.
        cache: folder of the embedding cache.
        targets: most comparisons that are predicted per user.
        counts: see `few_shot`.
    """
    vectors = embed_texts(comparisons.texts, trunk, cache)
    parts = split(comparisons, "user", (2 / 3, 2 / 15, 1 / 5), seed=seed)
    data = TrainingData(parts.train, parts.validation, vectors)
    trained = [train(data, seed) for train in trainers]
    context, predicted = cut(parts.test, context=max(counts), targets=targets, seed=seed)
    return few_shot(Families([one.family for one in trained]), rows_from_heads(trained, vectors), context, predicted, counts=counts)
