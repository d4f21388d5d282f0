"""`python -m demo precision`: what int8 would cost the demo's rewards, on held-out answers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from attune.models.data.trunk import load_demo_trunk
from attune.models.export.faster_graphs import PrecisionLoss, measure_precision, row_scaled_int8
from attune.models.export.onnx import ScorerGraph, export_scorer
from attune.models.training.heads import load_heads
from demo.corpus.texts import MANNERS, answer, prompts


def precision_loss(demo: Path, *, texts: int, seed: int) -> PrecisionLoss:
    """Returns what int8 would cost the demo's rewards on `texts` held-out answers (test topics) drawn with `seed`."""
    trunk = load_demo_trunk()
    trained, _ = load_heads(demo)
    rng = np.random.default_rng(seed)
    asked = prompts("test", seed)
    rows = []
    for index in rng.integers(len(asked), size=texts):
        prompt = asked[index]
        rows += trunk.encoder.candidates(prompt.text, [answer(prompt, MANNERS[int(rng.integers(len(MANNERS)))], rng)])
    with tempfile.TemporaryDirectory() as scratch:
        fp32, int8 = Path(scratch) / "fp32.onnx", Path(scratch) / "int8.onnx"
        export_scorer(ScorerGraph(trunk, [family.heads for family in trained]), rows[:16], fp32)
        row_scaled_int8(fp32, int8)
        return measure_precision(fp32, int8, rows, seed=seed)
