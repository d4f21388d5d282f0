"""Prompts and answers out of what tables hold: plain texts, HH transcripts (`Human:` / `Assistant:`), lists of messages.

A conversation becomes the prompt text that the service makes of the same messages (`turns_of`, `conversation_text`), calls of tools and
their results as text, and the last assistant turn the answer. This module does not know files or users.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from attune.models.seam.json_lines import JsonInvalid, parse_json
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
        chosen: an answer, or a conversation that ends with one: a list of messages, or a transcript.
        rejected: the same.
        names: columns of the two, for errors.

    Raises:
        ValueInvalid: neither; or the two conversations differ before their last turn; or an answer is blank.
    """
    if prompt is not None:
        asked = parse_prompt(prompt)
        return Parsed(asked, parse_answer(names[0], chosen), parse_answer(names[1], rejected))
    first, second = _conversation(names[0], chosen), _conversation(names[1], rejected)
    if first[:-1] != second[:-1]:
        raise ValueInvalid(names[1], "its conversation is another than that of the other answer before the last turn")
    return Parsed(conversation_text(first[:-1]), _filled(names[0], first[-1][1]), _filled(names[1], second[-1][1]))


def parse_prompt(value: object) -> str:
    """Returns the prompt text of a text, a transcript that ends with a user's turn, or a list of messages.

    Raises:
        ValueInvalid: it is none of them, or blank.
    """
    value = _unpacked(value)
    if isinstance(value, str):
        turns = _asked(parse_transcript(value))
        return _filled("prompt", conversation_text(turns) if turns else value)
    return _filled("prompt", conversation_text([turn for turn in _messages("prompt", value) if turn[1].strip()]))


def _asked(turns: Messages) -> Messages:
    """Returns the turns before an answer: `Assistant:` at the end says whose turn is next, and nothing more."""
    return turns[:-1] if turns and turns[-1][0] == "assistant" and not turns[-1][1].strip() else turns


def parse_answer(column: str, value: object) -> str:
    """Returns the answer of a text, or of a list of messages that ends with the assistant's.

    Raises:
        ValueInvalid: it is none of them, or blank.
    """
    value = _unpacked(value)
    if isinstance(value, str):
        turns = parse_transcript(value)
        return _filled(column, turns[-1][1] if turns and turns[-1][0] == "assistant" else value)
    return _filled(column, _ending(column, _messages(column, value))[-1][1])


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
    value = _unpacked(value)
    if isinstance(value, str):
        turns = parse_transcript(value)
        if len(turns) < _LEAST_TURNS or turns[-1][0] != "assistant":
            raise ValueInvalid(column, "is a plain answer, and there is no prompt")
        return turns
    return _ending(column, _messages(column, value))


def _ending(column: str, messages: Messages) -> Messages:
    if messages[-1][0] != "assistant":
        raise ValueInvalid(column, f"ends with a turn of the {messages[-1][0]}; the assistant's is needed")
    return messages


def _messages(column: str, value: Any) -> Messages:
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise ValueInvalid(column, f"is {_short(value)}; a text or a list of messages is needed")
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


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
