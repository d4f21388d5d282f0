"""Rows come and go, and what the model remembers of the others stays as it was."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM  # noqa: E402

from attune.service.members.local_batch import advance, check_rows_are_independent, join, prefill, select  # noqa: E402
from attune.service.members.local_model import load  # noqa: E402
from attune.service.members.member import UnusableMember  # noqa: E402
from tests.members.tiny import ADAPTERS, write_tokenizer  # noqa: E402

PROMPTS = [[5, 9, 20, 31, 7], [44], [12, 13, 14, 15, 16, 17, 18, 19, 20], [50, 51, 52]]
NAMES = [None, *ADAPTERS]
NEXT = [60, 61, 62, 63]


@pytest.fixture(scope="module")
def model(language_model):
    return load(language_model / "base", {name: language_model / "adapters" / name for name in ADAPTERS})


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def read(model, index):
    """Returns a row's logits after its prompt and after one more token, read alone."""
    batch, first = prefill(model, [index], [PROMPTS[index]], [NAMES[index]])
    _, second = advance(model, batch, [NEXT[index]], [NAMES[index]])
    return first[0], second[0]


def test_rows_of_different_lengths_and_adapters_read_as_if_alone(model):
    batch, first = prefill(model, range(4), PROMPTS, NAMES)
    batch, second = advance(model, batch, NEXT, NAMES)
    assert batch.lengths == (6, 2, 10, 4)
    for index in range(4):
        alone = read(model, index)
        torch.testing.assert_close(first[index], alone[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(second[index], alone[1], rtol=1e-4, atol=1e-5)


def test_the_whole_text_read_at_once_gives_the_same_logits_as_token_by_token(model):
    _, whole = prefill(model, [2], [[*PROMPTS[2], NEXT[2]]], [NAMES[2]])
    torch.testing.assert_close(whole[0], read(model, 2)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [(0, 2), (2, 0), (1, 2), (3, 0)])
def test_rows_that_join_are_padded_to_the_wider_and_read_as_if_alone(model, order):
    parts = [prefill(model, [index], [PROMPTS[index]], [NAMES[index]])[0] for index in order]
    batch = join(*parts)
    assert batch.width == max(len(PROMPTS[index]) for index in order)
    _, logits = advance(model, batch, [NEXT[index] for index in order], [NAMES[index] for index in order])
    for row, index in enumerate(order):
        torch.testing.assert_close(logits[row], read(model, index)[1], rtol=1e-4, atol=1e-5)


def test_selecting_cuts_off_the_padding_that_is_left_over(model):
    batch, _ = prefill(model, range(4), PROMPTS, NAMES)
    kept = select(batch, [3, 1])
    assert kept.rows == (3, 1)
    assert kept.width == 3
    assert kept.mask[:, :3].tolist() == [[0, 0, 0], [-torch.inf, -torch.inf, 0]]
    assert {tuple(keys.shape[::2]) for keys in (*kept.keys, *kept.values)} == {(2, kept.mask.shape[1])}
    _, logits = advance(model, kept, [NEXT[3], NEXT[1]], [NAMES[3], NAMES[1]])
    torch.testing.assert_close(logits[0], read(model, 3)[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[1], read(model, 1)[1], rtol=1e-4, atol=1e-5)


def test_reading_and_joining_leave_their_arguments_alone(model):
    batch, _ = prefill(model, range(2), PROMPTS[:2], NAMES[:2])
    before = [keys[:, :, : batch.width].clone() for keys in batch.keys]
    again = [advance(model, batch, NEXT[:2], NAMES[:2])[1] for _ in range(2)]
    assert torch.equal(*again), "a step that is done again is the same step"
    join(batch, prefill(model, [2], [PROMPTS[2]], [NAMES[2]])[0])
    assert batch.lengths == (5, 1)
    assert all(torch.equal(keys[:, :, : batch.width], old) for keys, old in zip(batch.keys, before, strict=True))


def test_rows_are_read_on_when_the_room_behind_them_is_full(model):
    text = [3 + 7 * at % 300 for at in range(90)]
    batch, _ = prefill(model, range(2), [text[:3], text[:5]], NAMES[1:3])
    room = batch.mask.shape[1]
    for at in range(3, 88):
        batch, logits = advance(model, batch, [text[at], text[at + 2]], NAMES[1:3])
    assert batch.lengths == (88, 90)
    assert batch.mask.shape[1] > room
    for row, length in enumerate(batch.lengths):
        torch.testing.assert_close(logits[row], prefill(model, [0], [text[:length]], [NAMES[1 + row]])[1][0], rtol=1e-4, atol=1e-4)


def test_joining_with_nothing_gives_the_other():
    assert join(None, None) is None


def written(path, network):
    network.save_pretrained(path)
    write_tokenizer(path)
    return load(path, {})


def test_the_check_of_an_architecture_whose_rows_are_independent_raises_nothing(model, tmp_path):
    check_rows_are_independent(model)
    shape = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
    sliding = MistralConfig(**shape, intermediate_size=64, num_key_value_heads=2, sliding_window=4)
    check_rows_are_independent(written(tmp_path, MistralForCausalLM(sliding)))


def test_an_architecture_that_keeps_another_kind_of_state_is_refused_instead_of_answering_wrongly(tmp_path):
    config = MambaConfig(vocab_size=384, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.3)
    config.max_position_embeddings = 128
    with pytest.raises(UnusableMember, match="MambaForCausalLM"):
        check_rows_are_independent(written(tmp_path, MambaForCausalLM(config)))


def test_a_base_whose_weights_are_no_numbers_is_told_as_that(tmp_path):
    shape = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    network = MistralForCausalLM(MistralConfig(**shape, intermediate_size=64, num_key_value_heads=2))
    network.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(UnusableMember, match="gives no finite numbers: weights of it are no numbers"):
        check_rows_are_independent(written(tmp_path, network))
