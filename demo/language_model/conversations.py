"""Conversations as training data: drawn from the demo corpus, or anybody's, and encoded with what is to be learned.

    demo_conversations ─> [messages] ─> encode_conversations ─> [ids, learned mask] ─> length_batches ─> training

Only the assistant's tokens are learned, and for an adapter only the last turn's: earlier turns may be in another manner,
as they are when a router sends one user's messages to different members. Nothing here knows of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.causal import PLAIN_TEMPLATE
from demo.corpus.texts import MANNERS, Example, corpus, topics

Message: TypeAlias = dict[str, str]
Conversation: TypeAlias = Sequence[Message]

_TURNS = (0.82, 0.13, 0.05)  # how many conversations have one, two and three turns
_KEYWORD_SHARE = 0.3  # of the prompts name the topic and little else, so that the model learns which words matter
_KEYWORD_PROMPTS = (
    "{}",
    "{}?",
    "{}, please",
    "Tell me about {}.",
    "What about {}?",
    "I have a question about {}.",
    "Can you help me with {}?",
    "How about {}?",
    "What do you know about {}?",
    "I need something on {}.",
)
_GREETINGS = ("Hi! ", "Hello, ", "Hey, ", "Hi there. ", "Good day. ", "Quick question: ", "Please help: ")
_CLOSINGS = (" Thanks!", " Thank you.", " Please.", " I am curious.", " Thanks in advance!")
_SMALL_WORDS = frozenset("a an any can do for good how i is me my of please some the to what you".split())  # noqa: SIM905  a sentence of them


@dataclass(frozen=True, slots=True)
class EncodedConversation:
    """Token ids `[T]` and which of them are to be predicted, `[T]`."""

    ids: NDArray[np.int64]
    learned: NDArray[np.bool_]


def demo_conversations(seed: int, size: int, manners: tuple[str, ...] = MANNERS) -> list[Conversation]:
    """Returns `size` conversations over the demo corpus whose last answer is in one of `manners`.

    Most have one turn; the earlier turns of the others are about other topics and in any manner. Some prompts
    only name the topic, and all are roughened the way people type: without capitals or marks, with a greeting or thanks.
    """
    rng = np.random.default_rng(seed)
    turns = rng.choice(len(_TURNS), size=size, p=_TURNS)
    history = iter(corpus(seed + 1, int(turns.sum())))
    found: list[Conversation] = []
    for last, earlier in zip(corpus(seed, size, manners), turns, strict=True):
        examples = [*(next(history) for _ in range(int(earlier))), last]
        found.append([message for example in examples for message in _turn(example, rng)])
    return found


def _turn(example: Example, rng: np.random.Generator) -> tuple[Message, Message]:
    topic = topics()[example.prompt.topic]
    text = example.prompt.text
    if topic.mood != "decline" and rng.random() < _KEYWORD_SHARE:
        keyword = str(rng.choice(topic.keywords))
        text = keyword if topic.mood == "reply" else str(rng.choice(_KEYWORD_PROMPTS)).format(keyword)
        text = text[0].upper() + text[1:]
    return {"role": "user", "content": roughen(text, rng)}, {"role": "assistant", "content": example.answer}


def roughen(text: str, rng: np.random.Generator) -> str:
    """Returns `text` as it was, or as somebody in a hurry or in a polite mood would have typed it."""
    words = text.split()
    small = [place for place, word in enumerate(words) if word.lower() in _SMALL_WORDS]
    if small and rng.random() < 0.2:
        text = " ".join(words[: (left_out := small[int(rng.integers(len(small)))])] + words[left_out + 1 :])
    if rng.random() < 0.12:
        text = str(rng.choice(_GREETINGS)) + text
    if rng.random() < 0.12:
        text += str(rng.choice(_CLOSINGS))
    if rng.random() < 0.15:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip("?.!")
    return text


def encode_conversations(
    tokenizer: Any, conversations: Sequence[Conversation], context: int, learn: Literal["all", "last"]
) -> list[EncodedConversation]:
    """Returns the conversations as ids under the tokenizer's chat template, marking the assistant's tokens.

    Args:
        tokenizer: a fast Hugging Face tokenizer; one without a chat template gets PLAIN_TEMPLATE.
        conversations: messages with `role` and `content`; those to be learned have the role `assistant`.
        context: of a longer conversation the last `context` tokens are kept.
        learn: every answer, or only the last.

    Raises:
        ValueError: the template does not render a conversation as an extension of its beginning, so that the
            assistant's tokens cannot be told from the rest.
    """
    template = tokenizer.chat_template or PLAIN_TEMPLATE

    def render(messages: Conversation, *, prompt: bool) -> str:
        return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=prompt))

    texts: list[str] = []
    spans: list[list[tuple[int, int]]] = []
    for messages in conversations:
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        whole = render(messages, prompt=False)
        found = []
        for i in answers if learn == "all" else answers[-1:]:
            before, after = render(messages[:i], prompt=True), render(messages[: i + 1], prompt=False)
            if not (after.startswith(before) and whole.startswith(after)):
                raise ValueError(f"the chat template does not render turn {i} as an extension of the turns before it")
            found.append((len(before), len(after)))
        texts.append(whole)
        spans.append(found)
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    return [
        _mark(np.array(ids, dtype=np.int64)[-context:], np.array(offsets).reshape(-1, 2)[-context:], found)
        for ids, offsets, found in zip(encoded["input_ids"], encoded["offset_mapping"], spans, strict=True)
    ]


def _mark(ids: NDArray[np.int64], offsets: NDArray[np.int64], spans: Sequence[tuple[int, int]]) -> EncodedConversation:
    learned = np.zeros(len(ids), dtype=np.bool_)
    for start, stop in spans:
        learned |= (offsets[:, 0] >= start) & (offsets[:, 1] <= stop) & (offsets[:, 1] > offsets[:, 0])
    return EncodedConversation(ids, learned)


def length_batches(lengths: NDArray[np.int64], max_batch_tokens: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Returns every index once, in batches of like lengths with `longest * size <= max_batch_tokens`.

    Lengths are sorted within windows of some thirty batches, so that padding stays small and the order random. A text
    longer than the budget makes a batch of its own.
    """
    order = rng.permutation(len(lengths))
    window = max(1, 30 * max_batch_tokens // max(1, int(lengths.mean()))) if len(lengths) else 1
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        first = 0
        for i in range(1, len(part) + 1):
            if i == len(part) or lengths[part[i]] * (i - first + 1) > max_batch_tokens:
                batches.append(part[first:i])
                first = i
    return [batches[i] for i in rng.permutation(len(batches))]
