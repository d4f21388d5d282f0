"""A decoder of 0.6 billion parameters with random weights through training, packing with its weights beside the graph, and `/score`."""

from __future__ import annotations

import os
import resource
import sys

import numpy as np
import pytest
import torch
import transformers

from attune.models.data.embeddings import embed_texts
from attune.models.data.probes import draw_probes, write_probes
from attune.models.data.trunk import load_trunk
from attune.models.data.trunk_file import write_trunk_file
from attune.models.export.onnx import LARGEST_MESSAGE
from attune.models.export.pack import pack
from attune.models.seam.bundle import read_bundle
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Subspace
from attune.models.training.heads import save_heads
from attune.models.training.loop import TrainingData
from tests.endpoints.conftest import running
from tests.endpoints.test_any_trunk import PROMPT, RESPONSES, told
from tests.models.architectures import tiny_tokenizer
from tests.models.small_world import SHORT
from tests.stores import FreshStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not os.environ.get("ATTUNE_TEST_SIZE"), reason="11 GB of memory and minutes: ATTUNE_TEST_SIZE=1 runs it"),
]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """Qwen3-0.6B's shape, with few rows in its tokenizer and all of them in its table of embeddings."""
    folder = tmp_path_factory.mktemp("trunk")
    tiny_tokenizer(encoder=False, chat=True).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=4096,
    )
    transformers.AutoModel.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return load_trunk(str(folder), pooling="last")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
async def test_a_decoder_of_0_6_billion_parameters_is_trained_through_and_served(settings_of, tmp_path, trunk, precision):
    parameters = sum(one.numel() for one in trunk.parameters())
    assert 590_000_000 < parameters < 610_000_000
    comparisons = told().take(np.arange(12))
    data = TrainingData(comparisons.take(np.arange(8)), comparisons.take(np.arange(8, 12)), embed_texts(comparisons.texts, trunk))
    family = train_bradley_terry(data, BradleyTerrySettings(subspace=Subspace(components=4), loop=SHORT), 0)
    save_heads(tmp_path / "families", [family], "bradley_terry")
    write_trunk_file(tmp_path / "families", trunk)
    write_probes(tmp_path / "families", draw_probes(comparisons.texts, 0, candidates=2, prompts=1)[:4])
    done = pack(tmp_path / "families", tmp_path / "bundles", "large", precision=precision, trunk=trunk)
    bundle = read_bundle(done.path)
    weights = bundle.manifest["files"]["scorer.data"]["sha256"] if precision == "fp32" else ""
    size = sum(file.stat().st_size for file in done.path.glob("scorer.*"))
    assert (size > LARGEST_MESSAGE) == (precision == "fp32") == bool(weights)
    vectors = torch.from_numpy(trunk.embed(trunk.encoder.candidates(PROMPT, RESPONSES)))
    expected = family.heads(vectors, vectors)["bradley_terry_rewards"][:, 0].tolist()
    async with running(settings_of(bundle=str(done.path)), FreshStore(), {}) as service:
        answer = await service.post("/score", {"user": "u", "prompt": PROMPT, "responses": RESPONSES})
    found = [each["score"] for each in answer["scores"]]
    off = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    assert off <= (1e-3 if precision == "fp32" else 0.05 * max(1.0, max(expected) - min(expected)))
    used, spent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, os.times().user
    export = bundle.manifest["export"]["difference_from_torch"]
    sys.stderr.write(
        f"{precision}: {parameters:,} parameters, {size:,} bytes, export {export:.2g} and /score {off:.2g} from torch, "
        f"{used:.1f} GB at most, {spent:.0f} s of CPU\n"
    )
