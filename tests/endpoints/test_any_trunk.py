"""Any trunk from training to `/score`: ten architectures, every pooling, a chat template; the graph answers as torch does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attune.models.data.embeddings import embed_texts
from attune.models.data.preferences import Comparison, Comparisons
from attune.models.data.probes import draw_probes, write_probes
from attune.models.data.trunk import Pooling, load_trunk
from attune.models.data.trunk_file import write_trunk_file
from attune.models.export.pack import pack
from attune.models.seam.bundle import read_bundle
from attune.models.seam.precision import TOLERANCES, Precision
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Subspace
from attune.models.training.heads import save_heads
from attune.models.training.loop import TrainingData
from tests.endpoints.conftest import running
from tests.models.architectures import DECODERS, ENCODERS, write_architecture
from tests.models.small_world import HASTY
from tests.stores import FreshStore

PROMPT, RESPONSES = "how are you today?", ["hello", "boil the egg for nine minutes", "perhaps " * 60, "日本語"]


def told() -> Comparisons:
    """Everybody likes boiled eggs better than worlds."""
    rows = [Comparison("u", f"how are you {i}?", f"boil the egg {i}", f"hello world {i} " * (1 + i % 3)) for i in range(24)]
    return Comparisons.from_records(rows)


async def scores_of(settings_of, folder, source: str, *, precision: Precision = "fp32", **options) -> tuple[list[float], list[float]]:
    """Returns `/score`'s answer to the responses, and torch's: through training, packing and loading."""
    trunk = load_trunk(source, **options)
    comparisons = told()
    quiet = embed_texts(comparisons.texts, trunk, progress=lambda done, total: None)
    half = np.arange(len(comparisons)) % 2 == 0
    data = TrainingData(comparisons.take(half), comparisons.take(~half), quiet)
    family = train_bradley_terry(data, BradleyTerrySettings(subspace=Subspace(components=4), loop=HASTY), 0)
    save_heads(folder / "families", [family], "bradley_terry")
    write_trunk_file(folder / "families", trunk)
    write_probes(folder / "families", draw_probes(comparisons.texts, 0, candidates=4))
    done = pack(folder / "families", folder / "bundles", "mine", precision=precision)
    assert read_bundle(done.path).manifest["export"]["difference_from_torch"] <= TOLERANCES[precision]
    vectors = torch.from_numpy(trunk.embed(trunk.encoder.candidates(PROMPT, RESPONSES)))
    expected = family.heads(vectors, vectors)["bradley_terry_rewards"][:, 0].tolist()
    async with running(settings_of(bundle=str(done.path)), FreshStore(), {}) as service:
        answer = await service.post("/score", {"user": "u", "prompt": PROMPT, "responses": RESPONSES})
    return [each["score"] for each in answer["scores"]], expected


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
async def test_ten_architectures_score_as_in_torch(settings_of, tmp_path, architecture):
    found, expected = await scores_of(settings_of, tmp_path, str(write_architecture(tmp_path / "trunk", architecture)))
    assert found == pytest.approx(expected, abs=1e-3)
    assert len(set(found)) == len(found)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "pooling"), [("Bert", "cls"), ("Llama", "last")])
async def test_every_pooling_scores_as_in_torch(settings_of, tmp_path, architecture, pooling: Pooling):
    source = str(write_architecture(tmp_path / "trunk", architecture))
    found, expected = await scores_of(settings_of, tmp_path, source, pooling=pooling)
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("architecture", ["Bert", "Llama"])
async def test_an_encoder_and_a_decoder_in_fp16_are_served_within_its_tolerance(settings_of, tmp_path, architecture):
    source = str(write_architecture(tmp_path / "trunk", architecture))
    found, expected = await scores_of(settings_of, tmp_path, source, precision="fp16")
    assert found == pytest.approx(expected, abs=TOLERANCES["fp16"] * max(map(abs, expected)))
    assert found != expected, "half precision was served"
    [bundle] = (tmp_path / "bundles").iterdir()
    assert list(read_bundle(bundle).scorers) == ["fp16"]


async def test_a_chat_template_is_served_without_jinja(settings_of, tmp_path):
    source = write_architecture(tmp_path / "trunk", "Llama", chat=True)
    found, expected = await scores_of(settings_of, tmp_path, str(source))
    assert found == pytest.approx(expected, abs=1e-3)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    turns = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSES[1]}]
    rendered = tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)
    (row,) = load_trunk(str(source)).encoder.candidates(PROMPT, [RESPONSES[1]])
    assert list(row.input_ids) == rendered
