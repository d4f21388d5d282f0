"""Loads a causal language model and its LoRA adapters, and runs one forward pass over rows of different adapters.

    base directory + adapter directories ── load ──> LoadedModel ── forward(ids, mask, adapters, cache) ──> logits

Refuses what would answer wrongly later: missing files, tensors that do not fit the base, kinds of adapters that cannot
share a batch. Torch, transformers and peft are imported here when a model is loaded, never at start. Knows nothing of
requests, sampling or time. Axes: N rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attune.service.members.local_lora import BASE_ROW, RowAdapters, mix_rows
from attune.service.members.member import UnusableMember

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

Device = Literal["cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, ready to run.

    Args:
        network: the base with its adapters' layers inside, in evaluation mode.
        tokenizer: the base's tokenizer.
        rows: where `forward` says which row uses which adapter; None without adapters.
        slots: a member's adapter name to the name under which peft holds it.
        context: tokens that prompt and answer may have together.
        end_tokens: ids that end an answer.
        device: where the weights are.
        optional: arguments of the network's forward that not every architecture takes.
    """

    network: Any
    tokenizer: Any
    rows: RowAdapters | None
    slots: Mapping[str, str]
    context: int
    end_tokens: frozenset[int]
    device: torch.device
    optional: frozenset[str]

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        adapters: Sequence[str | None],
        cache: DynamicCache,
    ) -> torch.Tensor:
        """Returns the logits after the last token of each row, and grows the cache by these tokens.

        Args:
            ids: `[N, T]` token ids, padded on the left.
            mask: `[N, P + T]` 1 where the cache and `ids` hold a token, 0 for padding.
            positions: `[N, T]` position of each token in its own text.
            adapters: `[N]` adapter of each row, None for the base alone.
            cache: keys and values of the P columns before.

        Returns:
            `[N, V]` logits.
        """
        optional: dict[str, Any] = {}
        if "position_ids" in self.optional:
            optional["position_ids"] = positions
        if "logits_to_keep" in self.optional:
            optional["logits_to_keep"] = 1
        if self.rows is not None:
            self.rows.choose([BASE_ROW if name is None else self.slots[name] for name in adapters], self.device)
        output = self.network(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **optional)
        logits: torch.Tensor = output.logits[:, -1, :]
        return logits


def load(
    base: str | Path,
    adapters: Mapping[str, Path],
    *,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    context: int | None = None,
) -> LoadedModel:
    """Returns the base with every adapter in memory.

    Args:
        base: a directory with the model and its tokenizer.
        adapters: name to directory, in peft's format.
        device: where to put the weights.
        dtype: `auto` is float32 on a CPU, where answers then do not depend on their neighbours, and the model's own on CUDA.
        context: overrides the length that the model's configuration names.

    Raises:
        UnusableMember: a file is missing or does not fit, named with the shapes.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the service's standard error is a log of JSON lines
    base = Path(base)
    if not (base / "config.json").is_file():
        raise UnusableMember(base.name, "base", f"{base} holds no config.json; it is no Hugging Face model directory")
    if device == "cuda" and not torch.cuda.is_available():
        raise UnusableMember(base.name, "device", "cuda was asked for, and torch sees no CUDA device")
    for name, path in adapters.items():
        _check_adapter_files(name, path)
    weights = torch.float32 if dtype == "auto" and device == "cpu" else "auto" if dtype == "auto" else getattr(torch, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        network, found = AutoModelForCausalLM.from_pretrained(base, dtype=weights, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UnusableMember(base.name, "base", f"{base} does not load: {_first_lines(error)}") from error
    if found["missing_keys"]:  # transformers would fill them with random numbers
        raise UnusableMember(base.name, "base", f"{base} lacks {_counted('tensor', sorted(found['missing_keys']))} of its own architecture")

    config = network.config.get_text_config()
    limit = context or getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not limit:
        raise UnusableMember(base.name, "context", f"{base}/config.json names no context length; set it")
    ends = _end_tokens(network, tokenizer)
    optional = frozenset(inspect.signature(network.forward).parameters) & {"position_ids", "logits_to_keep"}
    slots = {name: f"adapter{index}" for index, name in enumerate(sorted(adapters))}
    rows = None
    if adapters:
        network, rows = _with_adapters(network, {name: (slots[name], Path(path)) for name, path in adapters.items()}, base)
    network = network.to(device).eval().requires_grad_(False)
    return LoadedModel(network, tokenizer, rows, slots, int(limit), ends, torch.device(device), optional)


def _with_adapters(network: Any, adapters: Mapping[str, tuple[str, Path]], base: Path) -> tuple[Any, RowAdapters]:
    """Returns the network with the adapters' layers put into it, and the object through which rows choose among them."""
    from peft import PeftConfig, PeftModel

    # peft asks transformers for an attribute under its old name, once per model; the operator can do nothing about it.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    wrapped = None
    for name, (slot, path) in adapters.items():
        file = path / ADAPTER_WEIGHTS
        _check_shapes(name, file, network if wrapped is None else wrapped.get_base_model(), base)
        try:
            config = PeftConfig.from_pretrained(str(path))
            config.inference_mode = True
            if wrapped is None:
                wrapped = PeftModel(network, config, adapter_name=slot, autocast_adapter_dtype=False)
            loaded = wrapped.load_adapter(str(path), adapter_name=slot, torch_device="cpu", autocast_adapter_dtype=False)
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            raise UnusableMember(name, str(file), f"does not fit the base {base}: {_first_lines(error)}") from error
        if loaded.missing_keys:
            raise UnusableMember(name, str(file), f"lacks {_counted('tensor', loaded.missing_keys)} that {ADAPTER_CONFIG} asks for")
        if loaded.unexpected_keys:
            raise UnusableMember(name, str(file), f"holds {_counted('tensor', loaded.unexpected_keys)} that {ADAPTER_CONFIG} does not name")
    assert wrapped is not None, "called with at least one adapter"
    network = wrapped.get_base_model().eval()
    return network, mix_rows(network, [slot for slot, _ in adapters.values()])


