"""The messages of a conversation, as OpenAI's clients and agents keep and send them, as turns of text: for training and serving alike.

    messages ─> turns (role, text), and every field that cannot be read

What a stored conversation of an agent holds is read: calls of tools and their results become text, and a turn that says nothing (null,
empty or missing content) is passed over. What would be lost is named: images, audio, files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from attune.models.seam.json_lines import kind_of
from attune.models.seam.printable import printable

Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts that hold text, and the field that holds it."""
THOUGHT_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_text", "thought"})
"""Kinds of parts that a reader never saw; histories of reasoning models hold them."""
Wrong = list[tuple[str, str] | tuple[str, str, str]]
"""Fields of one message that cannot be read, and why; of a part that is no text, its kind too."""


class ReadTurn(NamedTuple):
    """What was said by whom, and in which of the messages, from 0."""

    role: Role
    text: str
    message: int


class UnreadField(NamedTuple):
    """What cannot be read: in which of the messages, from 0; the field inside of it, empty for all of it; why; and the kind of a part."""

    message: int
    field: str
    what: str
    kind: str = ""


def turns_of(messages: Sequence[Any]) -> tuple[list[ReadTurn], list[UnreadField]]:
    """Returns the turns that say something, and what cannot be read."""
    turns: list[ReadTurn] = []
    unread: list[UnreadField] = []
    called: dict[str, str] = {}
    for index, message in enumerate(messages):
        wrong: Wrong = []
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(message, Mapping):
            wrong.append(("", "is not an object with `role` and `content`"))
        elif not isinstance(role, str) or role not in ROLES:
            told = f"is {printable(role)!r}; " if isinstance(role, str) else "is missing or no string; "
            wrong.append(("role", f"{told}{', '.join(ROLES)} are understood"))
        elif (text := _said(message, role, called, wrong)).strip():
            turns.append(ReadTurn(ROLES[role], text, index))
        unread += [UnreadField(index, *each) for each in wrong]
    return turns, unread


def _said(message: Mapping[str, Any], role: str, called: dict[str, str], wrong: Wrong) -> str:
    text = _text(message.get("content"), "content", wrong)
    if role == "assistant":
        refusal = message.get("refusal")
        text += refusal if isinstance(refusal, str) else ""  # said in place of an answer, and what the next turn speaks of
        return "\n".join(filter(None, [text, *_calls(message, called, wrong)]))
    if role in {"tool", "function"} and text:
        name = called.get(str(message.get("tool_call_id")), str(message.get("name") or "the tool"))
        return f"Result of {printable(name)}: {text}"
    return text


def _text(content: Any, at: str, wrong: Wrong, *, inside: bool = False) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        wrong.append((at, f"is {kind_of(content)}; a string, a list of parts or null is needed"))
        return ""
    return "".join(_text_of_part(part, f"{at}[{index}]", wrong, inside=inside) for index, part in enumerate(content))


def _text_of_part(part: Any, at: str, wrong: Wrong, *, inside: bool) -> str:
    """Returns the text of a part; what is `inside` a result holds no further results."""
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        wrong.append((at, "is not a part with `type` and its text"))
        return ""
    if kind in THOUGHT_PARTS:
        return ""
    if kind == "tool_use":  # calls and results as parts, as Anthropic's clients keep them
        return call_sentence(str(part.get("name", "")), json.dumps(part.get("input", {}), default=str))
    if kind == "tool_result" and not inside:
        return f"Result of the tool: {_text(part.get('content'), f'{at}.content', wrong, inside=True)}"
    if kind not in TEXT_PARTS:
        wrong.append((f"{at}.type", f"is {printable(kind)!r}; only text is read here", kind))
        return ""
    found = part.get(TEXT_PARTS[kind])
    if isinstance(found, str):
        return found
    if found is not None or "type" not in part:
        wrong.append((at, "is not a part with `type` and its text"))
    return ""


def _calls(message: Mapping[str, Any], called: dict[str, str], wrong: Wrong) -> list[str]:
    """Returns a sentence for each tool that the assistant called; `called` learns the names by the calls' ids."""
    old = message.get("function_call")
    calls = message.get("tool_calls") or ([{"function": old}] if old else [])
    if not isinstance(calls, list):
        wrong.append(("tool_calls", f"is {kind_of(calls)}; a list or null is needed"))
        return []
    said = []
    for call in calls:
        function = (call.get("function") or call.get("custom")) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            wrong.append(("tool_calls", "holds a call without a function"))
            continue
        name, arguments = str(function.get("name", "")), function.get("arguments", function.get("input", ""))
        called[str(call.get("id"))] = name
        said.append(call_sentence(name, arguments if isinstance(arguments, str) else json.dumps(arguments, default=str)))
    return said


def call_sentence(name: str, arguments: str) -> str:
    """Returns the text that a call of a tool is in a conversation."""
    return f"Called {printable(name)} with {arguments}"
