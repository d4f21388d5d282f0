"""Pools from the members themselves: every adapter of the demo language model answers the same prompts.

Sampled once and kept as JSON lines, because everything measured afterwards should be about the same answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from attune.models.alignment.causal import BASE, load, sample
from attune.models.portfolio.pool import Pool, PoolInvalid, read_pool, write_pool
from attune.models.seam.bundle import sha256_of

BASE_NAME = "base"
"""What the model without any adapter is called in a pool."""


def generate_pool(
    language_model: Path,
    prompts: Sequence[str],
    members: Sequence[str],
    answers: int,
    *,
    seed: int,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Pool:
    """Returns `answers` sampled answers of every member to every prompt, at the model's default temperature.

    Args:
        language_model: folder with `base/` and `adapters/<member>/`.
        prompts: what to ask, without a system prompt, as the service does.
        members: adapters, in the order of the pool; BASE_NAME for the model without one.
        answers: per member and prompt.
        seed: of the sampling; the same seed, prompts and threads give the same texts.
        cache: JSON lines to read instead if they are of the same model, prompts, members and number; written otherwise.
        progress: told a line per member.

    Raises:
        OSError: there is no language model.
        AdapterMisfit: an adapter does not fit it.
        PoolInvalid: the cache is damaged, or a member gave nothing but blanks.
    """
    source = _sha256_of_model(language_model, members)
    if cache is not None and cache.exists():
        pool = read_pool(cache)
        if pool.source == source and pool.prompts == tuple(prompts) and pool.members == tuple(members) and pool.shape[2] == answers:
            return pool
    adapters = {member: language_model / "adapters" / member for member in members if member != BASE_NAME}
    model = load(language_model / "base", adapters)
    asked = [prompt for prompt in prompts for _ in range(answers)]
    by_member = []
    for number, member in enumerate(members):
        found = sample(model, BASE if member == BASE_NAME else member, asked, seed * 1000 + number)
        texts = [answer.text.strip() for answer in found]
        blank = [index for index, text in enumerate(texts) if not text]
        if blank:
            raise PoolInvalid(
                f"member {member!r} gave {len(blank)} of {len(texts)} blank answers, the first to {prompts[blank[0] // answers]!r}"
            )
        by_member.append(texts)
        if progress is not None:
            progress(f"{member}: {len(texts)} answers")
    grouped = tuple(tuple(tuple(texts[row * answers : (row + 1) * answers]) for texts in by_member) for row in range(len(prompts)))
    pool = Pool(tuple(members), tuple(prompts), grouped, source)
    if cache is not None:
        write_pool(pool, cache)
    return pool


def _sha256_of_model(folder: Path, members: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted([*(folder / "base").glob("*.safetensors"), *(folder / "adapters").rglob("*.safetensors")]):
        if path.parent.name in {"base", *members}:
            digest.update(path.relative_to(folder).as_posix().encode() + sha256_of(path).encode())
    return digest.hexdigest()
