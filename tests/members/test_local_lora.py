"""Rows of different adapters get from the stacked layers what peft gives each alone."""

# ruff: noqa: E402 -- what cannot be imported without these libraries comes after asking for them

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from attune.service.members.local_batch import prefill
from attune.service.members.local_lora import RowAdapters
from attune.service.members.local_model import load
from tests.members.tiny import write_tokenizer

PROMPTS = [[5, 9, 20, 31, 7], [44, 45], [12, 13, 14, 15], [50, 51, 52], [60, 61, 62, 63, 64, 65]]


def write(base, path, seed, **settings):
    torch.manual_seed(seed)
    config = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(path)
    return path


def agree_with_peft(base, adapters):
    model = load(base, adapters)
    names = [None, *adapters, next(iter(adapters))][: len(PROMPTS)]
    with torch.inference_mode():
        _, logits = prefill(model, names, PROMPTS[: len(names)], names)
        for row, name in enumerate(names):
            alone = AutoModelForCausalLM.from_pretrained(base)
            if name is not None:
                alone = PeftModel.from_pretrained(alone, str(adapters[name]))
            expected = alone.eval()(torch.tensor([PROMPTS[row]])).logits[0, -1]
            torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-5)
    return model


def test_ranks_scalings_and_places_may_differ_between_adapters(language_model, tmp_path):
    base = language_model / "base"
    adapters = {
        "low": write(base, tmp_path / "low", 1, r=2, lora_alpha=8, target_modules=["q_proj"]),
        "high": write(base, tmp_path / "high", 2, r=7, lora_alpha=3, target_modules=["q_proj", "down_proj"], use_rslora=True),
        "uneven": write(base, tmp_path / "uneven", 3, r=4, target_modules=["v_proj", "o_proj"], rank_pattern={"o_proj": 9}),
    }
    model = agree_with_peft(base, adapters)
    assert not any("lora" in name for name, _ in model.network.named_modules()), "every layer is stacked"


def test_layers_that_cannot_be_stacked_stay_pefts_and_mix_rows_too(tmp_path):
    torch.manual_seed(0)
    base = tmp_path / "gpt2"
    config = GPT2Config(
        vocab_size=384, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, initializer_range=0.3
    )
    GPT2LMHeadModel(config).save_pretrained(base)
    write_tokenizer(base)
    adapters = {
        name: write(base, tmp_path / name, seed, r=4, target_modules=["c_attn"], fan_in_fan_out=True) for seed, name in enumerate("ab")
    }
    model = agree_with_peft(base, adapters)
    assert any("lora_A" in name for name, _ in model.network.named_modules())


def test_which_adapter_a_row_uses_follows_every_change_of_the_batch():
    rows, cpu = RowAdapters(("__base__", "a", "b")), torch.device("cpu")
    for names, places, only in [
        (["a", "b", "a"], [1, 2, 1], None),
        (["a", "a"], [1, 1], 1),
        (["a"], [1], 1),
        (["__base__"], [0], 0),
        (["__base__", "b"], [0, 2], None),
    ]:
        rows.choose(names, cpu, torch.float32)
        assert (rows.index.tolist(), rows.only) == (places, only)
        marks = None if only is not None else [[float(slot == place) for slot in range(3)] for place in places]
        assert (None if rows.marks is None else rows.marks.flatten(1).tolist()) == marks
