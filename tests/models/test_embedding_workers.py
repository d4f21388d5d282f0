"""Where texts are embedded changes nothing of what is embedded."""

from __future__ import annotations

import numpy as np
import pytest

from attune.models.data.embedding_workers import quick
from attune.models.data.embeddings import embed_texts
from attune.models.data.preferences import Texts
from attune.models.data.trunk import load_trunk
from tests.models.tiny_trunk import write_tiny_trunk


@pytest.mark.slow
@pytest.mark.timeout(600)  # two processes import torch, on whatever machine this is
def test_several_processes_give_the_vectors_of_one_and_fill_the_same_cache(tmp_path):
    trunk = load_trunk(str(write_tiny_trunk(tmp_path / "trunk", "encoder")), layers=(0, 2))
    texts = Texts((("hello", None),), tuple(("hello", f"answer {'word ' * number}") for number in range(20)))
    alone = embed_texts(texts, trunk)
    with quick(trunk, 2) as embedder:
        together = embed_texts(texts, embedder, tmp_path / "cache")
    assert np.allclose(together.candidates, alone.candidates, atol=1e-5)
    kept = embed_texts(texts, trunk, tmp_path / "cache", progress=lambda _done, _total: pytest.fail("computed again"))
    assert np.array_equal(kept.candidates, together.candidates)
