"""The demo language model's tokenizer: byte-level BPE with a chat template, saved as a Hugging Face folder.

    texts ─> train_chat_tokenizer ─> tokenizer.apply_chat_template(messages) ─> ids

Byte level means that every text survives the round trip, also one whose letters the corpus never showed. The template
knows user and assistant turns; a system message is left out, because the model has learned no use for it. Whatever
looks like a special token inside a message is broken up, so that a text cannot open a turn of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

USER, ASSISTANT, END, PADDING = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set text = message['content'] if message['content'] is string else message['content'] | map(attribute='text') | join(' ') -%}"
    "{%- if message['role'] in ['user', 'assistant'] -%}"
    "{{- '<|' + message['role'] + '|>' + text | trim | replace('<|', '< |') + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def train_chat_tokenizer(texts: Iterable[str], vocabulary: int, context: int) -> PreTrainedTokenizerBase:
    """Returns a tokenizer of `vocabulary` tokens (special ones included) learned from `texts`.

    The same texts in the same order give the same tokenizer. `END` ends a turn and is the end-of-sequence token.

    Raises:
        ValueError: `vocabulary` does not hold the 256 bytes and the special tokens.
    """
    special = [PADDING, END, USER, ASSISTANT]
    if vocabulary < 256 + len(special):
        raise ValueError(f"vocabulary is {vocabulary}; the bytes and the special tokens alone need {256 + len(special)}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
