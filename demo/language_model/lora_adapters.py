"""LoRA adapters by supervised learning: one small folder per portfolio member, on a base that stays frozen.

    base folder + conversations ─> train_adapter ─> adapter_config.json, adapter_model.safetensors

Any Hugging Face causal language model will do as a base. Adapters are stored in float16 and never name the place where
the base lay, so that a folder may be moved or published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.language_model.conversations import Conversation, encode_conversations
from demo.language_model.supervised import Fit, FitSettings, fit


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """Shape and training of an adapter; every linear layer but the output head gets one of rank `rank`."""

    rank: int = 4
    alpha: int = 16
    context: int = 512
    attention: str = "sdpa"
    fit: FitSettings = field(default_factory=lambda: FitSettings(learning_rate=4e-3, max_batch_tokens=2048, weight_decay=0.0))


def train_adapter(
    base: Path | str,
    out_dir: Path,
    conversations: Sequence[Conversation],
    seed: int,
    settings: AdapterSettings | None = None,
    base_name: str = "",
    progress: Callable[[str], None] | None = None,
) -> Fit:
    """Trains a LoRA adapter on the last answer of each conversation and writes it to `out_dir`.

    Args:
        base: folder (or hub id) of a causal language model and its tokenizer; it is read, not changed.
        out_dir: made if absent; gets `adapter_config.json` and `adapter_model.safetensors`.
        conversations: messages with `role` and `content`, each ending with an answer to be imitated.
        seed: of the initial weights and the order of the batches.
        settings: defaults suit a model of a few million parameters; take a learning rate near 2e-4 for a large one.
        base_name: what the adapter's configuration calls its base; never a path.
        progress: called with a line now and then.

    Raises:
        ValueError: there is nothing to learn, or the base's chat template cannot be used (`encode_conversations`).
    """
    settings = settings or AdapterSettings()
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=settings.attention)
    examples = encode_conversations(tokenizer, conversations, settings.context, learn="last")
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", lora_dropout=0.0, bias="none", task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, lora)
    result = fit(adapted, examples, settings.fit, seed, progress)
    adapted.half().save_pretrained(out_dir)
    (out_dir / "README.md").unlink(missing_ok=True)  # an empty model card that names the base's path
    config_file = out_dir / "adapter_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    config["target_modules"] = sorted(config["target_modules"])  # peft keeps a set, whose order changes from run to run
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return result
