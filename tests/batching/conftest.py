"""A toy scorer on disk, written once for each module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.batching.scorers import write_toy_scorer


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_scorer(tmp_path_factory.mktemp("toy") / "scorer.onnx")
