"""Trunk and every head as one ONNX graph, and how well the graph agrees with torch.

The graph reads `input_ids`, `attention_mask`, `pool_mask` `[N, T]` int64 with both axes dynamic, and gives one float32
array with leading axis `N` per output. Every row computes all outputs; the caller reads those that fit the row.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attune.models.data.trunk import Trunk, pad
from attune.models.seam.text import Encoded

INPUTS = ("input_ids", "attention_mask", "pool_mask")
OPSET = 18


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
        outputs: dict[str, Tensor] = {}
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
    """Writes the graph to `path` and returns its greatest absolute difference from torch on `rows`.

    Args:
        graph: trunk and heads.
        rows: two or more texts of different lengths; traced on the first two, compared on all, alone and together.
        path: the file to write.

    Raises:
        ExportFailed: the checker refuses the graph, or the difference is above 1e-3.
    """
    traced = pad(rows[:2])
    with torch.inference_mode():
        names = list(graph.named(*traced))
    axes = {name: {0: "rows", 1: "tokens"} for name in INPUTS} | {name: {0: "rows"} for name in names}
    with warnings.catch_warnings():
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
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ExportFailed(f"the exported graph is not valid: {error}") from error
    worst = difference(answers_of(path, rows), graph.answers(rows))
    if not worst <= 1e-3:
        raise ExportFailed(f"the exported graph differs from torch by {worst:g}; at most 0.001 is accepted")
    return worst


def quantise_scorer(source: Path, target: Path) -> None:
    """Writes the trunk's matrix products of `source` as per-channel int8 to `target`; heads stay fp32.

    Scores of an int8 graph depend on who shared the batch, because activations are scaled per batch: an option to state,
    never the default.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415 - pulls in half of onnx's tools

    nodes = onnx.load(str(source)).graph.node
    trunk = [node.name for node in nodes if node.op_type in {"MatMul", "Gemm"} and node.name.startswith("/trunk/")]
    if not trunk:
        raise ExportFailed(f"{source.name} has no matrix products under /trunk/; nothing would be quantised")
    quantize_dynamic(str(source), str(target), per_channel=True, weight_type=QuantType.QInt8, nodes_to_quantize=trunk)


def answers_of(path: Path, rows: Sequence[Encoded], *, batch: int = 1) -> dict[str, NDArray[np.float32]]:
    """Returns ONNX Runtime's outputs for `rows`, in batches of `batch` rows in the order given."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    parts: list[list[NDArray[np.float32]]] = []
    for start in range(0, len(rows), batch):
        feeds = {name: tensor.numpy() for name, tensor in zip(INPUTS, pad(rows[start : start + batch]), strict=True)}
        parts.append(session.run(names, feeds))
    return {name: np.concatenate([part[index] for part in parts]) for index, name in enumerate(names)}


def difference(found: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float32]]) -> float:
    """Returns the greatest absolute difference over all outputs; NaN where either has one.

    Raises:
        ExportFailed: the outputs' names are not the same.
    """
    if set(found) != set(expected):
        raise ExportFailed(f"outputs differ: {sorted(set(found) ^ set(expected))}")
    return max((float(np.max(np.abs(found[name] - expected[name]))) for name in expected), default=float("nan"))


@dataclass(frozen=True, slots=True)
class PrecisionLoss:
    """What a quantised graph costs, on texts that it was not calibrated on.

    Attributes:
        reward_rmse: root mean square difference of standardised rewards, over all families' heads.
        agreement: share of random pairs that a family's mean reward orders as fp32 does.
        batch_rmse: root mean square difference of the same row's rewards alone and in a batch of 8.
        fp32_batch_rmse: the same for fp32, the noise floor.
    """

    reward_rmse: float
    agreement: float
    batch_rmse: float
    fp32_batch_rmse: float


def measure_precision(fp32: Path, quantised: Path, rows: Sequence[Encoded], *, seed: int = 0) -> PrecisionLoss:
    """Returns what `quantised` loses against `fp32` on `rows`; pairs are drawn with `seed`."""
    alone, exact = (_rewards(answers_of(path, rows)) for path in (quantised, fp32))
    shared, exact_shared = (_rewards(answers_of(path, rows, batch=8)) for path in (quantised, fp32))
    pairs = np.random.default_rng(seed).integers(0, len(rows), size=(4096, 2))
    first, second = pairs[pairs[:, 0] != pairs[:, 1]].T
    agreement = float(np.mean(np.sign(alone[first] - alone[second]) == np.sign(exact[first] - exact[second])))
    return PrecisionLoss(_rmse(alone, exact), agreement, _rmse(shared, alone), _rmse(exact_shared, exact))


def _rewards(answers: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([value for name, value in sorted(answers.items()) if name.endswith("_rewards")], axis=1)


def _rmse(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2)))
