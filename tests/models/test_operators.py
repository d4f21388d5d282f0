"""The operators that the exporter is taught give what torch gives for sizes that were not traced, and trunks made of them can be packed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from attune.models.data.trunk import load_trunk
from attune.models.export.onnx import OPSET
from attune.models.export.operators import write_operators
from attune.models.export.trial import expect_graph
from tests.models.test_odd_trunks import SIZES, write


class Of(nn.Module):
    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.what = what

    def forward(self, values: Tensor) -> Tensor:
        return self.what(values)


@pytest.mark.parametrize(
    "what",
    [
        lambda values: values.repeat_interleave(2, dim=-1),
        lambda values: values.repeat_interleave(3, dim=0),
        lambda values: values[:, None].repeat_interleave(4, dim=1),
        lambda values: values.repeat_interleave(torch.tensor([2, 1, 1, 3]), dim=-1),
        lambda values: values.repeat_interleave(2),
        torch.expm1,
    ],
)
def test_an_operator_gives_what_torch_gives_for_other_sizes(tmp_path: Path, what: Callable[[Tensor], Tensor]) -> None:
    write_operators(OPSET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Of(what),
            (torch.ones(2, 4),),
            str(tmp_path / "a.onnx"),
            dynamo=False,
            input_names=["values"],
            dynamic_axes={"values": {0: "rows"}},
            opset_version=OPSET,
        )
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    given = torch.arange(20.0).reshape(5, 4) / 10
    (found,) = session.run(None, {"values": given.numpy()})
    np.testing.assert_allclose(found, what(given).numpy(), atol=1e-6)


GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 96, "pad_token_id": 0}


@pytest.mark.parametrize("architecture", ["Cohere", "Glm", "Ernie4_5", "Helium", "Apertus"])
def test_decoders_with_interleaved_positions_or_xielu_can_be_packed(tmp_path: Path, architecture: str) -> None:
    said: list[str] = []
    fields: dict[str, Any] = GROUPED | (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}} if architecture == "Apertus" else {}
    )
    expect_graph(load_trunk(write(tmp_path, architecture, encoder=False, **fields), layers=(0, 2)), None, said.append)
    assert f"{architecture}Model can be packed" in said[-1]
