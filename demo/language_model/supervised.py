"""One training loop for supervised learning on conversations, used for the base model and for its adapters.

    [ids, learned mask] ─> length batches ─> cross-entropy on learned tokens ─> AdamW, warm-up and cosine ─> Fit

Right padding and a causal model: a real token never attends to a padded one, so no attention mask is passed and the
fast causal kernel is used. Knows nothing of what the texts mean or where the weights are stored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from demo.language_model.conversations import EncodedConversation, length_batches
from demo.language_model.muon import Float32Muon

_IGNORED = -100


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How to train: the peak learning rate, the padded tokens of a batch, how often each conversation is seen.

    `adamw` suits adapters and pretrained models. `muon` (Jordan et al. 2024) orthogonalises the steps of the hidden
    matrices and leaves embeddings and gains to AdamW; from scratch it needs about a third of the steps.
    """

    learning_rate: float
    optimizer: Literal["adamw", "muon"] = "adamw"
    max_batch_tokens: int = 4096
    epochs: int = 1
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 0.05


@dataclass(frozen=True, slots=True)
class Fit:
    """What a training run did; losses are means over its first and last twentieth, nats per learned token."""

    steps: int
    tokens: int
    first_loss: float
    last_loss: float
    wall_s: float
    cpu_s: float


def fit(
    model: Any, examples: Sequence[EncodedConversation], settings: FitSettings, seed: int, progress: Callable[[str], None] | None = None
) -> Fit:
    """Trains the parameters of `model` that require a gradient, in place, and returns what happened.

    Conversations without a token to be learned are left out. Matrix products run in bfloat16 where the processor has it (autocast),
    weights and optimiser in float32. The order of the batches comes from `seed` alone.

    Raises:
        ValueError: there is nothing to learn.
    """
    count = len(examples)
    examples = [example for example in examples if example.learned[1:].any()]  # nothing comes before the first, to predict it from
    if not examples:
        raise ValueError(f"none of the {count} conversations holds a token to be learned")
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    rng = np.random.default_rng(seed)
    lengths = np.array([len(example.ids) for example in examples])
    batches = [batch for _ in range(settings.epochs) for batch in length_batches(lengths, settings.max_batch_tokens, rng)]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = _optimizers(model, settings)
    schedules = [LambdaLR(optimizer, lambda step: _rate(step, len(batches), settings.warmup)) for optimizer in optimizers]
    model.train()
    device = next(model.parameters()).device.type
    losses: list[float] = []
    for step, batch in enumerate(batches):
        ids, targets = _pad([examples[i] for i in batch])
        with torch.autocast(device, dtype=torch.bfloat16, enabled=_multiplies_bfloat16(device)):
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        learned = targets[:, 1:] != _IGNORED
        loss = functional.cross_entropy(logits[:, :-1][learned].float(), targets[:, 1:][learned].to(model.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        losses.append(float(loss.detach()))
        if progress is not None and (step + 1) % 100 == 0:
            progress(f"step {step + 1} of {len(batches)}: loss {np.mean(losses[-100:]):.3f}")
    model.eval()
    part = max(1, len(losses) // 20)
    return Fit(
        steps=len(losses),
        tokens=int(lengths.sum()) * settings.epochs,
        first_loss=float(np.mean(losses[:part])),
        last_loss=float(np.mean(losses[-part:])),
        wall_s=time.perf_counter() - began_s,
        cpu_s=time.process_time() - cpu_began_s,
    )


def _optimizers(model: Any, settings: FitSettings) -> list[torch.optim.Optimizer]:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    outside = [model.get_input_embeddings().weight, model.get_output_embeddings().weight] if settings.optimizer == "muon" else []
    hidden = [p for p in trained.values() if settings.optimizer == "muon" and p.ndim == 2 and not any(p is q for q in outside)]
    rest = [p for p in trained.values() if not any(p is q for q in hidden)]
    rate, decay = settings.learning_rate, settings.weight_decay
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=decay)] if rest else []
    if hidden:
        optimizers.append(Float32Muon(hidden, rate, decay))
    return optimizers


def _multiplies_bfloat16(device: str) -> bool:
    """Returns whether the device has products in bfloat16: a CPU without them takes seconds for a step."""
    return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001  torch asks it the same way


def _rate(step: int, steps: int, warmup: float) -> float:
    ramp = max(1.0, warmup * steps)
    return min(1.0, (step + 1) / ramp) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _pad(examples: Sequence[EncodedConversation]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and targets `[N, T]`; a target is the token itself, or `_IGNORED` where nothing is learned."""
    longest = max(len(example.ids) for example in examples)
    ids = np.zeros((len(examples), longest), dtype=np.int64)
    targets = np.full((len(examples), longest), _IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        targets[row, : len(example.ids)] = np.where(example.learned, example.ids, _IGNORED)
    return torch.from_numpy(ids), torch.from_numpy(targets)
