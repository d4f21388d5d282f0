"""The forward pass in few operations computes what transformers' own computes, for every architecture that it takes."""

# ruff: noqa: E402 -- what cannot be imported without these libraries comes after asking for them

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from attune.service.members.local_batch import advance, join, prefill
from attune.service.members.local_llama import _FIRST_TURNS
from attune.service.members.local_lora import JoinedLinear
from attune.service.members.local_model import _written_out, load
from tests.members.tiny import write_tokenizer

SHAPE = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
TAKEN = {
    "llama, tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, biases, many heads of keys": LlamaConfig(**SHAPE | {"num_key_value_heads": 4}, attention_bias=True, mlp_bias=True),
    "llama 3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "mistral, wide heads, one of keys": MistralConfig(**SHAPE | {"num_key_value_heads": 1}, head_dim=16, sliding_window=None),
    "qwen 2": Qwen2Config(**SHAPE),
    "qwen 3": Qwen3Config(**SHAPE, head_dim=16),
    "qwen 3, yarn": Qwen3Config(**SHAPE, head_dim=16, rope_parameters=YARN),
}
LEFT = {
    "a window shorter than the context": MistralConfig(**SHAPE, sliding_window=16),
    "angles that depend on the longest text": LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}
    ),
    "another activation": LlamaConfig(**SHAPE, hidden_act="gelu"),
}
ADAPTERS = {
    "narrow": {"r": 2, "target_modules": ["q_proj", "v_proj"]},
    "wide": {"r": 6, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
    "embedding": {"r": 3, "target_modules": ["embed_tokens", "q_proj"]},
    "head": {"r": 3, "target_modules": ["lm_head", "k_proj", "down_proj"]},
}
PROMPTS = [[5, 9, 20, 31, 7], [44], [12, 13, 14, 15, 16, 17, 18, 19, 20], [50, 51, 52], [60, 61]]


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def write(path, config, adapters=(), copies=1):
    """Writes a base of random weights and these adapters, as often as asked; returns where they are."""
    with torch.inference_mode(mode=False):
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config)
        for name, tensor in network.named_parameters():
            if "norm" in name or "bias" in name:  # otherwise ones and zeros, which would hide that one is left out
                torch.nn.init.normal_(tensor, 1.0, 0.3)
        network.save_pretrained(path / "base")
        write_tokenizer(path / "base")
        found = {}
        for copy in range(copies):
            for name in adapters:
                base = AutoModelForCausalLM.from_pretrained(path / "base")
                lora = LoraConfig(**ADAPTERS[name], lora_alpha=4, init_lora_weights=False, task_type="CAUSAL_LM")
                get_peft_model(base, lora).save_pretrained(path / f"{name}{copy}")
                found[f"{name}{copy}"] = path / f"{name}{copy}"
    return path / "base", found


def texts_of(model, names, steps=3):
    """Returns the logits of five rows that join in two groups and are continued."""
    names = [names[row % len(names)] for row in range(5)]
    batch = join(*(prefill(model, rows, [PROMPTS[row] for row in rows], [names[row] for row in rows])[0] for rows in ([0, 1], [2, 3, 4])))
    found = []
    for step in range(steps):
        batch, logits = advance(model, batch, [70 + step + row for row in range(5)], names)
        found.append(logits)
    return torch.stack(found)


@pytest.mark.parametrize("kind", TAKEN)
def test_logits_equal_those_of_transformers(tmp_path, kind):
    base, adapters = write(tmp_path, TAKEN[kind], ["narrow", "wide"])
    model = load(base, adapters)
    assert model.decoder is not None
    plain = replace(model, decoder=None)
    for names in ([None], ["wide0"], ["narrow0", None, "wide0"]):
        torch.testing.assert_close(texts_of(model, names), texts_of(plain, names), rtol=1e-4, atol=1e-4)
        _, own = prefill(model, range(5), PROMPTS, [names[0]] * 5)
        _, their = prefill(plain, range(5), PROMPTS, [names[0]] * 5)
        torch.testing.assert_close(own, their, rtol=1e-4, atol=1e-4)


