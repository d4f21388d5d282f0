"""Prompts and answers out of what tables hold: plain texts, HH transcripts (`Human:` / `Assistant:`), lists of messages.

A conversation becomes the prompt text that the service makes of the same messages (`turns_of`, `conversation_text`), calls of tools and
their results as text, and the last assistant turn the answer. This module does not know files or users.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from attune.models.seam.json_lines import JsonInvalid, parse_json
from attune.models.seam.printable import shortened
from attune.models.seam.text import conversation_text
from attune.models.seam.turns import ROLES, turns_of

_SHAREGPT = {"human": "user", "gpt": "assistant"}
"""Who speaks, as ShareGPT calls them, and what OpenAI does."""
_SAYING = frozenset({"content", "value", "tool_calls", "function_call", "refusal"})
"""Fields of which a message has one at least."""
_TURN = re.compile(r"(?:\A|\r?\n\r?\n)(Human|Assistant): ?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_LEAST_TURNS = 2

Messages = list[tuple[str, str]]


class ValueInvalid(ValueError):
    """A value of a row cannot be read; `column` is ours, and `what` says why."""

    def __init__(self, column: str, what: str) -> None:
        super().__init__(f"{column}: {what}")
        self.column = column
        self.what = what


class Parsed(NamedTuple):
    """One prompt and two answers to it."""

    prompt: str
    chosen: str
    rejected: str


def parse_pair(prompt: object, chosen: object, rejected: object, names: tuple[str, str] = ("chosen", "rejected")) -> Parsed:
    """Returns prompt and answers.

    Args:
        prompt: a text, a list of messages, or None where both sides are whole conversations.
        chosen: an answer, or a conversation that ends with one: a list of messages, or a transcript. What it says before the answer
            belongs to the prompt, which holds it, is a part of it or comes before it.
        rejected: the same.
        names: columns of the two, for errors.

    Raises:
        ValueInvalid: neither; or the two conversations differ before their last turn, or from the prompt; or an answer is blank.
    """
    asked = None if prompt is None else _questions(prompt)
    first, second = _conversation(names[0], chosen), _conversation(names[1], rejected)
    if asked is None and min(len(first), len(second)) < _LEAST_TURNS:
        raise ValueInvalid(names[len(first) >= _LEAST_TURNS], "is a plain answer, and there is no prompt")
    if first[:-1] != second[:-1] and (asked is None or (len(first) > 1 and len(second) > 1)):
        raise ValueInvalid(names[1], "its conversation is another than that of the other answer before the last turn")
    for name, said in zip(names, (first, second), strict=True):
        asked = _joined(asked, said[:-1], name)
    assert asked is not None  # both are conversations where there is no prompt
    text = _filled("prompt", conversation_text(asked))
    return Parsed(text, _filled(names[0], first[-1][1]), _filled(names[1], second[-1][1]))


def parse_rated(prompt: object, response: object) -> tuple[str, str]:
    """Returns the prompt of one answer and the answer; an empty prompt where there is none, in the answer's conversation either.

    Raises:
        ValueInvalid: as `parse_pair`; the column of the answer is `response`.
    """
    said = _conversation("response", response)
    asked = _joined(None if prompt is None else _questions(prompt), said[:-1], "response")
    return ("" if prompt is None and not asked else _filled("prompt", conversation_text(asked))), _filled("response", said[-1][1])


def _questions(value: object) -> Messages:
    """Returns the turns of a prompt: of a text, a transcript that ends with a user's turn, or a list of messages.

    Raises:
        ValueInvalid: it is none of them, or blank.
    """
    value = _unpacked(value)
    if isinstance(value, str):
        return _asked(parse_transcript(value)) or [("user", _filled("prompt", value))]
    turns = [turn for turn in _messages("prompt", value) if turn[1].strip()]
    _filled("prompt", conversation_text(turns))
    return turns


def _joined(asked: Messages | None, before: Messages, column: str) -> Messages:
    """Returns the turns before an answer, of a prompt (None if there is none) and of the answer's own conversation.

    Raises:
        ValueInvalid: the conversation neither holds the prompt nor goes on from it: one of them would be lost.
    """
    if not before or asked is None:
        return asked or before
    words, said = [[(role, text.strip()) for role, text in turns if text.strip()] for turns in (asked, before)]
    if said == words[-len(said) :]:  # said in full by the prompt
        return asked
    if any(said[start : start + len(words)] == words for start in range(len(said))):
        return before
    if before[0][0] == "assistant":  # goes on where the prompt ends
        return [*asked, *before]
    unlike = "its conversation does not hold the prompt, nor goes on from it; ignore the prompt's column if the conversation is all of it"
    raise ValueInvalid(column, unlike)


def _asked(turns: Messages) -> Messages:
    """Returns the turns before an answer: `Assistant:` at the end says whose turn is next, and nothing more."""
    return turns[:-1] if turns and turns[-1][0] == "assistant" and not turns[-1][1].strip() else turns


def parse_transcript(text: str) -> Messages:
    """Returns the turns of an HH transcript, or none where `text` is not one: it starts with a human's turn."""
    if "Human:" not in text:
        return []
    marks = list(_TURN.finditer(text))
    if not marks or text[: marks[0].start()].strip() or marks[0].group(1) != "Human":
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [(_SPEAKERS[mark.group(1)], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]


def _conversation(column: str, value: object) -> Messages:
    """Returns the turns of an answer, which is the last: the only one of a plain text."""
    value = _unpacked(value)
    if isinstance(value, str):
        turns = parse_transcript(value)
        return turns if turns and turns[-1][0] == "assistant" else [("assistant", value)]
    return _ending(column, _messages(column, value))


def _ending(column: str, messages: Messages) -> Messages:
    if messages[-1][0] != "assistant":
        raise ValueInvalid(column, f"ends with a turn of the {messages[-1][0]}; the assistant's is needed")
    return messages


def _messages(column: str, value: Any) -> Messages:
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise ValueInvalid(column, f"is {shortened(value)}; a text or a list of messages is needed")
    messages = [_as_openai(one) for one in value]
    turns, unread = turns_of(messages)
    for one in unread[:1]:
        raise ValueInvalid(column, f"message {one.message + 1}{f': {one.field}' if one.field else ''} {one.what}")
    found: Messages = [(turn.role, turn.text) for turn in turns]
    if not turns or turns[-1].message < len(messages) - 1:  # or an earlier turn would be taken for the answer
        found.append((ROLES[messages[-1]["role"]], ""))
    return found


def _as_openai(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    role = message.get("role", message.get("from"))
    named = _SHAREGPT.get(role, role) if isinstance(role, str) else role
    return message | {"role": named, "content": message.get("content", message.get("value"))}


def _unpacked(value: object) -> object:
    """Returns messages that are kept as JSON in a text, as separated values have to; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("[{"):
        return value
    try:
        found = parse_json(value.encode("utf-8", "replace"))
    except JsonInvalid:
        return value
    return found if all(isinstance(one, dict) and one.keys() & {"role", "from"} and one.keys() & _SAYING for one in found) else value


def _filled(column: str, text: str) -> str:
    if not text.strip():
        raise ValueInvalid(column, "must not be blank")
    return text
