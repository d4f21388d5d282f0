"""Soups: one adapter whose change of the weights is the weighted average of several adapters' (Wortsman et al. 2022; Ramé et al. 2023).

    members' adapter folders + weights ─> average_adapters ─> an adapter folder

A LoRA adapter adds `s B A` to a layer, `s = alpha / r`. The average of several is again of this form, exactly, with the ranks
added up: `A = [w_1 s_1 A_1; w_2 s_2 A_2; ...]`, `B = [B_1 B_2 ...]`. A smaller rank keeps the best approximation of each layer
in the Frobenius norm (truncated singular values). Works on files: no base is in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from attune.models.alignment.adapter_fit import CONFIG, WEIGHTS, AdapterMisfit, read_adapter

_A, _B = ".lora_A.weight", ".lora_B.weight"
_UNMIXABLE = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices", "layer_replication")


@dataclass(frozen=True, slots=True)
class Soup:
    """What an average is: its rank, and the share of the change (Frobenius norm, all layers) that the rank could not hold."""

    rank: int
    lost: float


def average_adapters(members: Mapping[str, Path], weights: Sequence[float], out: Path, rank: int | None = None) -> Soup:
    """Writes the weighted average of `members`' adapters to `out`, in peft's format.

    Args:
        members: name to adapter folder, all for one base.
        weights: `[M]`, one a member; they need not sum to 1: what is missing to 1 is the base's share.
        out: folder of the average, made if absent.
        rank: of the average; None takes the sum of the members' ranks, which is exact.

    Raises:
        AdapterMisfit: an adapter is damaged, is not a plain LoRA, or is of another shape than the first.
        ValueError: the weights are not one finite number for each member.
    """
    if len(weights) != len(members) or not members or not all(map(math.isfinite, weights)):
        raise ValueError(f"{len(weights)} weights {list(weights)} for {len(members)} members; one finite number each was expected")
    adapters = {name: _read(name, folder) for name, folder in members.items()}
    first = next(iter(adapters))
    layers = sorted(adapters[first])
    for name, found in adapters.items():
        if sorted(found) != layers:
            odd = min(set(found) ^ set(layers))
            raise AdapterMisfit(f"members {first!r} and {name!r} do not adapt the same layers: only one of them adapts {odd}")
    tensors: dict[str, Tensor] = {}
    kept = changed = 0.0
    full = sum(next(iter(found.values()))[0].shape[0] for found in adapters.values())
    for layer in layers:
        parts = [(weight, *found[layer]) for weight, found in zip(weights, adapters.values(), strict=True)]
        shapes = {(down.shape[1], up.shape[0]) for _, down, up in parts}
        if len(shapes) != 1:
            raise AdapterMisfit(f"members {list(members)} have different shapes (inputs, outputs) in {layer}: {sorted(shapes)}")
        down = torch.cat([weight * down for weight, down, _ in parts])
        up = torch.cat([up for _, _, up in parts], dim=1)
        changed += float((up @ down).square().sum())
        if rank is not None and rank < full:
            down, up = _truncated(down, up, rank)
        kept += float((up @ down).square().sum())
        tensors[layer + _A], tensors[layer + _B] = down.half().contiguous(), up.half().contiguous()
    size = full if rank is None else min(rank, full)
    config: dict[str, Any] = dict(read_adapter(first, members[first]).config)
    config |= {"r": size, "lora_alpha": size, "use_rslora": False, "inference_mode": True}
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return Soup(size, math.sqrt(max(0.0, 1.0 - kept / changed)) if changed > 0 else 0.0)


def _read(name: str, folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns layer -> (s A `[r, in]`, B `[out, r]`) of one adapter, float32."""
    config = read_adapter(name, folder).config
    odd = [key for key in _UNMIXABLE if config.get(key)]
    if odd:
        raise AdapterMisfit(f"member {name!r}: {CONFIG} has {odd[0]} {config[odd[0]]!r}; only plain LoRA adapters can be averaged")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    tensors = load_file(folder / WEIGHTS)
    layers = [key.removesuffix(_A) for key in tensors if key.endswith(_A)]
    if not layers or len(tensors) != 2 * len(layers) or any(layer + _B not in tensors for layer in layers):
        raise AdapterMisfit(f"member {name!r}: {folder / WEIGHTS} holds {len(tensors)} tensors that are not pairs of A and B")
    return {layer: (scale * tensors[layer + _A].float(), tensors[layer + _B].float()) for layer in layers}


def _truncated(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Returns factors of the best rank-`rank` approximation of `up @ down`, without forming the product."""
    basis_up, middle_up = torch.linalg.qr(up)
    basis_down, middle_down = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(middle_up @ middle_down.T)
    root = values[:rank].sqrt()
    return root[:, None] * (right[:rank] @ basis_down.T), (basis_up @ left[:, :rank]) * root
