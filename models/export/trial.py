"""Whether a trunk's architecture makes a graph that a bundle can hold, asked before hours are spent on heads for it.

    trunk (cut to two layers, where its weights are many) ─> `export_scorer`, without heads ─> remembered, or ExportFailed

The answer belongs to weights, configuration and libraries: a trunk that made a graph under the same is not asked again.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from attune.models.data.classifier import ClassifierTrunk
from attune.models.data.probes import ODD, ORDINARY
from attune.models.data.trunk import Trunk
from attune.models.export.onnx import MOST_SAID, ScorerGraph, export_scorer, libraries
from attune.models.export.pack import encode_probes

MOST_BYTES = 1_000_000_000
"""Weights up to which the trunk itself is exported, which takes as much of memory and of disk again."""
KEPT_LAYERS, KEPT_TOKENS = 2, 1024
"""What is left of a larger one: a vocabulary is most of what two layers would weigh."""


class _Uncut(Exception):
    """The configuration cannot be cut; the message says why."""


def expect_graph(trunk: Trunk, cache: Path | None, tell: Callable[[str], None], *, most_bytes: int = MOST_BYTES) -> None:
    """Returns if the trunk makes a graph that agrees with torch on texts of several lengths, or if that could not be tried.

    Args:
        trunk: on the CPU.
        cache: folder in which is remembered that it did; None asks every time.
        tell: told that it is tried, how long that took, and where it could not be.
        most_bytes: of weights, above which a model of the same configuration stands for it, with two layers, few tokens and random weights.

    Raises:
        ExportFailed: it makes none; see `export_scorer`.
        OSError: there is no room for the graph, or `cache` cannot be written to.
    """
    known = None if cache is None else cache / f"graph-{_fingerprint(trunk)[:16]}.txt"
    if known is not None and known.is_file():
        return
    tell("trying whether the trunk can be packed, before anything is learned on it")
    began = time.monotonic()
    size = _bytes(trunk.model)
    name, of = type(trunk.model).__name__, "all of it"
    rows = encode_probes(trunk.encoder, [*ORDINARY[:2], *ODD[1:]])  # two are traced, of other lengths than the other two
    if size > most_bytes:
        try:
            trunk, of = _cut(trunk), f"{KEPT_LAYERS} layers with random weights"
            rows = [replace(row, input_ids=tuple(token % KEPT_TOKENS for token in row.input_ids)) for row in rows]
        except _Uncut as error:
            tell(f"not tried: {name} has {size / 1e9:.1f} GB of weights and cannot be cut to {KEPT_LAYERS} layers: {error}")
            return
    with tempfile.TemporaryDirectory() as scratch:
        export_scorer(ScorerGraph(trunk, []), rows, Path(scratch) / "scorer.onnx")
    found = f"{name} can be packed: tried on {of} in {time.monotonic() - began:.1f} s"
    tell(found)
    if known is not None:
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(found + "\n", encoding="utf-8")


def _fingerprint(trunk: Trunk) -> str:
    config: Any = trunk.model.config
    parts = (trunk.sha256, config.to_json_string(use_diff=False), *libraries().values())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _bytes(model: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _cut(trunk: Trunk) -> Trunk:
    """Returns a trunk of the same configuration but for the numbers of layers and tokens, with random weights.

    Raises:
        _Uncut: its configuration does not say how many layers there are, or makes no smaller model with fewer.
    """
    config: Any = copy.deepcopy(trunk.model.config)
    layers = (0, 1, KEPT_LAYERS) if trunk.layers else ()
    tokenizer = Tokenizer.from_str(trunk.tokenizer_json.decode())
    try:
        _shorten(config.get_text_config())
        model: Any = type(trunk.model)(config)
        cut = (
            ClassifierTrunk(model, tokenizer, trunk.template, trunk.name, trunk.source, token_types=trunk.token_types)
            if isinstance(trunk, ClassifierTrunk)
            else Trunk(model, tokenizer, trunk.template, trunk.name, layers, trunk.pooling)
        )
        model.resize_token_embeddings(min(KEPT_TOKENS, config.get_text_config().vocab_size), mean_resizing=False)
    except Exception as error:  # each configuration has conditions of its own
        raise _Uncut(next(iter(str(error).strip().splitlines()), type(error).__name__)[:MOST_SAID]) from error
    if _bytes(model) >= _bytes(trunk.model):
        raise _Uncut("it would be as large")
    return cut


def _shorten(config: Any) -> None:
    """Leaves two layers of a configuration, of two kinds where there are several (full and sliding attention, say)."""
    layers = config.num_hidden_layers
    config.num_hidden_layers = KEPT_LAYERS
    for name, each in vars(config).items():
        if isinstance(each, list | tuple) and len(each) == layers:
            setattr(config, name, [each[0], next((one for one in each if one != each[0]), each[0])])
