"""Loads a causal language model and its LoRA adapters, and runs one forward pass over rows of different adapters.

    base directory + adapter directories ── load ──> LoadedModel ── read(ids, adapters, keys, values) ──> logits

Refuses what would answer wrongly later: missing files, tensors that do not fit the base, kinds of adapters that cannot
share a batch. Torch, transformers and peft are imported here when a model is loaded, never at start. Knows nothing of
requests, sampling or time. Axes: N rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import logging
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attune.command_line import how_to_install
from attune.models.seam.counts import counted
from attune.service.members.local_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    GENERATION_CONFIG,
    check_adapter_files,
    check_base_files,
    check_end_tokens,
    check_shapes,
)
from attune.service.members.local_llama import LlamaDecoder, can_read
from attune.service.members.local_lora import BASE_ROW, RowAdapters, mix_rows
from attune.service.members.member import UnusableMember
from attune.service.members.spec import Device, Dtype

if TYPE_CHECKING:
    import torch

    Memory = tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]
    """Keys and values, a tensor for each layer."""

log = logging.getLogger(__name__)

# What a base needs beside Attune itself, as a command that installs it.
INSTALL = how_to_install("local")


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
        dtype: of the weights, and of keys and values.
        optional: arguments of the network's forward that not every architecture takes.
        decoder: the same forward pass in fewer operations, None for an architecture that has none.
    """

    network: Any
    tokenizer: Any
    rows: RowAdapters | None
    slots: Mapping[str, str]
    context: int
    end_tokens: frozenset[int]
    device: torch.device
    dtype: torch.dtype
    optional: frozenset[str]
    decoder: LlamaDecoder | None = None

    @property
    def bytes(self) -> int:
        """Size of the weights, the adapters' not counted."""
        return sum(tensor.nbytes for tensor in self.network.parameters())

    def read(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        adapters: Sequence[str | None],
        mask: torch.Tensor | None,
        memory: Memory | None,
        width: int,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Returns the logits after the last token of each row, and the keys and values with these tokens behind the others.

        Args:
            ids: `[N, T]` token ids, padded on the left; T is 1 where there is a memory.
            positions: `[N, T]` position of each token in its own text.
            adapters: `[N]` adapter of each row, None for the base alone.
            mask: `[N, C]` -inf for columns of padding, 0 for others; C is at least `width + T`. None if no row has padding.
            memory: keys and values, each L tensors `[N, H, C, E]`, of which the first `width` columns hold something.
            width: columns in use.

        Returns:
            `[N, V]` logits, keys, values; these may be the tensors that were given, written behind `width`.
        """
        import torch

        if self.rows is not None:
            self.rows.choose([BASE_ROW if name is None else self.slots[name] for name in adapters], self.device, self.dtype)
        (n, t), end = ids.shape, width + ids.shape[1]
        if self.decoder is None:
            seen = ids.new_ones(n, end) if mask is None else (mask[:, :end] == 0).long()
            return self._read_by_transformers(ids, positions, seen, memory, width)
        scores = None if mask is None else mask[:, None, None, :end]
        if t > 1:
            causal = torch.full((t, t), -torch.inf, dtype=self.dtype, device=self.device).triu(1)
            scores = causal.expand(n, 1, t, t).clone() if scores is None else causal + scores
            scores.diagonal(dim1=2, dim2=3).zero_()  # padding sees itself: of a row that sees nothing nothing is finite
        if memory is None:
            columns = end if mask is None else mask.shape[1]
            memory = (self.decoder.room(n, columns), self.decoder.room(n, columns))
        return self.decoder.forward(ids, positions, end, scores, *memory, width), *memory

    def _read_by_transformers(
        self, ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor, memory: Memory | None, width: int
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(zip(*memory, strict=True) if memory else ()):
            cache.update(keys[:, :, :width], values[:, :, :width], layer)
        optional: dict[str, Any] = {}
        if "position_ids" in self.optional:
            optional["position_ids"] = positions
        if "logits_to_keep" in self.optional:
            optional["logits_to_keep"] = 1
        output = self.network(input_ids=ids, attention_mask=seen, past_key_values=cache, use_cache=True, **optional)
        layers: Any = cache.layers
        return output.logits[:, -1, :], tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers)


def load(
    base: str | Path,
    adapters: Mapping[str, Path],
    *,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    context: int | None = None,
    members: str = "",
) -> LoadedModel:
    """Returns the base with every adapter in memory.

    Args:
        base: a directory with the model and its tokenizer.
        adapters: name to directory, in peft's format.
        device: where to put the weights.
        dtype: `auto` is float32 on a CPU, where answers then do not depend on their neighbours, and the model's own on CUDA.
        context: overrides the length that the model's configuration names.
        members: whose base it is, for errors; the folder's name without.

    Raises:
        UnusableMember: a file is missing or does not fit, named with the shapes.
    """
    base = Path(base)
    owner = members or base.name
    check_base_files(owner, base)
    for name, path in adapters.items():
        check_adapter_files(name, path)
    torch = _imported_torch(owner, with_adapters=bool(adapters))
    if device == "cuda" and not torch.cuda.is_available():
        raise UnusableMember(owner, "device", "cuda was asked for, and torch sees no CUDA device")
    weights = torch.float32 if dtype == "auto" and device == "cpu" else "auto" if dtype == "auto" else getattr(torch, dtype)
    network, tokenizer = _read_base(owner, base, weights)
    _check_vocabulary(owner, base, network, tokenizer)
    _check_template(owner, base, tokenizer)
    config = network.config.get_text_config()
    limit = context or getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not limit or limit < 1:
        found = f"the context length {limit}" if limit else "no context length"
        raise UnusableMember(owner, "context", f"{base}/config.json names {found}; 1 token or more is needed")
    ends = _end_tokens(owner, base, network, tokenizer)
    optional = frozenset(inspect.signature(network.forward).parameters) & {"position_ids", "logits_to_keep"}
    slots = {name: f"adapter{index}" for index, name in enumerate(sorted(adapters))}
    rows = None
    if adapters:
        network, rows = _with_adapters(network, {name: (slots[name], Path(path)) for name, path in adapters.items()}, base)
    network = network.to(device).eval().requires_grad_(False)
    model = LoadedModel(network, tokenizer, rows, slots, int(limit), ends, torch.device(device), network.dtype, optional)
    return _written_out(model)


def _imported_torch(owner: str, *, with_adapters: bool) -> Any:
    """Returns the module, once all that runs a base could be imported."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401 -- each is loaded as it is asked for
        from transformers.utils.logging import disable_progress_bar

        if with_adapters:
            import peft  # noqa: F401 -- whether it is there
    except ModuleNotFoundError as error:
        raise UnusableMember(owner, "base", f"needs the package {error.name}, which is not installed: {INSTALL}") from error
    except (ImportError, OSError) as error:  # it is installed and does not load: a version, or a library of the system
        raise UnusableMember(owner, "base", f"what runs a base does not load: {type(error).__name__}: {error}") from error
    disable_progress_bar()  # the service's standard error is a log of JSON lines
    return torch


def _read_base(owner: str, base: Path, weights: Any) -> tuple[Any, Any]:
    """Returns the network, its weights in this type, and the tokenizer.

    Nothing is fetched, executed or asked for: no code of the folder runs, no pickle is opened, no terminal is prompted.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    safely: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, **safely)
        network, found = AutoModelForCausalLM.from_pretrained(base, dtype=weights, weights_only=True, output_loading_info=True, **safely)
    except Exception as error:  # whatever a library of models raises, it is this base that does not load
        raise UnusableMember(owner, "base", f"{base} does not load: {_why(error)}") from error
    if found["missing_keys"]:  # transformers would fill them with random numbers
        raise UnusableMember(owner, "base", f"{base} lacks {_tensors(sorted(found['missing_keys']))} of its own architecture")
    return network, tokenizer


def _written_out(model: LoadedModel) -> LoadedModel:
    """Returns the model with the forward pass in fewer operations, if its architecture has one and both give the same logits."""
    import torch

    from attune.service.members.local_batch import read_alike

    if not can_read(model.network, model.context):
        return model
    try:
        with torch.no_grad():
            faster = replace(model, decoder=LlamaDecoder(model.network, model.rows))
    except TypeError:  # an adapter on a layer that is none of the linear ones
        return model
    if not read_alike(faster, model):
        log.warning("base %s: decoded by transformers' own modules, slower: ours give other logits", type(model.network).__name__)
        return model
    return faster


def _with_adapters(network: Any, adapters: Mapping[str, tuple[str, Path]], base: Path) -> tuple[Any, RowAdapters]:
    """Returns the network with the adapters' layers put into it, and the object through which rows choose among them."""
    from peft import PeftConfig, PeftModel

    # peft asks transformers for an attribute under its old name, once per model; the operator can do nothing about it.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    wrapped = None
    before = fingerprints(network)
    for name, (slot, path) in adapters.items():
        file = path / ADAPTER_WEIGHTS
        check_shapes(name, file, network if wrapped is None else wrapped.get_base_model(), base)
        try:
            config = PeftConfig.from_pretrained(str(path))
            config.inference_mode = True
            if wrapped is None:
                wrapped = PeftModel(network, config, adapter_name=slot, autocast_adapter_dtype=False)
            loaded = wrapped.load_adapter(str(path), adapter_name=slot, torch_device="cpu", autocast_adapter_dtype=False)
        except Exception as error:  # whatever peft raises, it is this adapter that does not load
            raise UnusableMember(name, str(file), f"does not fit the base {base}: {_why(error)}") from error
        _check_unchanged(name, path, before, fingerprints(network, adapted=True))
        if loaded.missing_keys:
            raise UnusableMember(name, str(file), f"lacks {_tensors(loaded.missing_keys)} that {ADAPTER_CONFIG} asks for")
        if loaded.unexpected_keys:
            raise UnusableMember(name, str(file), f"holds {_tensors(loaded.unexpected_keys)} that {ADAPTER_CONFIG} does not name")
        own = ((key, tensor) for key, tensor in wrapped.named_parameters() if ".lora_" in key and f".{slot}." in key)
        if broken := [key.replace(f".{slot}", "") for key, tensor in own if not bool(tensor.isfinite().all())]:
            raise UnusableMember(name, str(file), f"holds {_tensors(broken)} with numbers that are not finite")
    assert wrapped is not None, "called with at least one adapter"
    network = wrapped.get_base_model().eval()
    _check_unchanged(" and ".join(adapters), base, before, fingerprints(network), whole=True)
    return network, mix_rows(network, [slot for slot, _ in adapters.values()])


def _end_tokens(owner: str, base: Path, network: Any, tokenizer: Any) -> frozenset[int]:
    """Returns every id that the generation settings, the configuration or the tokenizer call the end of a text."""
    rows = network.get_input_embeddings().weight.shape[0]
    named = {
        GENERATION_CONFIG: getattr(network.generation_config, "eos_token_id", None),
        "config.json": network.config.eos_token_id,
        "tokenizer_config.json": tokenizer.eos_token_id,
    }
    return frozenset(one for file, ids in named.items() for one in check_end_tokens(owner, base / file, ids, rows))


def fingerprints(network: Any, *, adapted: bool = False) -> dict[str, int]:
    """Returns a checksum of each of the base's tensors by name; with `adapted`, only of the layers that hold an adapter.

    The adapters' own tensors are left out, and a layer that peft has wrapped keeps the name that it had. About a second a
    gigabyte.
    """
    import torch

    found = {}
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if ".lora_" in name or (adapted and ".base_layer." not in name):
            continue
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        found[name.replace(".base_layer.", ".")] = zlib.crc32(content)
    return found


def _check_unchanged(name: str, path: Path, before: Mapping[str, int], after: Mapping[str, int], *, whole: bool = False) -> None:
    """Raises `UnusableMember` if an adapter has changed the base that it shares with others."""
    changed = [tensor for tensor, checksum in after.items() if before.get(tensor) != checksum]
    changed += [tensor for tensor in before if whole and tensor not in after]
    if changed:
        raise UnusableMember(name, str(path), f"changes {_tensors(changed)} of the base that other members share")


def _check_vocabulary(owner: str, base: Path, network: Any, tokenizer: Any) -> None:
    """Raises `UnusableMember` if the tokenizer has a token beyond the rows of the embedding: a request would find it."""
    rows = network.get_input_embeddings().weight.shape[0]
    last = max((*tokenizer.get_vocab().values(), *tokenizer.get_added_vocab().values()), default=-1)
    if last >= rows:
        raise UnusableMember(owner, "base", f"{base}: its tokenizer has ids up to {last}, and its embedding has {rows} rows")


def _check_template(owner: str, base: Path, tokenizer: Any) -> None:
    """Raises `UnusableMember` if the chat template cannot write the least conversation: each request would be refused as its caller's."""
    if not tokenizer.chat_template:
        return
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever a template raises
        raise UnusableMember(owner, "base", f"{base}: its chat template writes no conversation: {_why(error)}") from error


def _why(error: Exception) -> str:
    """Returns the kind of an error and the beginning of its message on one line, and what to install if that may be it."""
    install = f"; the package {error.name} is missing, perhaps: {INSTALL}" if isinstance(error, ImportError) and error.name else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600] + install


def _tensors(keys: Sequence[str]) -> str:
    """Returns how many tensors there are and the first of them."""
    return f"{counted(len(keys), 'tensor')} ({keys[0]}{', …' if len(keys) > 1 else ''})"


def decoder_of(model: LoadedModel) -> Callable[[Sequence[int]], str]:
    """Returns the function from token ids to text, without special tokens and without tidying of spaces."""
    fast = getattr(model.tokenizer, "backend_tokenizer", None)
    if fast is not None:  # four times as fast as through the wrapper, and it is called for every token
        return lambda ids: str(fast.decode(list(ids), skip_special_tokens=True))
    return lambda ids: str(model.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
