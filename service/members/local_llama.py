"""The forward pass of decoders built like Llama, in few operations and with keys and values written in place.

    ids ── embedding ── [ norm · q k v · turn · attend · o · norm · gate up · down ] x L ── norm · head ──> logits

transformers' own modules spend most of a step of a small model on Python: masks, caches and rotations are made anew for
each layer, and keys and values are copied with every token. This reads the same weights of the same modules. An
architecture is taken only if its class is listed here and `agrees` has found its logits equal at load; all others keep
transformers' forward. Axes: N rows, T tokens, C columns in memory, H heads, K heads of keys, E head size, D width, L layers,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attune.service.members.local_lora import JoinedLinear, RowAdapters

if TYPE_CHECKING:
    import torch

# Pre-norm blocks of rotary grouped attention and SwiGLU; biases and norms of queries and keys are read from the modules.
_ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
# Those whose angles depend on the position alone, and not on how long the longest text of a batch is.
_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
_FIRST_TURNS = 512


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of one block; `head_norm` is `[H + K, E]`, where the architecture has one."""

    before: torch.Tensor
    qkv: JoinedLinear
    head_norm: torch.Tensor | None
    out: JoinedLinear
    between: torch.Tensor
    gate_up: JoinedLinear
    down: JoinedLinear


class LlamaDecoder:
    """The weights of a network, in the order in which a forward pass reads them.

    Args:
        network: a causal language model of transformers, on its device, for which `can_read` is true.
        rows: where the adapter of each row is said; None without adapters.

    Raises:
        TypeError: a layer is of a kind that is not known.
    """

    def __init__(self, network: Any, rows: RowAdapters | None) -> None:
        model, config = network.model, network.config
        self._rotary = model.rotary_emb
        self._embedding: torch.Tensor = model.embed_tokens.weight
        first = model.layers[0].self_attn
        self._size = int(first.head_dim)
        self._heads, self._key_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._scale = float(first.scaling)
        self._eps = float(config.rms_norm_eps)
        self._layers = [self._layer(layer, rows) for layer in model.layers]
        self._norm: torch.Tensor = model.norm.weight
        self._head = JoinedLinear([network.lm_head], rows)
        self._turns = self._turned_by(_FIRST_TURNS)

    def _layer(self, layer: Any, rows: RowAdapters | None) -> _Layer:
        import torch

        attention, mlp = layer.self_attn, layer.mlp
        norms = (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
        head_norm = None
        if norms[0] is not None and norms[1] is not None:
            wide = (norms[0].weight.expand(self._heads, -1), norms[1].weight.expand(self._key_heads, -1))
            head_norm = torch.cat(wide)
        return _Layer(
            layer.input_layernorm.weight,
            JoinedLinear([attention.q_proj, attention.k_proj, attention.v_proj], rows),
            head_norm,
            JoinedLinear([attention.o_proj], rows),
            layer.post_attention_layernorm.weight,
            JoinedLinear([mlp.gate_proj, mlp.up_proj], rows),
            JoinedLinear([mlp.down_proj], rows),
        )

    def room(self, rows: int, columns: int) -> tuple[torch.Tensor, ...]:
        """Returns L tensors `[N, K, C, E]` of zeros: room for keys, or for values."""
        shape = (rows, self._key_heads, columns, self._size)
        return tuple(self._embedding.new_zeros(shape) for _ in self._layers)

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        longest: int,
        mask: torch.Tensor | None,
        keys: tuple[torch.Tensor, ...],
        values: tuple[torch.Tensor, ...],
        width: int,
    ) -> torch.Tensor:
        """Returns `[N, V]` logits after the last token of each row, and writes T columns of keys and values.

        Args:
            ids: `[N, T]` token ids.
            positions: `[N, T]` position of each token in its own text.
            longest: one more than the highest position.
            mask: `[N, 1, T, width + T]` what is added to the scores; None sees everything.
            keys: L tensors `[N, K, C, E]`, C at least `width + T`.
            values: as `keys`.
            width: columns that hold something already.
        """
        import torch
        from torch.nn.functional import embedding, rms_norm, scaled_dot_product_attention, silu

        n, t = ids.shape
        heads, key_heads, size = self._heads, self._key_heads, self._size
        if longest > self._turns.shape[1]:
            self._turns = self._turned_by(longest + longest // 4)
        cos, sin = self._turns[:, positions].unsqueeze(3)  # each [N, T, 1, E]
        grouped = heads != key_heads
        end, half = width + t, size // 2
        x = embedding(ids.flatten(), self._embedding)  # [N * T, D]
        wide = (x.shape[1],)
        for layer, own_keys, own_values in zip(self._layers, keys, values, strict=True):
            qkv = layer.qkv(rms_norm(x, wide, layer.before, self._eps), n).view(n, t, heads + 2 * key_heads, size)
            turned = qkv[:, :, : heads + key_heads]
            if layer.head_norm is not None:
                turned = rms_norm(turned, (size,), None, self._eps) * layer.head_norm
            turned = (turned * cos).addcmul_(torch.cat((turned[..., half:], turned[..., :half]), -1), sin)
            asked, new = turned.tensor_split((heads,), 2)
            own_keys[:, :, width:end] = new.transpose(1, 2)
            own_values[:, :, width:end] = qkv[:, :, heads + key_heads :].transpose(1, 2)
            seen_keys, seen_values = own_keys[:, :, :end], own_values[:, :, :end]
            if layer is self._layers[-1] and t > 1:  # nobody reads what the tokens before the last become
                asked, x, t = asked[:, -1:], x.view(n, t, -1)[:, -1], 1
                mask = None if mask is None else mask[:, :, -1:]
            if t == 1:  # the heads that share keys are as tokens of one head: nothing is repeated
                asked = asked.reshape(n, key_heads, heads // key_heads, size)
                read = scaled_dot_product_attention(asked, seen_keys, seen_values, mask, scale=self._scale).reshape(n, -1)
            else:
                read = scaled_dot_product_attention(
                    asked.transpose(1, 2), seen_keys, seen_values, mask, scale=self._scale, enable_gqa=grouped
                )
                read = read.transpose(1, 2).reshape(n * t, -1)
            x = layer.out(read, n).add_(x)
            gate, up = layer.gate_up(rms_norm(x, wide, layer.between, self._eps), n).chunk(2, -1)
            x = layer.down(silu(gate).mul_(up), n).add_(x)
        return self._head(rms_norm(x, wide, self._norm, self._eps), n)

    def _turned_by(self, positions: int) -> torch.Tensor:
        """Returns `[2, positions, E]`: cosines, and the sines by which the halves of a head are multiplied crosswise."""
        import torch

        places = torch.arange(positions, device=self._embedding.device)[None]
        cos, sin = self._rotary(self._embedding[:1, None], places)
        signed = torch.cat((-sin[..., : self._size // 2], sin[..., self._size // 2 :]), -1)
        return torch.cat((cos, signed))


def can_read(network: Any, context: int) -> bool:
    """Returns whether the network is of an architecture that `LlamaDecoder` writes out, with nothing added to it."""
    import torch

    config = network.config
    window = getattr(config, "sliding_window", None)
    rotary = getattr(getattr(network, "model", None), "rotary_emb", None)
    return (
        type(network).__name__ in _ARCHITECTURES
        and getattr(config, "hidden_act", None) == "silu"
        and getattr(rotary, "rope_type", None) in _ROTATIONS
        and (window is None or window >= context)
        and type(network.model.embed_tokens) is torch.nn.Embedding  # otherwise an adapter is on it
    )
