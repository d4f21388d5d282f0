"""A trained reward model or classifier as a trunk: everything up to its final linear layer, whose weights become the heads.

The vector of a text is what that layer reads: for a decoder the state of the last token, for an encoder whatever its pooler and
classification head make of the first. Both are found by asking the model itself, so that no architecture has to be known here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from attune.models.data.hub import no_load_report
from attune.models.data.model_folder import TrunkUnavailable, expect_rows, fast_tokenizer, loading, open_model
from attune.models.data.templates import TemplateKind, TextLimits
from attune.models.data.trunk import LANGUAGE_HEADS, Trunk, expect_usable, last_states, make_template, with_length
from attune.models.seam.text import TextTemplate


class ClassifierTrunk(Trunk):
    """A sequence classifier without its final layer.

    Attributes:
        final: that layer, `[D] -> [labels]`.
        labels: names of its outputs, in order.
        token_types: whether it was trained with the second text marked as such, as cross-encoders are.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer, template: TextTemplate, name: str, source: str, *, token_types: bool = False
    ) -> None:
        super().__init__(model, tokenizer, template, name, (), "classifier", source)
        config: Any = model.config
        self.final = final_layer(model, int(config.num_labels))
        self.labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
        self.width = self.final.in_features + 1
        self.token_types = token_types

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """Returns what the final layer reads, and the log of the length, `[N, D + 1]` float32."""
        types = {"token_type_ids": (pool_mask.cumsum(dim=1) > 0).long() * attention_mask} if self.token_types else {}
        with _input_of(self.final) as seen:
            self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        read = seen[0].float()
        return with_length(last_states(read, attention_mask) if read.dim() == 3 else read, pool_mask)


def final_layer(model: nn.Module, labels: int) -> nn.Linear:
    """Returns the last linear layer of a classifier.

    Raises:
        TrunkUnavailable: it has none that gives as many numbers as there are labels.
    """
    found = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == labels]
    if not found:
        raise TrunkUnavailable(f"{type(model).__name__} does not end in a linear layer with {labels} outputs")
    return found[-1]


def load_classifier(source: str, *, template: TemplateKind | TextTemplate = "pair", limits: TextLimits | None = None) -> ClassifierTrunk:
    """Returns the classifier at a folder or hub id as a trunk; code that comes with it is never run.

    Raises:
        TrunkUnavailable: nothing is there, it is no sequence classifier with a trained head, or its tokenizer cannot be used, or a text's
            logits depend on the texts beside it.
        ValueError: the limits leave no room.
    """
    from transformers import AutoModelForSequenceClassification  # noqa: PLC0415 - 1.6 s that `--help` need not pay

    location, config, tokenizer = open_model(source)
    with loading(f"reward model {source!r}"), no_load_report():
        model, told = AutoModelForSequenceClassification.from_pretrained(
            location, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    untrained = sorted({*told["missing_keys"], *map(str, told["mismatched_keys"])})
    lost = sorted(told["unexpected_keys"])
    if untrained and (other := [key for key in lost if not LANGUAGE_HEADS.search(key)]):
        raise TrunkUnavailable(
            f"{source!r} keeps a head that {type(model).__name__} does not read, {_some(other)}, and {_some(untrained)} would be random; "
            "save it as a sequence classifier of transformers, with its weights under those names"
        )
    if untrained:
        raise TrunkUnavailable(
            f"{source!r} has no trained head for texts: {_some(untrained)} would be random; "
            "a model without a head is a trunk, on which heads are trained"
        )
    if lost:
        raise TrunkUnavailable(
            f"{source!r} has weights that {type(model).__name__} does not use: {_some(lost)}; its answers would be another model's"
        )
    expect_rows(f"reward model {source!r}", tokenizer, model)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    if model.config.get_text_config().pad_token_id is None:
        # Its own pooling asks for one before it pads nothing; ours reads the mask.
        model.config.get_text_config().pad_token_id = model.config.pad_token_id = 0
    made = make_template(source, tokenizer, config, model, template, limits)
    types = any(tokenizer("a", "b").get("token_type_ids", ()))
    trunk = ClassifierTrunk(model, fast_tokenizer(tokenizer), made, Path(source).name, source, token_types=types)
    expect_usable(trunk)
    return trunk


@contextlib.contextmanager
def _input_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a layer is given while the context is open."""
    seen: list[Tensor] = []

    def collect(_layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0])

    handle = layer.register_forward_pre_hook(collect)
    try:
        yield seen
    finally:
        handle.remove()


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (" …" if keys[4:] else "")
