"""What a manifest says of its graphs, new and old, and the measure by which probes are judged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from attune.models.seam.precision import DERIVED, PRECISIONS, TOLERANCES, ScorerFile, choose_scorer, probe_difference, scorer_files

BOTH: dict[str, Any] = {
    "scorers": {"fp16": {"file": "scorer-fp16.onnx", "tolerance": 0.02, "batch_dependence": 0.004}, "fp32": {"file": "scorer.onnx"}}
}


@pytest.mark.parametrize(("manifest", "precision"), [({}, "fp32"), ({"precision": "int8"}, "int8")])
def test_a_manifest_of_old_has_one_graph_judged_by_the_probes_own_tolerance(manifest: dict[str, str], precision: str) -> None:
    assert scorer_files(manifest, 1e-4) == {precision: ScorerFile("scorer.onnx", 1e-4)}


def test_fp32_comes_first_and_a_tolerance_that_is_not_stated_is_that_of_the_probes() -> None:
    files = scorer_files(BOTH, 1e-3)
    assert list(files.items()) == [("fp32", ScorerFile("scorer.onnx", 1e-3)), ("fp16", ScorerFile("scorer-fp16.onnx", 0.02))]


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        ([], "an object from precision"),
        ({}, "an object from precision"),
        ({"fp8": {"file": "x"}}, "names fp8; fp32, fp16, int8 are known"),
        ({"tf32": {"file": "x"}}, "names tf32"),
        ({"fp32": "scorer.onnx"}, "of fp32 is 'scorer.onnx'"),
        ({"fp32": {"file": "scorer.onnx", "tolerance": "wide"}}, "tolerance of fp32 is 'wide'"),
        ({"fp32": {"file": "scorer.onnx", "tolerance": math.nan}}, "must be finite"),
        ({"fp32": {"file": "../scorer.onnx"}}, "not a path inside a bundle"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(scorers: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scorer_files({"scorers": scorers}, 1e-3)


def test_what_is_not_asked_for_is_fp32_and_else_what_there_is() -> None:
    assert choose_scorer(scorer_files(BOTH, 1e-3), None)[0] == "fp32"
    assert choose_scorer(scorer_files({"precision": "int8"}, 0.3), None) == ("int8", ScorerFile("scorer.onnx", 0.3))


def test_what_an_engine_makes_of_fp32_runs_its_file_under_its_own_tolerance() -> None:
    assert set(DERIVED) == {"tf32", "bf16"}
    assert choose_scorer(scorer_files(BOTH, 1e-3), "bf16") == ("bf16", ScorerFile("scorer.onnx", TOLERANCES["bf16"]))
    assert choose_scorer(scorer_files(BOTH, 1e-3), "fp16") == ("fp16", ScorerFile("scorer-fp16.onnx", 0.02))


def test_a_precision_that_the_bundle_lacks_is_refused_with_what_it_has() -> None:
    with pytest.raises(ValueError, match="precision int8 needs a graph in int8; this bundle has fp32, fp16"):
        choose_scorer(scorer_files(BOTH, 1e-3), "int8")
    with pytest.raises(ValueError, match="precision tf32 needs a graph in fp32; this bundle has int8"):
        choose_scorer(scorer_files({"precision": "int8"}, 0.3), "tf32")


def test_every_precision_has_a_tolerance_and_fp32_the_least() -> None:
    assert set(TOLERANCES) == set(PRECISIONS)
    assert min(TOLERANCES, key=lambda name: TOLERANCES[name]) == "fp32"


def test_differences_are_in_units_of_an_outputs_greatest_answer_or_one() -> None:
    expected = {"large": np.array([[10.0], [-20.0]], dtype=np.float32), "small": np.array([0.1, 0.2], dtype=np.float32)}
    found = {"large": np.array([[11.0], [-20.0]], dtype=np.float32), "small": np.array([0.1, 0.22], dtype=np.float32)}
    assert probe_difference(found, expected) == pytest.approx(0.05)  # 1 of 20; the other is 0.02 of 1
    assert probe_difference(expected, expected) == 0.0


def test_a_number_that_is_none_is_no_small_difference_whichever_output_has_it() -> None:
    expected = {"a": np.zeros(2, dtype=np.float32), "b": np.zeros(2, dtype=np.float32)}
    for name in expected:
        assert math.isnan(probe_difference(expected | {name: np.array([0.0, np.nan], dtype=np.float32)}, expected))


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a is \(3,\); the probes have \(2,\)"):
        probe_difference({"a": np.zeros(3, dtype=np.float32)}, {"a": np.zeros(2, dtype=np.float32)})
