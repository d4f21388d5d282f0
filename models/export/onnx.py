"""Trunk and every head as one ONNX graph, and how well the graph agrees with torch.

Beside the heads' outputs the graph gives the pooled vector itself (`POOLED`), from which the values of members are computed outside.

The graph reads `input_ids`, `attention_mask`, `pool_mask` `[N, T]` int64 with both axes dynamic, and gives one float32
array with leading axis `N` per output. Every row computes all outputs; the caller reads those that fit the row.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attune.models.data.graph import answers_of
from attune.models.data.trunk import Trunk, pad
from attune.models.export.operators import write_operators
from attune.models.seam.member_values import POOLED
from attune.models.seam.padding import INPUTS
from attune.models.seam.precision import probe_difference
from attune.models.seam.text import Encoded

OPSET = 18
MOST_SAID = 200
"""Characters of a library's own words in an error."""
LARGEST_MESSAGE = 1_900_000_000
"""Bytes that fit into one protobuf message with room to spare: it ends at 2 GiB."""


class ExportFailed(RuntimeError):
    """The graph does not agree with torch, or does not pass the checker; the message carries the difference."""


class ScorerGraph(nn.Module):
    """The trunk once, then every head module on its vector; each module maps `(h, e)` to named outputs.

    The same row vector is given as `h` and as `e`: a candidate's row is read for rewards, a prompt's row for gates.
    """

    def __init__(self, trunk: Trunk, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)
        self.eval()

    def named(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> dict[str, Tensor]:
        """Returns every output by name, `[N, ...]`."""
        vectors = self.trunk(input_ids, attention_mask, pool_mask)
        outputs: dict[str, Tensor] = {POOLED: vectors}
        for head in self.heads:
            for name, value in head(vectors, vectors).items():
                if name in outputs:
                    raise ExportFailed(f"two head modules give the output {name!r}")
                outputs[name] = value
        return outputs

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(input_ids, attention_mask, pool_mask).values())

    @torch.inference_mode()
    def answers(self, rows: Sequence[Encoded]) -> dict[str, NDArray[np.float32]]:
        """Returns torch's outputs for `rows`, each computed alone so that no neighbour can matter."""
        singles = [self.named(*pad([row])) for row in rows]
        return {name: np.concatenate([single[name].numpy() for single in singles]).astype(np.float32) for name in singles[0]}


def export_scorer(graph: ScorerGraph, rows: Sequence[Encoded], path: Path) -> float:
    """Writes the graph to `path` and returns its greatest difference from torch on `rows`, see `probe_difference`.

    Args:
        graph: trunk and heads.
        rows: two or more texts of different lengths; traced on the first two, compared on all, each alone.
        path: the file to write; its folder is made if absent. Weights of more than `LARGEST_MESSAGE` bytes go to one file beside it,
            `<stem>.data`.

    Raises:
        ExportFailed: the trunk's architecture makes no graph, or one that reads some lengths alone; the checker refuses it, or the
            difference is above 1e-3.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The exporter writes a file for every large weight where one message cannot hold them all, so it gets a folder of its own.
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        traced = Path(scratch) / path.name
        with _told_of(graph, "cannot be written as a graph"):
            _trace(graph, rows, traced)
        if sum(file.stat().st_size for file in Path(scratch).iterdir()) <= LARGEST_MESSAGE:
            traced.replace(path)
        else:
            model = onnx.load(str(traced))
            onnx.save(model, str(path), save_as_external_data=True, location=weights_beside(path).name, size_threshold=1024)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ExportFailed(f"the exported graph is not valid: {error}") from error
    with _told_of(graph, "makes a graph that does not read texts of every length"):
        found = answers_of(path, rows)
    worst = probe_difference(found, graph.answers(rows))
    if not worst <= 1e-3:
        raise ExportFailed(f"the exported graph differs from torch by {worst:g}; at most 0.001 is accepted")
    return worst


@contextlib.contextmanager
def _told_of(graph: ScorerGraph, what: str) -> Iterator[None]:
    """Turns whatever exporter and engine raise into a sentence about the trunk's architecture, with the first line of their words."""
    try:
        yield
    except (ExportFailed, OSError, MemoryError):
        raise
    except Exception as error:  # each library has errors of its own
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        architecture = type(graph.trunk.model).__name__
        raise ExportFailed(f"{architecture} {what}, so that it cannot be a trunk: {said[:MOST_SAID]}") from error


def libraries() -> dict[str, str]:
    """Returns the versions of what a graph is made with and held against."""
    # ONNX Runtime has another name as a package for GPUs.
    return {name: version(name) for name in ("torch", "transformers", "onnx", "numpy")} | {"onnxruntime": str(onnxruntime.__version__)}


def weights_beside(path: Path) -> Path:
    """Returns where the weights of the graph at `path` are if it does not hold them itself."""
    return path.with_suffix(".data")


def _trace(graph: ScorerGraph, rows: Sequence[Encoded], path: Path) -> None:
    traced = pad(rows[:2])
    with torch.inference_mode():
        names = list(graph.named(*traced))
    write_operators(OPSET)
    axes = {name: {0: "rows", 1: "tokens"} for name in INPUTS} | {name: {0: "rows"} for name in names}
    with warnings.catch_warnings(), _nothing_printed():
        # The TorchScript exporter is announced as legacy and traces transformers' mask code, whose Python branches do not
        # depend on the input's values here; `difference` below is the check that counts.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            traced,
            str(path),
            dynamo=False,
            input_names=list(INPUTS),
            output_names=names,
            dynamic_axes=axes,
            opset_version=OPSET,
        )


@contextlib.contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keeps standard output for what a command prints: an exporter that fails writes its whole graph there, past `sys.stdout`."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def difference(found: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float32]]) -> float:
    """Returns the greatest absolute difference over all outputs; NaN where either has one.

    Raises:
        ExportFailed: the outputs' names are not the same.
    """
    if set(found) != set(expected):
        raise ExportFailed(f"outputs differ: {sorted(set(found) ^ set(expected))}")
    return max((float(np.max(np.abs(found[name] - expected[name]))) for name in expected), default=float("nan"))


def graph_files(scorer: Path) -> dict[str, bytes | Path]:
    """Returns the files of an exported graph as a bundle has them: `scorer.onnx`, and beside it whatever holds its weights."""
    return {file.name: file for file in (scorer, weights_beside(scorer)) if file.is_file()}
