"""Tiny random language models of several architectures, and rewards that a test can compute by hand."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, LlamaConfig, Qwen3Config

from attune.models.alignment.adapter_fit import write_adapter_config
from attune.models.alignment.base_answers import Rewards
from tests.members.tiny import TEMPLATE, write_tokenizer

VOCABULARY = 384
NAMES = ("short", "vowels")


def write_model(
    path: Path, kind: str = "llama", seed: int = 0, hidden: int = 32, max_tokens: int = 40, template: str | None = TEMPLATE
) -> Path:
    write_tokenizer(path, template)
    torch.manual_seed(seed)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "gpt2":
        config = GPT2Config(vocab_size=VOCABULARY, n_embd=hidden, n_layer=2, n_head=4, n_positions=128, **special)
    else:
        config = {"llama": LlamaConfig, "qwen": Qwen3Config}[kind](
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=128,
            initializer_range=0.1,
            tie_word_embeddings=kind == "llama",
            **special,
        )
    model = AutoModelForCausalLM.from_config(config)
    # One token of twenty ends an answer, so that a random model's answers end by themselves after some twenty tokens.
    ends = [2, *range(100, 120)]
    sampling = {"do_sample": True, "max_new_tokens": max_tokens, "temperature": 0.9, "top_p": 0.95}
    model.generation_config = GenerationConfig(**sampling, **special | {"eos_token_id": ends})
    model.save_pretrained(path)
    return path


def write_lora(path: Path, base: Path, seed: int, rank: int = 4, scale: float = 1.0) -> Path:
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(scale)
    model.save_pretrained(path)
    write_adapter_config(path, "tiny")
    return path


def rewards() -> Rewards:
    """`short` falls with the characters, `vowels` is their share among the letters; both in [0, 1]."""

    def score(_prompts, responses):
        found = []
        for text in responses:
            letters = re.findall("[a-z]", text.lower())
            found.append([max(0.0, 1 - len(text) / 160), sum(letter in "aeiou" for letter in letters) / max(1, len(letters))])
        return np.array(found).reshape(len(responses), 2)

    return Rewards(NAMES, score)


VERBS = ("make", "find", "tell me about", "explain", "why", "show")
NOUNS = ("soup", "the sea", "a dog", "spring", "it", "us", "bread", "rain")
PROMPTS = tuple(f"{verb} {noun}" for noun in NOUNS for verb in VERBS)


REWARDS = rewards()


LAX = ["least_length=0", "most_length=100", "most_perplexity=100", "least_distinct_2=0", "least_diversity=0", "least_ended=0"]
LAX += ["more_repetition=1", "more_blank=1"]
QUICK = [word for limit in LAX for word in ("--set", f"limits.{limit}")]
QUICK += ["--set", "dpo.checkpoints=1", "--set", "answers=4", "--set", "least_margin=0"]
"""Options of `portfolio build` for members that are trained in seconds and need be good for nothing."""


def few_prompts() -> list[str]:
    """Returns 12 prompts that `read_prompts` holds out, 3 that choose and 12 to learn from: a tenth of many would take minutes."""
    rows = [f"{prompt} {number}" for number in range(9) for prompt in PROMPTS]
    digits = {row: hashlib.sha256(row.encode()).digest()[0] % 10 for row in rows}
    held, choosing, learned = ([row for row in rows if part(digits[row])] for part in (lambda d: d == 0, lambda d: d == 1, lambda d: d > 1))
    return [*held[:12], *choosing[:3], *learned[:12]]
