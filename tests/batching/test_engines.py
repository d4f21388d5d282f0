"""Engines behind one protocol: what each precision is run by, and what is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attune.models.seam.precision import TOLERANCES, probe_difference
from attune.service.batching.engines import MOST_BESIDE, MOST_TWICE_BYTES, open_engine, share_cores
from attune.service.batching.session import CPU, CUDA, ScorerRefused, ScorerSession
from tests.batching.scorers import NAN_ID, text, write_toy_scorer

ITEMS = [text(9, 3, 4), text(9, 5), text(9, 1, 2, 3, 4, 5)]


@pytest.fixture
def openvino(tmp_path: Path):
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    from attune.service.batching.openvino import OpenVinoScorer

    return OpenVinoScorer(write_toy_scorer(tmp_path / "scorer.onnx"), "fp32", threads=1)


@pytest.mark.slow
def test_openvino_gives_the_same_rows_as_onnx_runtime(openvino, tmp_path: Path) -> None:
    session = ScorerSession(tmp_path / "scorer.onnx", threads=1)
    assert set(openvino.outputs) == set(session.outputs)
    for mine, theirs in zip(openvino.run(ITEMS), session.run(ITEMS), strict=True):
        assert {name: value.tolist() for name, value in mine.items()} == {name: value.tolist() for name, value in theirs.items()}


def test_openvino_rows_outlive_the_next_batch_and_refuse_what_is_not_a_number(openvino) -> None:
    (first, *_) = openvino.run(ITEMS)
    openvino.run([text(9, 90, 90)])
    assert first["toy_rewards"][0] == 7
    with pytest.raises(FloatingPointError, match="toy_rewards has 2 NaN among 2 values for 1 texts"):
        openvino.run([text(1, NAN_ID)])


def test_bf16_on_this_processor_is_within_its_tolerance_or_refused_with_what_it_can(tmp_path: Path) -> None:
    core = pytest.importorskip("openvino", reason="the extra `openvino` is not installed").Core()
    path = write_toy_scorer(tmp_path / "scorer.onnx")
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(ScorerRefused, match="does not multiply bf16"):
            open_engine(path, "bf16", threads=1, require_gpu=False)
        return
    engine = open_engine(path, "bf16", threads=1, require_gpu=False)
    found, exact = (np.stack([row["toy_rewards"] for row in scorer.run(ITEMS)]) for scorer in (engine, ScorerSession(path, threads=1)))
    assert probe_difference({"toy_rewards": found}, {"toy_rewards": exact}) <= TOLERANCES["bf16"]


def test_bf16_and_a_required_gpu_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ScorerRefused, match="bf16 runs in OpenVINO on the CPU, and a GPU is required"):
        open_engine(write_toy_scorer(tmp_path / "scorer.onnx"), "bf16", threads=1, require_gpu=True)


@pytest.mark.skipif(CUDA in __import__("onnxruntime").get_available_providers(), reason="this runtime has CUDA")
def test_tf32_without_cuda_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScorerRefused, match=f"{CUDA} is required"):
        open_engine(write_toy_scorer(tmp_path / "scorer.onnx"), "tf32", threads=1, require_gpu=False)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_graphs_of_their_own_run_in_onnx_runtime(precision: str, tmp_path: Path) -> None:
    engine = open_engine(write_toy_scorer(tmp_path / "scorer.onnx"), precision, threads=1, require_gpu=False)  # type: ignore[arg-type]
    assert engine.provider in {CPU, CUDA}
    assert len(engine.run(ITEMS)) == 3


def test_on_several_cores_a_second_session_runs_batches_beside_others_and_gives_the_same_rows(tmp_path: Path) -> None:
    path = write_toy_scorer(tmp_path / "scorer.onnx")
    engine = share_cores(ScorerSession(path, (CPU,), threads=3), path)
    assert engine.beside is not None
    assert (engine.at_once, engine.threads, engine.beside.threads, engine.beside.beside) == (3, 3, 1, None)
    for mine, theirs in zip(engine.run(ITEMS), engine.beside.run(ITEMS), strict=True):
        assert {name: value.tolist() for name, value in mine.items()} == {name: value.tolist() for name, value in theirs.items()}


@pytest.mark.parametrize(("threads", "most_twice_bytes"), [(1, MOST_TWICE_BYTES), (3, 100)])
def test_on_one_core_and_with_a_large_graph_one_session_runs_every_batch(tmp_path: Path, threads: int, most_twice_bytes: int) -> None:
    path = write_toy_scorer(tmp_path / "scorer.onnx")
    engine = share_cores(ScorerSession(path, (CPU,), threads=threads), path, most_twice_bytes=most_twice_bytes)
    assert (engine.at_once, engine.beside) == (1, None)


def test_with_more_cores_than_batches_beside_each_other_each_has_several(tmp_path: Path) -> None:
    path = write_toy_scorer(tmp_path / "scorer.onnx")
    engine = share_cores(ScorerSession(path, (CPU,), threads=2 * MOST_BESIDE + 1), path)
    assert engine.beside is not None
    assert (engine.at_once, engine.beside.threads) == (MOST_BESIDE, 2)
