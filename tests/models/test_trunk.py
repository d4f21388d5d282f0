"""The trunk: both kinds of transformer, pooling by hand, neighbours, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from transformers import T5Config
from transformers.utils.logging import enable_progress_bar, is_progress_bar_enabled

from attune.models.data.hub import DEMO_TRUNK
from attune.models.data.model_folder import TrunkUnavailable
from attune.models.data.trunk import Trunk, load_trunk, pad
from tests.models.tiny_trunk import Kind, write_tiny_trunk

KINDS: tuple[Kind, ...] = ("encoder", "decoder")


@pytest.fixture(scope="module", params=KINDS)
def trunk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trunk:
    return load_trunk(str(write_tiny_trunk(tmp_path_factory.mktemp(request.param), request.param)))


def test_vector_is_the_mean_over_the_pooled_tokens_and_the_log_of_their_number(trunk: Trunk) -> None:
    (row,) = trunk.encoder.candidates("hello world", ["boil the egg"])
    ids, attention, _ = pad([row])
    with torch.inference_mode():
        hidden = trunk.model(input_ids=ids, attention_mask=attention).last_hidden_state[0]
    pooled = hidden[row.pool_start : row.pool_stop]
    expected = np.append(pooled.mean(dim=0).numpy(), np.log(1 + len(pooled)))
    np.testing.assert_allclose(trunk.embed([row])[0], expected, atol=1e-6)


def test_several_layers_are_pooled_side_by_side_and_named_by_the_hash(trunk: Trunk, tmp_path: Path) -> None:
    kind: Kind = "encoder" if "Bert" in type(trunk.model).__name__ else "decoder"
    both = load_trunk(str(write_tiny_trunk(tmp_path, kind)), layers=(1, 2))
    (row,) = both.encoder.candidates("hello world", ["boil the egg"])
    ids, attention, _ = pad([row])
    with torch.inference_mode():
        states = both.model(input_ids=ids, attention_mask=attention, output_hidden_states=True).hidden_states
    pooled = [states[layer][0, row.pool_start : row.pool_stop] for layer in (1, 2)]
    expected = np.concatenate([*(part.mean(dim=0).numpy() for part in pooled), [np.log(1 + len(pooled[0]))]])
    np.testing.assert_allclose(both.embed([row])[0], expected, atol=1e-6)
    np.testing.assert_allclose(both.embed([row])[0, 32:], trunk.embed([row])[0], atol=1e-6)
    assert both.width == 65
    assert both.sha256 != trunk.sha256


@pytest.mark.parametrize("layers", [(3,), (-1, 2), (1, 1)])
def test_layers_that_are_not_there_or_named_twice_are_refused(tmp_path: Path, layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"hidden states 0 to 2"):
        load_trunk(str(write_tiny_trunk(tmp_path, "encoder")), layers=layers)


def test_vector_of_a_row_does_not_depend_on_its_neighbours(trunk: Trunk) -> None:
    rows = trunk.encoder.candidates("how are you", ["boil", "perhaps you should ask someone " * 3, "hello"])
    together = trunk.embed(rows)
    alone = np.concatenate([trunk.embed([row]) for row in rows])
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_empty_response_has_a_finite_vector_of_length_zero(trunk: Trunk) -> None:
    (row,) = trunk.encoder.candidates("hello", [""])
    vector = trunk.embed([row])[0]
    assert row.pool_start == row.pool_stop
    assert np.all(vector == 0.0)


def test_order_and_budget_of_batches_do_not_change_vectors(trunk: Trunk) -> None:
    rows = [trunk.encoder.prompt("hello world " * count) for count in (1, 7, 3, 5, 2)]
    np.testing.assert_allclose(trunk.embed(rows, budget_tokens=16), trunk.embed(rows), atol=2e-6)


def test_limits_follow_a_model_with_few_positions(tmp_path: Path) -> None:
    small = load_trunk(str(write_tiny_trunk(tmp_path, "encoder", max_positions=64)))
    assert (small.template.max_tokens, small.template.max_prompt_tokens, small.template.max_context_tokens) == (64, 16, 8)
    (row,) = small.encoder.candidates("hello " * 100, ["world " * 200])
    assert len(row) == 64
    assert np.all(np.isfinite(small.embed([row])))


def test_hash_names_the_weights_and_not_the_folder(tmp_path: Path) -> None:
    first = load_trunk(str(write_tiny_trunk(tmp_path / "one", "encoder")))
    second = load_trunk(str(write_tiny_trunk(tmp_path / "two", "encoder")))
    assert first.sha256 == second.sha256
    with torch.no_grad():
        second.model.get_parameter("encoder.layer.0.output.dense.bias")[0] += 1.0
    assert Trunk(second.model, second.encoder._tokenizer, second.template, "changed").sha256 != first.sha256


def test_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TrunkUnavailable, match="nowhere"):
        load_trunk(str(tmp_path / "nowhere"))


def test_a_load_draws_no_bar_of_its_own_and_leaves_that_of_a_download(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    enable_progress_bar()
    load_trunk(str(write_tiny_trunk(tmp_path, "encoder")))
    assert "Loading weights" not in capfd.readouterr().err
    assert not is_progress_bar_enabled()
    assert not are_progress_bars_disabled()


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    T5Config(vocab_size=32, d_model=8, num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(TrunkUnavailable, match="encoder-decoder"):
        load_trunk(str(tmp_path))


def test_demo_trunk_embeds_likeness_of_meaning() -> None:
    demo = load_trunk(DEMO_TRUNK)
    rows = [demo.encoder.prompt(text) for text in ("How do I boil an egg?", "What is the way to cook eggs?", "Is Paris nice in spring?")]
    vectors = demo.embed(rows)[:, :-1]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = vectors @ vectors.T
    assert demo.width == 385
    assert likeness[0, 1] > likeness[0, 2] + 0.3