def test_weights_in_half_precision_give_what_transformers_gives_within_rounding(tmp_path):
    base, adapters = write(tmp_path, TAKEN["qwen 3"], ["narrow", "wide"])
    model = load(base, adapters, dtype="bfloat16")
    assert model.decoder is not None
    names = ["narrow0", None, "wide0"]
    own, their = texts_of(model, names).float(), texts_of(replace(model, decoder=None), names).float()
    assert float((own - their).abs().max() / their.std()) < 0.1


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_not_written_out_is_left_to_transformers(tmp_path, kind):
    base, _ = write(tmp_path, LEFT[kind])
    assert load(base, {}).decoder is None


def test_adapters_of_the_head_are_mixed_too_and_a_tied_embedding_stays_as_it_was(tmp_path):
    base, adapters = write(tmp_path, TAKEN["llama, tied"], ["narrow", "head"])
    model = load(base, adapters)
    assert model.decoder is not None
    names = ["head0", None, "narrow0"]
    torch.testing.assert_close(texts_of(model, names), texts_of(replace(model, decoder=None), names), rtol=1e-4, atol=1e-4)


def test_more_adapters_than_one_product_is_worth_are_gathered_for_each_row(tmp_path):
    base, adapters = write(tmp_path, TAKEN["qwen 2"], ["wide", "narrow"], copies=3)
    model = load(base, adapters)
    assert model.decoder is not None
    for names in ([*adapters, None], ["wide1"], [None]):
        torch.testing.assert_close(texts_of(model, names), texts_of(replace(model, decoder=None), names), rtol=1e-4, atol=1e-4)


def test_a_row_reads_the_same_whoever_else_is_in_the_batch(tmp_path):
    base, adapters = write(tmp_path, TAKEN["llama 3"], ["narrow", "wide"])
    model = load(base, adapters)
    names = ["narrow0", None, "wide0", "wide0", None]
    together = texts_of(model, names)
    for row in range(5):
        batch, _ = prefill(model, [row], [PROMPTS[row]], [names[row]])
        for step in range(3):
            batch, logits = advance(model, batch, [70 + step + row], [names[row]])
            torch.testing.assert_close(logits[0], together[step, row], rtol=1e-4, atol=1e-4)


def test_joined_weights_are_in_memory_once(tmp_path):
    base, adapters = write(tmp_path, TAKEN["llama, tied"], ["wide"])
    network = load(base, adapters).network
    attention = network.model.layers[0].self_attn
    wholes = {layer.base.weight.untyped_storage().data_ptr() for layer in (attention.q_proj, attention.k_proj, attention.v_proj)}
    wholes |= {attention.q_proj.down.untyped_storage().data_ptr()}
    assert len(wholes) == 1
    assert network.lm_head.weight.data_ptr() == network.model.embed_tokens.weight.data_ptr()


def test_adapters_of_the_embedding_are_left_to_transformers(tmp_path):
    base, adapters = write(tmp_path, TAKEN["qwen 2"], ["embedding"])
    assert load(base, adapters).decoder is None


def test_positions_beyond_the_first_table_of_angles_are_turned_too(tmp_path):
    base, _ = write(tmp_path, LlamaConfig(**SHAPE | {"max_position_embeddings": 1024}, rope_parameters=LLAMA3))
    model = load(base, {})
    assert model.decoder is not None
    long = [3 + at % 90 for at in range(_FIRST_TURNS + 40)]
    found = []
    for one in (model, replace(model, decoder=None)):
        batch, first = prefill(one, [0, 1], [long, long[:7]], [None, None])
        _, second = advance(one, batch, [5, 6], [None, None])
        found.append(torch.stack([first, second]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_a_network_that_gives_other_logits_than_ours_keeps_its_own_forward_pass_and_it_is_told(tmp_path, caplog):
    base, _ = write(tmp_path, TAKEN["qwen 2"])
    model = load(base, {})
    assert model.decoder is not None

    def louder(_network, _args, output):
        output.logits.mul_(1.01)

    model.network.register_forward_hook(louder)
    assert _written_out(replace(model, decoder=None)).decoder is None
    assert "Qwen2ForCausalLM: decoded by transformers' own modules" in caplog.text


def test_a_layer_of_another_kind_is_refused_by_name():
    with pytest.raises(TypeError, match="Bilinear"):
        JoinedLinear([torch.nn.Linear(2, 2), torch.nn.Bilinear(2, 2, 2)], None)
