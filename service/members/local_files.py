"""What the files of a base and of an adapter say of themselves, before anything of them is loaded.

    config.json, adapter_config.json, shapes of tensors ── check_* ──> nothing, or UnusableMember with file, field and both values

Adapters that are decoded together share one base: what would change it, or needs a batch of its own, is refused by name.
Imports torch nowhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attune.models.seam.json_lines import kind_of
from attune.service.members.member import UnusableMember

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

GENERATION_CONFIG = "generation_config.json"
# Files that a base may have beside config.json. transformers passes over some of them where they cannot be read, as if they were not
# there, and of the others it does not say which one it was.
_OPTIONAL = (GENERATION_CONFIG, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_TEMPLATE = "chat_template.jinja"
_INDEX = "model.safetensors.index.json"
"""Which file of a base holds which of its weights, where they are in several; not read beside one that holds them all."""

# Fields of peft's LoraConfig that say how an adapter is shaped, was made or is named, and change nothing that it shares.
_HARMLESS = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
        "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias",
        "lora_dropout", "lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
        "revision", "runtime_config", "target_modules", "use_rslora",
    }
)  # fmt: skip
_NEEDED: Mapping[str, tuple[object, ...]] = {"bias": ("none",), "task_type": ("CAUSAL_LM",)}
# peft makes the others (pissa, olora, corda, eva, loftq, lora_ga and whatever comes) out of the base's weights when it loads.
_INITIALISATIONS: tuple[object, ...] = (True, False, "gaussian", "orthogonal")


def check_base_files(name: str, base: Path) -> None:
    """Returns if the folder can be a base model.

    Raises:
        UnusableMember: it has no configuration, is an adapter, or a file that it may have is there and cannot be read.
    """
    if not (base / "config.json").is_file():
        raise UnusableMember(name, "base", f"{base} holds no config.json; it is no Hugging Face model directory")
    if (base / ADAPTER_CONFIG).is_file():
        raise UnusableMember(name, "base", f"{base} holds {ADAPTER_CONFIG}: an adapter belongs into the field adapter, or is merged first")
    for file in (base / optional for optional in _OPTIONAL):
        if os.path.lexists(file):
            _read_object(name, file)
    if os.path.lexists(base / _INDEX) and not (base / "model.safetensors").is_file():
        _check_index(name, base / _INDEX)
    if os.path.lexists(base / _TEMPLATE):
        _read_text(name, base / _TEMPLATE)


def _check_index(name: str, index: Path) -> None:
    weights = _read_object(name, index).get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(file, str) for file in weights.values()):
        raise UnusableMember(name, str(index), "names no weights; an object `weight_map` of weights and their files is needed")
    missing = sorted({file for file in weights.values() if not (index.parent / file).is_file()})
    if missing:
        raise UnusableMember(
            name, str(index), f"names {missing[0]}, which is not there{f', and {len(missing) - 1} more' if missing[1:] else ''}"
        )


def check_end_tokens(name: str, file: Path, ids: Any, rows: int) -> list[int]:
    """Returns the ids that a file of a base names as the end of a text: one, a list of them, or none.

    Args:
        name: whose base it is.
        file: of that base.
        ids: what the file says.
        rows: how many tokens the base knows; ids are below it.

    Raises:
        UnusableMember: it is anything else, so that no answer would end where the model ends it.
    """
    found = ids if isinstance(ids, list | tuple) else [] if ids is None else [ids]
    for one in found:
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < rows:
            raise UnusableMember(name, str(file), f"eos_token_id holds {one!r}; ids from 0 to {rows - 1} are needed")
    return list(found)


def check_adapter_files(name: str, path: Path) -> None:
    """Returns if the files are there and the adapter is of a kind that can share a base and a batch.

    Raises:
        UnusableMember: they are not; the message has the field and its value.
    """
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (path / file).is_file():
            raise UnusableMember(name, "adapter", f"{path / file} is missing")
    described = path / ADAPTER_CONFIG
    config = _read_object(name, described)
    if config.get("peft_type") != "LORA":
        raise UnusableMember(name, str(described), f"peft_type is {config.get('peft_type')!r}; only LORA adapters can share a batch")
    initialised = config.get("init_lora_weights", True)
    if initialised is not None and not any(initialised is kind or initialised == kind for kind in _INITIALISATIONS):
        raise UnusableMember(
            name,
            str(described),
            f"init_lora_weights is {initialised!r}: loading it would take its weights out of the base that others share; "
            "convert it to a plain LoRA adapter (peft: save_pretrained with path_initial_model_for_weight_conversion)",
        )
    for field, value in config.items():
        if not value or field in _HARMLESS or field == "init_lora_weights":
            continue
        needed = _NEEDED.get(field, ())
        if value not in needed:
            wanted = repr(needed[0]) if needed else "none"
            raise UnusableMember(name, str(described), f"{field} is {repr(value)[:120]}; adapters that share a batch need {wanted}")


def check_shapes(name: str, file: Path, network: Any, base: Path) -> None:
    """Returns if every tensor of the file fits the base's layer.

    Raises:
        UnusableMember: one does not; both shapes are named.
    """
    from safetensors import SafetensorError, safe_open

    prefix, modules = "base_model.model.", dict(network.named_modules())
    try:
        with safe_open(file, framework="numpy") as tensors:
            shapes = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118 -- not a mapping
    except (SafetensorError, OSError) as error:
        raise UnusableMember(name, str(file), f"is not a safetensors file: {error}") from error
    for key, shape in shapes.items():
        layer, dot, kind = key.removeprefix(prefix).rpartition(".lora_")
        if not dot or kind not in {"A.weight", "B.weight"}:
            continue
        module = modules.get(layer)
        if module is None:
            raise UnusableMember(name, str(file), f"holds {key} of shape {shape}; the base {base} has no layer {layer}")
        module = getattr(module, "base_layer", module)
        sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if None in sizes or len(shape) != 2:
            continue  # not a linear layer: peft compares the shapes itself
        axis, side, size = (1, "inputs", sizes[0]) if kind == "A.weight" else (0, "outputs", sizes[1])
        if shape[axis] != size:
            raise UnusableMember(name, str(file), f"{key} has shape {shape}; {layer} of the base {base} has {size} {side}")


def _read_text(name: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UnusableMember(name, str(file), f"is there and cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UnusableMember(name, str(file), f"is not UTF-8: {error}") from error


def _read_object(name: str, file: Path) -> dict[str, Any]:
    text = _read_text(name, file)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableMember(name, str(file), f"is not JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise UnusableMember(name, str(file), f"is {kind_of(value)}; an object is needed")
    return value
