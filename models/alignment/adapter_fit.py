"""Does a LoRA adapter fit its base? Read from the files' headers and the network's shapes, before peft tries.

    adapter folder ─> read_adapter ─> Adapter(config, shapes) ─> check_adapter(network) ─> fits, or AdapterMisfit

The network may live on torch's meta device, so that a base of any size is checked without its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


class AdapterMisfit(ValueError):
    """An adapter cannot be used with its base; the message names member, tensor and shapes."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's description and the shape of each of its tensors."""

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def rank(self) -> int:
        return int(self.config["r"])


def read_adapter(name: str, folder: Path) -> Adapter:
    """Returns the description and the shapes of an adapter in peft's format.

    Raises:
        AdapterMisfit: a file is missing or damaged, or the adapter is not a plain LoRA.
    """
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise AdapterMisfit(f"member {name!r}: {folder} holds no {file}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="numpy") as tensors:
            shapes = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118 - not a mapping
    except (ValueError, OSError, RecursionError, SafetensorError) as error:
        raise AdapterMisfit(f"member {name!r}: {folder} is not an adapter: {error}") from error
    kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
    if kind != "LORA" or not isinstance(config.get("r"), int):
        raise AdapterMisfit(f"member {name!r}: {folder / CONFIG} has peft_type {kind!r}; a LORA adapter with a rank is needed")
    return Adapter(config, shapes)


def empty_network(base: Path | str) -> Any:
    """Returns the base's network without weights, from its configuration alone; raises OSError if there is none."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))


def check_adapter(name: str, folder: Path, network: Any) -> Adapter:
    """Returns the adapter if every tensor of it fits a layer of `network`.

    Args:
        name: the member's, for the message.
        folder: of the adapter.
        network: of the base, with or without weights; adapters that it has already do not matter.

    Raises:
        AdapterMisfit: the first tensor that fits no layer, with both shapes; or tensors that are missing.
    """
    adapter = read_adapter(name, folder)
    network = network.get_base_model() if hasattr(network, "get_base_model") else network
    layers = dict(network.named_modules())
    for key, shape in adapter.shapes.items():
        path, dot, kind = key.removeprefix(_PREFIX).rpartition(".lora_")
        if not dot or kind not in {"A.weight", "B.weight"}:
            continue
        layer = layers.get(path)
        if layer is None:
            raise AdapterMisfit(f"member {name!r}: {key} of shape {shape} has no layer {path!r} in the base")
        sizes = _sizes(getattr(layer, "base_layer", layer))
        if sizes is None:
            continue  # neither linear nor transposed linear: peft compares the shapes itself
        axis, side, size = (1, "inputs", sizes[0]) if kind == "A.weight" else (0, "outputs", sizes[1])
        if shape[axis] != size:
            raise AdapterMisfit(f"member {name!r}: {key} has shape {shape}; {path} of the base has {size} {side}")
        other = key.removesuffix(kind) + ("B.weight" if kind == "A.weight" else "A.weight")
        if other not in adapter.shapes:
            raise AdapterMisfit(f"member {name!r}: {key} is there and {other} is not")
    if not any(".lora_" in key for key in adapter.shapes):
        raise AdapterMisfit(f"member {name!r}: {folder / WEIGHTS} holds no LoRA tensor among its {len(adapter.shapes)}")
    return adapter


def write_adapter_config(folder: Path, base_name: str) -> None:
    """Rewrites what peft saved so that the folder can be moved: no path, a fixed order, and no model card that names one."""
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / CONFIG
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])  # peft keeps a set, whose order changes from run to run
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _sizes(layer: Any) -> tuple[int, int] | None:
    """Returns inputs and outputs of a linear layer; GPT-2 keeps its weights transposed and calls them `nx` and `nf`."""
    if hasattr(layer, "in_features"):
        return int(layer.in_features), int(layer.out_features)
    if hasattr(layer, "nf"):
        return int(layer.nx), int(layer.nf)
    return None
