"""MOD: an answer written by several members at once, token by token, from a weighted mixture of their log-probabilities.

    each step: M members' logits ─> sum_m w_m log p_m ─> temperature, top-k, top-p of the base ─> one token for all members

Shi et al. 2024 (arXiv 2406.18853): if member m maximises `E[r_m] - beta KL(. || base)`, the policy `prod_m p_m^{w_m}`, normalised
over whole answers, maximises the same with `sum_m w_m r_m`. Normalising token by token, as here, approximates it. No training.
Letters: `M` members, `N` answers, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from attune.models.alignment.causal import BASE, Answer, LanguageModel, answer_of, ends_of

BATCH = 64


@torch.inference_mode()
def mix_answers(model: LanguageModel, weights: Mapping[str | None, float], prompts: Sequence[str], seed: int) -> list[Answer]:
    """Returns one answer to each prompt, sampled from the mixture with the base's own temperature, top-k, top-p and length.

    Args:
        model: with the members' adapters.
        weights: member to weight, at least 0 and summing to 1; BASE is a member too. Members of weight 0 cost nothing.
        prompts: repeat a prompt for several answers to it.
        seed: of the sampling; the global generator is left as it was.

    Raises:
        KeyError: a member is not loaded.
        ValueError: the weights are negative or do not sum to 1, or a prompt leaves no room for an answer.
    """
    total = sum(weights.values())
    if any(not weight >= 0 for weight in weights.values()) or abs(total - 1.0) > 1e-6:
        raise ValueError(f"weights {dict(weights)} must be at least 0 and sum to 1; they sum to {total:g}")
    missing = [name for name in weights if name is not BASE and name not in model.members]
    if missing:
        raise KeyError(f"{missing} are not among the loaded adapters {list(model.members)}")
    mixed = {name: weight for name, weight in weights.items() if weight > 0}
    ids = model.prompt_ids(prompts)
    longest = max(map(len, ids), default=0)
    if longest + 1 > model.context:
        raise ValueError(f"a prompt of {longest} tokens leaves no room for an answer in a context of {model.context}")
    generator = torch.Generator(device="cpu").manual_seed(seed)
    found: list[Answer] = []
    for start in range(0, len(ids), BATCH):
        found += _write(model, mixed, ids[start : start + BATCH], generator)
    return found


def _write(model: LanguageModel, weights: Mapping[str | None, float], prompts: list[list[int]], generator: torch.Generator) -> list[Answer]:
    padded = model.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    ids, mask = padded["input_ids"].to(model.network.device), padded["attention_mask"].to(model.network.device)
    ends = ends_of(model)
    caches = {name: DynamicCache(config=model.network.config) for name in weights}
    rows: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    for _ in range(min(model.max_tokens, model.context - ids.shape[1])):
        logits = _mixture(model, weights, ids, mask, caches)
        tokens = torch.multinomial(_sharpened(model, logits).softmax(dim=-1).cpu(), 1, generator=generator)
        for row in list(open_rows):
            rows[row].append(int(tokens[row]))
            if rows[row][-1] in ends:
                open_rows.discard(row)
        if not open_rows:
            break
        ids = tokens.to(mask.device)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return [answer_of(row, model.tokenizer, ends) for row in rows]


def _mixture(
    model: LanguageModel, weights: Mapping[str | None, float], ids: Tensor, mask: Tensor, caches: Mapping[str | None, Any]
) -> Tensor:
    """Returns `[N, V]` sum_m w_m log p_m of the next token, and grows every member's cache by `ids` `[N, T]`."""
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    total: Tensor | None = None
    for name, weight in weights.items():
        with model.speaking_as(name) as network:
            output = network(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=caches[name], use_cache=True)
        part = weight * torch.log_softmax(output.logits[:, -1].float(), dim=-1)
        total = part if total is None else total + part
    assert total is not None, "weights sum to 1, so one of them is positive"
    return total


def _sharpened(model: LanguageModel, logits: Tensor) -> Tensor:
    """Returns the logits as the base's generation settings would sample from them."""
    settings = model.network.generation_config
    steps: list[Any] = []
    if settings.temperature not in {None, 1.0}:
        steps.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        steps.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p is not None and settings.top_p < 1.0:
        steps.append(TopPLogitsWarper(settings.top_p))
    for step in steps:
        logits = step(None, logits)
    return logits
