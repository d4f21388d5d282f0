"""One session on a real graph: padding, named rows, and the refusals at start-up."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from attune.models.seam.padding import pad
from attune.models.seam.text import Encoded
from attune.service.batching.session import (
    CPU,
    CUDA,
    CUDA_OPTIONS,
    ScorerRefused,
    ScorerSession,
    installed_runtime,
    session_options,
    with_options,
)
from tests.batching.scorers import NAN_ID, UNKNOWN_ID, text, toy_table, write_toy_scorer


@pytest.fixture(scope="module")
def session(toy: Path) -> ScorerSession:
    return ScorerSession(toy, threads=1)


def test_inputs_are_padded_to_the_longest_text_with_zeros() -> None:
    inputs = pad([Encoded((5, 6, 7), 1, 2), Encoded((8,), 0, 1), Encoded((1, 2, 3, 4), 2, 2)])
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 0], [8, 0, 0, 0], [1, 2, 3, 4]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert inputs["pool_mask"].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}


def test_rows_come_in_order_with_every_output_by_name(session: ScorerSession) -> None:
    rows = session.run([text(9, 3, 4), text(9, 5), text(9, 1, 2, 3, 4, 5)])
    assert [set(row) for row in rows] == [{"toy_rewards", "toy_features"}] * 3
    assert [row["toy_rewards"][0] for row in rows] == [7, 5, 15]
    assert [row["toy_features"].tolist() for row in rows] == [[3], [2], [6]]
    assert {row["toy_rewards"].dtype for row in rows} == {np.dtype(np.float32)}


def test_a_row_does_not_depend_on_its_neighbours(session: ScorerSession, rng: np.random.Generator) -> None:
    items = [text(*(int(token) for token in rng.integers(0, NAN_ID, size=length))) for length in (1, 40, 7, 7, 300, 2)]
    for item, row in zip(items, session.run(items), strict=True):
        (alone,) = session.run([item])
        expected = toy_table()[list(item.input_ids)][item.pool_start : item.pool_stop].sum(axis=0)
        np.testing.assert_array_equal(row["toy_rewards"], alone["toy_rewards"])
        np.testing.assert_array_equal(row["toy_rewards"], expected)


def test_a_caller_cannot_change_what_another_caller_reads(session: ScorerSession) -> None:
    (row, _) = session.run([text(1, 2), text(3, 4)])
    with pytest.raises(ValueError, match="read-only"):
        row["toy_rewards"][0] = 0


def test_an_answer_that_is_not_a_number_is_an_error_with_its_output(session: ScorerSession) -> None:
    with pytest.raises(FloatingPointError, match=r"toy_rewards has 2 NaN among 4 values for 2 texts"):
        session.run([text(1, 2), text(1, NAN_ID)])


def test_what_the_runtime_raises_reaches_the_caller(session: ScorerSession) -> None:
    with pytest.raises(Exception, match="out of"):
        session.run([text(1, UNKNOWN_ID)])


def test_the_provider_that_runs_is_the_one_that_is_reported(session: ScorerSession) -> None:
    assert session.provider == CPU
    assert session.threads == 1
    assert session.outputs == ("toy_rewards", "toy_features")


@pytest.mark.skipif(CUDA in __import__("onnxruntime").get_available_providers(), reason="this runtime has CUDA")
def test_cuda_that_is_required_and_not_there_stops_the_start(toy: Path) -> None:
    with pytest.raises(ScorerRefused, match=rf"{CUDA} is required; onnxruntime \S+ was built with .*{CPU}"):
        ScorerSession(toy, providers=[CUDA, CPU], required_provider=CUDA)


@pytest.mark.skipif(CUDA in __import__("onnxruntime").get_available_providers(), reason="this runtime has CUDA")
def test_cuda_that_is_only_preferred_leaves_the_work_to_the_cpu_and_says_so(toy: Path) -> None:
    assert ScorerSession(toy, providers=[CUDA, CPU]).provider == CPU


def test_a_provider_that_is_there_but_was_not_asked_for_is_not_the_required_one(toy: Path) -> None:
    others = [name for name in __import__("onnxruntime").get_available_providers() if name != CPU]
    if not others:
        pytest.skip("this runtime has one provider only")
    with pytest.raises(ScorerRefused, match=rf"{others[0]} is required, and {CPU} would run scorer.onnx \(asked for {CPU}\)"):
        ScorerSession(toy, providers=[CPU], required_provider=others[0])


def test_cuda_runs_exact_products_unless_told_otherwise() -> None:
    assert with_options(CUDA) == (CUDA, CUDA_OPTIONS)
    assert with_options((CUDA, {"use_tf32": "1"})) == (CUDA, {"use_tf32": "1"})
    assert with_options(CPU) == (CPU, {})


def test_a_file_that_is_not_a_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scorer.onnx").write_bytes(b"not a graph")
    with pytest.raises(ScorerRefused, match=r"does not load scorer.onnx"):
        ScorerSession(tmp_path / "scorer.onnx")


def test_a_graph_with_other_inputs_is_refused_with_both_lists(tmp_path: Path) -> None:
    with pytest.raises(ScorerRefused, match=r"token_type_ids.*a scorer has input_ids, attention_mask, pool_mask"):
        ScorerSession(write_toy_scorer(tmp_path / "scorer.onnx", pool_name="token_type_ids"))


def test_a_graph_whose_outputs_are_not_float32_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScorerRefused, match=r"'toy_features': 'tensor\(int32\)'"):
        ScorerSession(write_toy_scorer(tmp_path / "scorer.onnx", output_type=TensorProto.INT32))


def test_one_runtime_is_installed_here_and_its_version_is_known() -> None:
    assert installed_runtime() == f"onnxruntime {metadata.version('onnxruntime')}"


def test_two_runtimes_over_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = tmp_path / "onnxruntime_gpu-9.9.9.dist-info"
    second.mkdir()
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 9.9.9\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ScorerRefused, match=r"exactly one onnxruntime distribution must be installed, found onnxruntime \S+, onnxruntime-gpu 9\.9\.9"
    ):
        installed_runtime()


@pytest.mark.parametrize("rows", [1, 6, 64])
def test_sums_of_the_greatest_int8_products_are_exact_on_this_processor(rows: int) -> None:
    left, right = np.full((rows, 128), 255, dtype=np.uint8), np.full((128, 64), 127, dtype=np.int8)
    right[:, ::2] = -127
    node = helper.make_node("MatMulInteger", ["left", "right"], ["sums"])
    graph = helper.make_graph(
        [node],
        "sums",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, [rows, 128])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [rows, 64])],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), session_options(1), providers=[CPU])
    assert np.array_equal(session.run(None, {"left": left})[0], left.astype(np.int32) @ right.astype(np.int32))