def _check_adapter_files(name: str, path: Path) -> None:
    """Raises `UnusableMember` if a file is missing or the adapter is of a kind that cannot share a batch."""
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (path / file).is_file():
            raise UnusableMember(name, "adapter", f"{path / file} is missing")
    described = path / ADAPTER_CONFIG
    try:
        config = json.loads(described.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnusableMember(name, str(described), f"is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise UnusableMember(name, str(described), f"peft_type is {found!r}; only LORA adapters can share a batch")
    shared = {"use_dora": False, "modules_to_save": None, "bias": "none", "trainable_token_indices": None}
    for key, needed in shared.items():
        found = config.get(key, needed)
        if found and found != needed:
            raise UnusableMember(name, str(described), f"{key} is {found!r}; adapters that share a batch need {needed!r}")


def _check_shapes(name: str, file: Path, network: Any, base: Path) -> None:
    """Raises `UnusableMember` for the first tensor of the file whose shape does not fit the base's layer."""
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
        if None in sizes:
            continue  # not a linear layer: peft compares the shapes itself
        axis, side, size = (1, "inputs", sizes[0]) if kind == "A.weight" else (0, "outputs", sizes[1])
        if shape[axis] != size:
            raise UnusableMember(name, str(file), f"{key} has shape {shape}; {layer} of the base {base} has {size} {side}")


def _end_tokens(network: Any, tokenizer: Any) -> frozenset[int]:
    """Returns every id that the generation settings, the configuration or the tokenizer call the end of a text."""
    found: set[int] = set()
    for ids in (getattr(network.generation_config, "eos_token_id", None), network.config.eos_token_id, tokenizer.eos_token_id):
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)


def _first_lines(error: Exception) -> str:
    """Returns the message on one line, without the end of a long list of layers."""
    return " ".join(str(error).split())[:600]


def _counted(noun: str, keys: Sequence[str]) -> str:
    """Returns how many there are and the first of them."""
    return f"{len(keys)} {noun}{'' if len(keys) == 1 else 's'} ({keys[0]}{', …' if len(keys) > 1 else ''})"


def decoder_of(model: LoadedModel) -> Callable[[Sequence[int]], str]:
    """Returns the function from token ids to text, without special tokens and without tidying of spaces."""
    fast = getattr(model.tokenizer, "backend_tokenizer", None)
    if fast is not None:  # four times as fast as through the wrapper, and it is called for every token
        return lambda ids: str(fast.decode(list(ids), skip_special_tokens=True))
    return lambda ids: str(model.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
