"""The scorer graph: equal to torch for both kinds of trunk, at any shape."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from attune.models.data.graph import answers_of
from attune.models.data.trunk import Trunk, load_trunk
from attune.models.export.onnx import ExportFailed, ScorerGraph, difference, export_scorer, libraries
from attune.models.seam.text import Encoded
from tests.models.tiny_trunk import write_tiny_trunk


class Heads(nn.Module):
    """Linear rewards on the candidate's vector and a gate on the prompt's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.rewards = nn.Linear(width, 3)
        self.gate = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, h: Tensor, e: Tensor) -> dict[str, Tensor]:
        return {"micro_rewards": self.rewards(h), "micro_gate": torch.log_softmax(self.gate(e), dim=-1)}


def rows_of(trunk: Trunk) -> list[Encoded]:
    answers = ["hello", "boil the egg for nine minutes", "", "perhaps " * 20, "日本語"]
    return [*trunk.encoder.candidates("how are you today?", answers), trunk.encoder.prompt("hello world", "be brief")]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("layers", [(), (1, 2), (1,)], ids=str)
def test_graph_equals_torch_alone_and_in_batches(kind: str, layers: tuple[int, ...], tmp_path: Path) -> None:
    trunk = load_trunk(str(write_tiny_trunk(tmp_path, kind)), layers=layers)  # type: ignore[arg-type]  # parametrize gives str
    graph = ScorerGraph(trunk, [Heads(trunk.width)])
    rows = rows_of(trunk)
    assert export_scorer(graph, rows, tmp_path / "scorer.onnx") < 1e-5
    expected = graph.answers(rows)
    for batch in (1, 2, len(rows)):
        assert difference(answers_of(tmp_path / "scorer.onnx", rows, batch=batch), expected) < 1e-5


def test_two_modules_with_one_output_name_are_refused(tmp_path: Path) -> None:
    trunk = load_trunk(str(write_tiny_trunk(tmp_path, "encoder")))
    graph = ScorerGraph(trunk, [Heads(trunk.width), Heads(trunk.width)])
    with pytest.raises(ExportFailed, match="micro_rewards"):
        export_scorer(graph, rows_of(trunk), tmp_path / "scorer.onnx")


def test_export_leaves_the_trunk_in_evaluation_mode(tmp_path: Path) -> None:
    trunk = load_trunk(str(write_tiny_trunk(tmp_path, "encoder")))
    rows = rows_of(trunk)
    before = trunk.embed(rows)
    export_scorer(ScorerGraph(trunk, [Heads(trunk.width)]), rows, tmp_path / "scorer.onnx")
    np.testing.assert_array_equal(trunk.embed(rows), before)


def test_a_difference_that_is_not_a_number_is_not_small() -> None:
    broken = {"x": np.array([np.nan], dtype=np.float32)}
    assert not difference(broken, {"x": np.zeros(1, dtype=np.float32)}) <= 1e-3
    with pytest.raises(ExportFailed, match="'y'"):
        difference(broken, {"y": np.zeros(1, dtype=np.float32)})


def test_versions_are_told_also_where_the_engine_is_the_package_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = Path(onnxruntime.__file__).parents[1]
    for entry in packages.iterdir():  # all but what says that a package of this name is installed: that of GPUs has another
        if not entry.name.startswith("onnxruntime-"):
            (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.setattr(sys, "path", [str(tmp_path) if Path(place) == packages else place for place in sys.path])
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("onnxruntime")
    assert libraries()["onnxruntime"] == onnxruntime.__version__
