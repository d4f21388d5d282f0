"""A world small enough to train on in a second: random vectors, users who like fixed directions of them, and a bag-of-words trunk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparisons, Texts
from attune.models.data.splits import split
from attune.models.seam.text import Encoded, TextEncoder, TextTemplate
from attune.models.training.loop import LoopSettings, TrainingData

WIDTH = 9
SHORT = LoopSettings(steps=250, evaluate_every=50, patience=6)
HASTY = LoopSettings(steps=40, evaluate_every=20, patience=6)  # for what must come out alike, well or not


def small_texts(prompts: int = 30, per_prompt: int = 8) -> Texts:
    candidates = tuple((f"p{p}", f"r{r}") for p in range(prompts) for r in range(per_prompt))
    return Texts(tuple((f"p{p}", None) for p in range(prompts)), candidates)


def small_vectors(texts: Texts, seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    # Neither centred nor of one scale, as trunks' vectors are not.
    prompts, candidates = (
        rng.normal(0.3, np.linspace(0.5, 2.0, WIDTH), size=(len(part), WIDTH)) for part in (texts.prompts, texts.candidates)
    )
    return Vectors(prompts.astype(np.float32), candidates.astype(np.float32))


def small_world(*, users: int = 120, per_user: int = 30, opposed: bool = False, seed: int = 0) -> tuple[TrainingData, Comparisons]:
    """Returns training data and comparisons of unseen users: three tastes, or one that half of the users hate; 10 % of choices flip."""
    rng = np.random.default_rng(seed)
    texts = small_texts()
    vectors = small_vectors(texts)
    tastes = np.linalg.qr(rng.normal(size=(WIDTH, 3)))[0].T
    of_user = np.arange(users) % (2 if opposed else 3)
    directions = np.where(of_user[:, None] == 0, tastes[0], -tastes[0]) if opposed else tastes[of_user]
    user = np.repeat(np.arange(users), per_user)
    prompt = rng.integers(0, 30, size=len(user))
    first = prompt * 8 + rng.integers(0, 8, size=len(user))
    second = prompt * 8 + (first + rng.integers(1, 8, size=len(user))) % 8
    gap = ((vectors.candidates[first] - vectors.candidates[second]) * directions[user]).sum(axis=1)
    wins = (gap > 0) ^ (rng.random(len(user)) < 0.1)
    count = len(user)
    everything = Comparisons(
        texts,
        tuple(f"u{n}" for n in range(users)),
        user,
        prompt,
        np.where(wins, first, second),
        np.where(wins, second, first),
        np.zeros(count, dtype=bool),
        np.ones(count),
        np.full(count, np.nan),
    )
    parts = split(everything, "user", (0.6, 0.2, 0.2), seed=seed)
    return TrainingData(parts.train, parts.validation, vectors), parts.test


class BagOfWords:
    """A trunk that adds up one fixed random vector per word of the pooled span: enough to tell manners apart, and instant."""

    def __init__(self, words: Sequence[str], width: int = 65, sha256: str = "bag-of-words") -> None:
        tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.train_from_iterator(words, trainers.WordLevelTrainer(special_tokens=["[UNK]", "[SEP]"]))
        self.encoder = TextEncoder(tokenizer, TextTemplate((), (1,), (), (1,), max_tokens=256, max_prompt_tokens=64, max_context_tokens=16))
        self.sha256 = sha256
        self.width = width
        self.asked: list[int] = []
        self._table = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), width - 1))

    def embed(self, rows: Sequence[Encoded]) -> np.ndarray:
        self.asked.append(len(rows))
        vectors = np.zeros((len(rows), self.width), dtype=np.float32)
        for index, row in enumerate(rows):
            pooled = list(row.input_ids[row.pool_start : row.pool_stop])
            vectors[index, :-1] = self._table[pooled].mean(axis=0) if pooled else 0.0
            vectors[index, -1] = np.log1p(len(pooled))
        return vectors
