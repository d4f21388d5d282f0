"""Ten tiny random transformers in folders, each as its own library class and configuration make it, with one small byte-level tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = ["hello world, how are you today?", "boil the egg for nine minutes", "perhaps you should ask someone"]
ENCODERS = ("Bert", "Roberta", "DebertaV2", "ModernBert")
DECODERS = ("Llama", "Qwen3", "Gemma", "Mistral", "GPT2", "Phi")
CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def tiny_tokenizer(*, encoder: bool, chat: bool = False, marked: bool = False) -> PreTrainedTokenizerFast:
    """Returns a byte-level tokenizer; `marked` says which of two texts a token is of, as BERT's does."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[CLS]", "[SEP]"] if encoder else ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(SENTENCES, trainer)
    if encoder:
        pieces = [("[CLS]", 1), ("[SEP]", 2)]
        bpe.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", pieces)
        inputs = ["input_ids", "token_type_ids", "attention_mask"] if marked else ["input_ids", "attention_mask"]
        specials = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        return PreTrainedTokenizerFast(tokenizer_object=bpe, model_input_names=inputs, **specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer


def tiny_config(architecture: str, vocabulary: int, **more: Any) -> Any:
    """Returns a configuration of two layers of width 32."""
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "pad_token_id": 0,
    }
    wide = {**sizes, "intermediate_size": 64, "max_position_embeddings": 96}
    grouped = {**wide, "num_key_value_heads": 1}
    given: dict[str, dict[str, Any]] = {
        "Bert": wide,
        "Roberta": {**wide, "max_position_embeddings": 97},
        "DebertaV2": {
            **wide,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        },
        "ModernBert": {**wide, "local_attention": 16, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
        "Llama": grouped,
        "Qwen3": {**grouped, "head_dim": 16},
        "Gemma": {**grouped, "head_dim": 16},
        "Mistral": {**grouped, "sliding_window": 32},
        "GPT2": {"vocab_size": vocabulary, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 96, "pad_token_id": 0},
        "Phi": wide,
    }
    make: Callable[..., Any] = getattr(transformers, f"{architecture}Config")
    return make(**given[architecture], **more)


def write_architecture(folder: Path, architecture: str, *, chat: bool = False) -> Path:
    """Writes a tiny random model of one architecture with its tokenizer to `folder` and returns it."""
    tokenizer = tiny_tokenizer(encoder=architecture in ENCODERS, chat=chat)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(tiny_config(architecture, len(tokenizer))).save_pretrained(folder)
    return folder


def write_classifier(folder: Path, architecture: str, labels: int, *, chat: bool = True, names: dict[int, str] | None = None) -> Path:
    """Writes a tiny random sequence classifier with `labels` outputs to `folder` and returns it."""
    tokenizer = tiny_tokenizer(encoder=architecture in ENCODERS, chat=chat and architecture in DECODERS, marked=architecture == "Bert")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    named = {} if names is None else {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    config = tiny_config(architecture, len(tokenizer), num_labels=labels, **named)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder
