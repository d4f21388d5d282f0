"""Twins of the scorer's graph: close to fp32, alike alone and in batches, in order, with heads and types untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from attune.models.data.graph import answers_of
from attune.models.data.trunk import Pooling, Trunk, load_trunk, text_config
from attune.models.export.faster_graphs import (
    PrecisionLoss,
    _types,
    fused_fp16,
    measure_precision,
    row_scaled_int8,
    save_graph,
    scorer_entry,
    tolerance,
)
from attune.models.export.onnx import ExportFailed, ScorerGraph, difference, export_scorer
from attune.models.seam.processor import int8_session_entries
from attune.models.seam.text import Encoded
from tests.models.architectures import DECODERS, ENCODERS, write_architecture
from tests.models.test_onnx import Heads, rows_of
from tests.models.tiny_trunk import write_tiny_trunk

KINDS = pytest.mark.parametrize("kind", ["encoder", "decoder"])


Exported = tuple[ScorerGraph, list[Encoded], Path]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("encoder", tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("decoder", tmp_path_factory.mktemp("decoder"))


def exported(kind: str, folder: Path) -> Exported:
    trunk = load_trunk(str(write_tiny_trunk(folder, kind)), layers=(1, 2))  # type: ignore[arg-type]  # parametrize gives str
    graph, rows = ScorerGraph(trunk, [Heads(trunk.width)]), more_rows(trunk)
    export_scorer(graph, rows, folder / "scorer.onnx")
    return graph, rows, folder / "scorer.onnx"


def more_rows(trunk: Trunk) -> list[Encoded]:
    words = ["boil", "the", "egg", "hello", "perhaps", "someone", "minutes", "you"]
    draw = np.random.default_rng(3)
    answers = [" ".join(draw.choice(words, size=draw.integers(1, 20))) for _ in range(24)]
    return [*rows_of(trunk), *trunk.encoder.candidates("how are you today?", answers)]


def loss_of(twin: Path, fp32: Path, rows: list[Encoded]) -> PrecisionLoss:
    return measure_precision(fp32, twin, rows)


@KINDS
def test_int8_keeps_the_order_and_does_not_depend_on_the_batch(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    graph, rows, fp32 = request.getfixturevalue(kind)
    products = row_scaled_int8(fp32, tmp_path / "int8.onnx")
    assert products == {"encoder": 12, "decoder": 14}[kind]  # 6 and 7 matrices in each of two layers
    loss = loss_of(tmp_path / "int8.onnx", fp32, rows)
    assert 0.0 < loss.reward_rmse < 0.1
    assert loss.agreement > 0.95
    assert loss.batch_difference < 5e-6
    entry = scorer_entry("scorer-int8.onnx", "int8", tmp_path / "int8.onnx", rows, graph.answers(rows))
    assert entry["file"] == "scorer-int8.onnx"
    assert entry["difference_from_torch"] <= entry["tolerance"] == tolerance("int8")
    assert entry["batch_dependence"] < 5e-6


@KINDS
def test_fp16_fuses_what_it_knows_keeps_types_and_agrees_with_torch(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    graph, rows, fp32 = request.getfixturevalue(kind)
    model_type = {"encoder": "bert", "decoder": "llama"}[kind]
    assert fused_fp16(fp32, tmp_path / "fp16.onnx", model_type, heads=2, hidden=32) is (kind == "encoder")
    twin, source = onnx.load(str(tmp_path / "fp16.onnx")).graph, onnx.load(str(fp32)).graph
    assert [(value.name, value.type.tensor_type.elem_type) for value in twin.output] == [
        (value.name, value.type.tensor_type.elem_type) for value in source.output
    ]
    assert [value.name for value in twin.input] == [value.name for value in source.input]
    assert sum(node.op_type == "Attention" for node in twin.node) == (2 if kind == "encoder" else 0)
    assert any(tensor.data_type == TensorProto.FLOAT16 for tensor in twin.initializer)
    entry = scorer_entry("scorer-fp16.onnx", "fp16", tmp_path / "fp16.onnx", rows, graph.answers(rows))
    assert 0.0 < entry["difference_from_torch"] <= tolerance("fp16")
    assert loss_of(tmp_path / "fp16.onnx", fp32, rows).agreement > 0.98


def test_an_architecture_without_a_pattern_is_converted_without_fusing(encoder: Exported, tmp_path: Path) -> None:
    graph, rows, fp32 = encoder
    assert not fused_fp16(fp32, tmp_path / "fp16.onnx", "unheard-of", heads=2, hidden=32)
    assert difference(answers_of(tmp_path / "fp16.onnx", rows), graph.answers(rows)) < 0.02


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_every_architecture_and_pooling_has_twins_that_load(architecture: str, tmp_path: Path) -> None:
    pooling: Pooling = "last" if architecture in DECODERS else "cls"
    trunk = load_trunk(str(write_architecture(tmp_path / "trunk", architecture)), pooling=pooling)
    graph, rows = ScorerGraph(trunk, [Heads(trunk.width)]), trunk.encoder.candidates("how are you?", ["yes", "boil the egg"])
    export_scorer(graph, rows, tmp_path / "scorer.onnx")
    config = text_config(trunk.model)
    sizes = config.model_type, config.num_attention_heads, config.hidden_size
    assert fused_fp16(tmp_path / "scorer.onnx", tmp_path / "fp16.onnx", *sizes) is (architecture in {"Bert", "Roberta"})
    row_scaled_int8(tmp_path / "scorer.onnx", tmp_path / "int8.onnx")
    for precision in ("fp16", "int8"):
        scorer_entry("scorer.onnx", precision, tmp_path / f"{precision}.onnx", rows, graph.answers(rows))  # refuses what is too far off


def test_values_are_typed_without_looking_at_the_weights(decoder: Exported) -> None:
    _, _, fp32 = decoder
    model = onnx.load(str(fp32))
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    expected = _types(model)
    assert len(expected) > len(model.graph.node) / 2
    largest.ClearField("raw_data")  # a weight of which nothing is left but its shape
    assert [one.SerializeToString() for one in _types(model)] == [one.SerializeToString() for one in expected]


def test_a_twin_that_is_too_far_from_torch_is_refused_with_both_numbers(encoder: Exported, tmp_path: Path) -> None:
    graph, rows, fp32 = encoder
    row_scaled_int8(fp32, tmp_path / "int8.onnx")
    wrong = {name: value + 9.0 for name, value in graph.answers(rows).items()}
    with pytest.raises(ExportFailed, match=r"the int8 graph differs from torch by .*; at most 0.3"):
        scorer_entry("scorer.onnx", "int8", tmp_path / "int8.onnx", rows, wrong)


def test_heads_stay_as_they_are(encoder: Exported, tmp_path: Path) -> None:
    _, _, fp32 = encoder
    row_scaled_int8(fp32, tmp_path / "int8.onnx")
    fused_fp16(fp32, tmp_path / "fp16.onnx", "bert", heads=2, hidden=32)
    source = heads_of(onnx.load(str(fp32)))
    assert source
    for twin in ("int8.onnx", "fp16.onnx"):
        kept = heads_of(onnx.load(str(tmp_path / twin)))
        assert {name: (value.dtype, value.tobytes()) for name, value in kept.items()} == {
            name: (value.dtype, value.tobytes()) for name, value in source.items()
        }


def heads_of(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name.startswith("heads.")}


# --- graphs made by hand: every shape that a product may have -----------------------------------------------------------


def gemm(weight: np.ndarray, *, bias: np.ndarray | None, shared: bool = False, **attributes: float) -> ModelProto:
    nodes = [helper.make_node("Gemm", ["x", "w", *(["b"] if bias is not None else [])], ["y"], "/trunk/gemm", **attributes)]
    if shared:  # tied weights: somebody else reads the matrix as it is
        nodes.append(helper.make_node("ReduceSum", ["w"], ["z"], "/trunk/sum", keepdims=0))
    tensors = [numpy_helper.from_array(weight, "w"), *([numpy_helper.from_array(bias, "b")] if bias is not None else [])]
    floats = [("y", ["N", None]), *([("z", [])] if shared else [])]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in floats],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(path: Path, x: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for entry in int8_session_entries().items():
        options.add_session_config_entry(*entry)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_gemm_keeps_its_transposition_factors_and_bias(transposed: bool, with_bias: bool, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(8, 5)).astype(np.float32)
    bias = draw.normal(size=5).astype(np.float32) if with_bias else None
    x = (draw.normal(size=(6, 8)) * np.array([[1e-3], [1.0], [50.0], [0.0], [2.0], [1.0]])).astype(np.float32)
    model = gemm(weight.T.copy() if transposed else weight, bias=bias, transB=int(transposed), alpha=0.5, beta=2.0)
    assert row_scaled_int8(model, tmp_path / "int8.onnx") == 1
    (found,) = run(tmp_path / "int8.onnx", x)
    expected = 0.5 * x @ weight + (0.0 if bias is None else 2.0 * bias)
    # Two roundings of half a step each, summed over eight products of the row's and the column's greatest values.
    bound = 0.5 * 8 * (np.abs(x).max(axis=1, keepdims=True) * np.abs(weight).max(axis=0)) / 127 + 1e-6
    assert np.all(np.abs(found - expected) <= bound)
    assert np.array_equal(found[3], expected[3])  # a row of zeros is exact


def test_a_matrix_that_others_read_as_well_is_kept_for_them(tmp_path: Path) -> None:
    weight = np.arange(40, dtype=np.float32).reshape(8, 5)
    row_scaled_int8(gemm(weight, bias=None, shared=True), tmp_path / "int8.onnx")
    _, total = run(tmp_path / "int8.onnx", np.ones((1, 8), dtype=np.float32))
    assert total == weight.sum()


def test_a_graph_without_constant_products_or_of_an_old_opset_is_refused(tmp_path: Path) -> None:
    model = gemm(np.ones((8, 5), dtype=np.float32), bias=None)
    with pytest.raises(ExportFailed, match="no matrix product with constant weights lies under /elsewhere/"):
        row_scaled_int8(model, tmp_path / "int8.onnx", inside="/elsewhere/")
    model.opset_import[0].version = 17
    with pytest.raises(ExportFailed, match="the graph has opset 17; int8 needs 18 or later"):
        row_scaled_int8(model, tmp_path / "int8.onnx")


def test_the_same_graph_loses_nothing_against_itself(encoder: Exported, tmp_path: Path) -> None:
    _, rows, fp32 = encoder
    loss = loss_of(fp32, fp32, rows)
    assert (loss.difference, loss.reward_rmse, loss.agreement) == (0.0, 0.0, 1.0)
    assert loss.batch_difference == loss.fp32_batch_difference < 1e-5


def test_weights_beyond_one_message_go_to_a_file_beside_the_graph(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).normal(size=(8, 500)).astype(np.float32)
    save_graph(gemm(weight, bias=None), tmp_path / "scorer.onnx", largest_message=1000)
    assert (tmp_path / "scorer.data").stat().st_size >= weight.nbytes
    x = np.ones((2, 8), dtype=np.float32)
    np.testing.assert_allclose(run(tmp_path / "scorer.onnx", x)[0], x @ weight, rtol=1e-5)
