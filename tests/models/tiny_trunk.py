"""Tiny random trunks of both kinds in a folder, as `load_trunk` would find a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

Kind = Literal["encoder", "decoder"]
SENTENCES = ["hello world, how are you today?", "boil the egg for nine minutes", "perhaps you should ask someone"]


def write_tiny_trunk(folder: Path, kind: Kind, *, max_positions: int = 128) -> Path:
    """Writes a two-layer model of width 32 with a byte-level tokenizer to `folder` and returns it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[CLS]", "[SEP]"] if kind == "encoder" else ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet))
    bpe.enable_truncation(8)  # of a former life; must be switched off by whoever reads it
    bpe.enable_padding(length=8)
    names = (
        {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        if kind == "encoder"
        else {"bos_token": "<s>", "eos_token": "</s>"}
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **names)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "encoder":
        BertModel(BertConfig(**sizes, max_position_embeddings=max_positions)).save_pretrained(folder)
    else:
        LlamaModel(LlamaConfig(**sizes, num_key_value_heads=1, max_position_embeddings=max_positions)).save_pretrained(folder)
    return folder
