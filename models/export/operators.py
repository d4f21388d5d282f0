"""Operators that the exporter lacks, or writes for tensors of known sizes alone, as graphs of operators that it has.

Without them no decoder with interleaved rotary positions (Cohere, GLM, ERNIE 4.5, Helium) or xIELU (Apertus) could be a trunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.onnx import register_custom_op_symbolic, symbolic_opset13  # type: ignore[attr-defined]  # not in its `__all__`


def write_operators(opset: int) -> None:
    """Has the exporter write `repeat_interleave` by a number and `expm1`, from this opset on; again changes nothing."""
    register_custom_op_symbolic("aten::repeat_interleave", _repeat_interleave, opset)
    register_custom_op_symbolic("aten::expm1", _expm1, opset)


def _repeat_interleave(graph: Any, values: Any, repeats: Any, dim: Any = None, output_size: Any = None) -> Any:
    count, axis = _number(repeats), _number(dim)
    if count is None or axis is None:
        return symbolic_opset13.repeat_interleave(graph, values, repeats, dim, output_size)
    rank = values.type().dim()
    axis %= rank
    # Each entry beside itself on an axis of their own, which then goes up in the one before it: no size need be known.
    apart = graph.op("Unsqueeze", values, _constant(graph, [axis + 1]))
    beside = graph.op("Tile", apart, _constant(graph, [count if at == axis + 1 else 1 for at in range(rank + 1)]))
    longer = graph.op("Mul", graph.op("Shape", values), _constant(graph, [count if at == axis else 1 for at in range(rank)]))
    return graph.op("Reshape", beside, longer)


def _expm1(graph: Any, values: Any) -> Any:
    return graph.op("Sub", graph.op("Exp", values), graph.op("Constant", value_t=torch.tensor(1.0)))


def _number(value: Any) -> int | None:
    """Returns the whole number that a traced value is, or None where it is computed, or no number."""
    if value is None or value.node().kind() not in {"onnx::Constant", "prim::Constant"} or value.node().mustBeNone():
        return None
    found = value.toIValue() if value.node().kind() == "prim::Constant" else value.node().t("value")
    return int(found) if torch.as_tensor(found).numel() == 1 else None


def _constant(graph: Any, numbers: list[int]) -> Any:
    return graph.op("Constant", value_t=torch.tensor(numbers))
