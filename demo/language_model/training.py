"""The demo language model: a small Llama trained from scratch on generated answers, and one adapter per manner.

    demo_conversations ─> tokenizer ─> base (all manners mixed) ─> frozen ─> six LoRA adapters (one manner each)

    out_dir/base/                Hugging Face folder: config, float16 weights, generation defaults, tokenizer
    out_dir/adapters/<manner>/   peft folder
    out_dir/training.json        what was trained on what, and the losses; written last

Weights are rounded to float16 before the adapters are trained, so that the adapters fit the base that is stored. The
configuration asks for float32, into which loaders widen the weights, because float16 is slow on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from attune.models.seam.bundle import sha256_of
from demo.corpus.texts import MANNERS
from demo.language_model.chat_tokenizer import train_chat_tokenizer
from demo.language_model.conversations import demo_conversations, encode_conversations
from demo.language_model.lora_adapters import AdapterSettings, train_adapter
from demo.language_model.supervised import Fit, FitSettings, fit

BASE_NAME = "attune-demo"
DEFAULT_MAX_TOKENS = 128

_ATTENTION = "eager"  # on a CPU and at these lengths 1.4 times as fast in training as the fused kernel


@dataclass(frozen=True, slots=True)
class LanguageModelSettings:
    """Shape and training of the demo language model: about 2.3 million parameters, minutes on two CPU cores."""

    vocabulary: int = 2560
    hidden: int = 192
    layers: int = 4
    heads: int = 4
    intermediate: int = 512
    context: int = 512
    conversations: int = 40_000
    adapter_conversations: int = 1_500
    fit: FitSettings = field(default_factory=lambda: FitSettings(learning_rate=8e-3, optimizer="muon", max_batch_tokens=2048))
    continued: FitSettings = field(default_factory=lambda: FitSettings(learning_rate=4e-3, optimizer="muon", max_batch_tokens=2048))
    adapter: AdapterSettings = field(default_factory=lambda: AdapterSettings(attention=_ATTENTION))


@dataclass(frozen=True, slots=True)
class LanguageModelTraining:
    """How the base and each adapter were fitted."""

    parameters: int
    base: Fit
    adapters: dict[str, Fit]


def train_demo_language_model(
    out_dir: Path,
    seed: int,
    settings: LanguageModelSettings | None = None,
    manners: tuple[str, ...] = MANNERS,
    progress: Callable[[str], None] | None = None,
    start: Path | None = None,
) -> LanguageModelTraining:
    """Trains the base and one adapter for each of `manners`, and writes them under `out_dir` as described above.

    With `start`, the folder of a base that this trained on an earlier corpus, that base goes on learning. The same seed,
    settings and number of threads give the same model. Raises OSError if `out_dir` cannot be written.
    """
    settings = settings or LanguageModelSettings()
    say = progress or (lambda _line: None)
    base_dir = out_dir / "base"
    base = train_base(base_dir, seed, settings, progress, start)
    say(f"base: loss {base.last_loss:.3f} after {base.tokens:,} tokens in {base.wall_s:.0f} s")
    adapters: dict[str, Fit] = {}
    for manner in manners:
        number = MANNERS.index(manner) + 1
        conversations = demo_conversations(seed + 1000 * number, settings.adapter_conversations, (manner,))
        folder = out_dir / "adapters" / manner
        adapters[manner] = train_adapter(base_dir, folder, conversations, seed + number, settings.adapter, BASE_NAME)
        say(f"{manner}: loss {adapters[manner].first_loss:.3f} to {adapters[manner].last_loss:.3f} in {adapters[manner].wall_s:.0f} s")
    parameters = LlamaForCausalLM.from_pretrained(base_dir).num_parameters()
    training = LanguageModelTraining(parameters, base, adapters)
    told = {"continued_from_sha256": None if start is None else sha256_of(start / "model.safetensors")}
    _write_json(out_dir / "training.json", told | {"seed": seed, "settings": asdict(settings), "training": asdict(training)})
    return training


def train_base(
    out_dir: Path,
    seed: int,
    settings: LanguageModelSettings,
    progress: Callable[[str], None] | None = None,
    start: Path | None = None,
) -> Fit:
    """Trains tokenizer and base model on the corpus of all manners, from scratch or from `start`, and writes them to `out_dir`."""
    conversations = demo_conversations(seed, settings.conversations)
    tokenizer: Any
    if start is None:
        messages = chain.from_iterable(conversations)
        tokenizer = train_chat_tokenizer((message["content"] for message in messages), settings.vocabulary, settings.context)
    else:
        tokenizer = AutoTokenizer.from_pretrained(start)
    examples = encode_conversations(tokenizer, conversations, settings.context, learn="all")
    torch.manual_seed(seed)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    model: Any
    if start is None:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=settings.hidden,
                intermediate_size=settings.intermediate,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                num_key_value_heads=settings.heads,
                max_position_embeddings=settings.context,
                tie_word_embeddings=True,
                attn_implementation=_ATTENTION,
                **special,
            )
        )
    else:
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32, attn_implementation=_ATTENTION)
    result = fit(model, examples, settings.fit if start is None else settings.continued, seed, progress)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.4, top_p=0.95, max_new_tokens=DEFAULT_MAX_TOKENS, **special)
    model.half().save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir, save_jinja_files=False)
    config: dict[str, Any] = json.loads((out_dir / "config.json").read_text(encoding="utf-8"))
    _write_json(out_dir / "config.json", config | {"dtype": "float32"})
    return result


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
