"""Pools from the members themselves: every adapter of the demo language model answers the same prompts.

Sampled once and kept as JSON lines, because everything measured afterwards should be about the same answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.portfolio.pool import Pool, PoolInvalid, read_pool, write_pool
from models.seam.bundle import sha256_of

MAX_TOKENS = 128
"""What `/generate` allows by default; the demo's longest manner ends well before."""

BATCH = 128
"""Conversations sampled together: a small model spends its time between the products, not in them."""


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
        members: adapters, in the order of the pool.
        answers: per member and prompt.
        seed: of the sampling; the same seed, prompts and threads give the same texts.
        cache: JSON lines to read instead if they are of the same model, prompts, members and number; written otherwise.
        progress: told a line per member.

    Raises:
        OSError: there is no language model.
        PoolInvalid: the cache is damaged, or a member gave nothing but blanks.
    """
    source = _sha256_of_model(language_model)
    if cache is not None and cache.exists():
        pool = read_pool(cache)
        if pool.source == source and pool.prompts == tuple(prompts) and pool.members == tuple(members) and pool.shape[2] == answers:
            return pool
    tokenizer = AutoTokenizer.from_pretrained(language_model / "base", padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(language_model / "base")
    for member in members:
        folder = language_model / "adapters" / member
        if isinstance(model, PeftModel):
            model.load_adapter(folder, member)
        else:
            model = PeftModel.from_pretrained(model, folder, member)
    model.eval()
    told = [[{"role": "user", "content": prompt}] for prompt in prompts for _ in range(answers)]
    by_member = []
    for number, member in enumerate(members):
        torch.manual_seed(seed * 1000 + number)
        model.set_adapter(member)
        texts = [text for start in range(0, len(told), BATCH) for text in _sample(model, tokenizer, told[start : start + BATCH])]
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


@torch.inference_mode()
def _sample(model: Any, tokenizer: Any, told: list[list[dict[str, str]]]) -> list[str]:
    inputs = tokenizer.apply_chat_template(told, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt")
    output = model.generate(**inputs, do_sample=True, max_new_tokens=MAX_TOKENS)
    texts: list[str] = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _sha256_of_model(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode() + sha256_of(path).encode())
    return digest.hexdigest()
