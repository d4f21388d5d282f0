"""A request of OpenAI's Responses API as the chat completion that asks the same.

    instructions, input items, tools, text format ──> messages, tools, response_format ──> `ChatRequest`, and where each came from

Nothing is stored for a later response, so what refers to something stored is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attune.models.seam.json_lines import kind_of
from attune.models.seam.printable import printable
from attune.service.errors import FieldError

_ROLES = frozenset({"user", "assistant", "system", "developer"})
_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})
_CALLS: Mapping[str, tuple[str, str]] = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}
_RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})
_UNREAD = frozenset({"reasoning"})
"""Items that a reader never saw."""
_STORED = "refers to something that was stored; nothing is stored here, so send it whole"
_CHAT_FIELDS: Mapping[str, str] = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
}


@dataclass(slots=True)
class ChatOfResponse:
    """What a request comes to as a chat.

    Attributes:
        messages: of the chat.
        sources: for each message, the field of the request that it is made of.
        wrong: what cannot be read.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    wrong: list[FieldError] = field(default_factory=list)

    def add(self, source: str, message: dict[str, Any]) -> None:
        """Takes one more message."""
        self.messages.append(message)
        self.sources.append(source)

    def renamed(self, error: FieldError) -> FieldError:
        """Returns an error of the chat by the client's own name for what is wrong."""
        head, bracket, rest = error.field.partition("[")
        found = re.fullmatch(r"messages\[(\d+)\](.*)", error.field)
        if found and int(found[1]) < len(self.sources):
            return FieldError(f"{self.sources[int(found[1])]}{found[2]}", error.message)
        return FieldError(f"{_CHAT_FIELDS.get(head, head)}{bracket}{rest}", error.message)


def chat_of(instructions: str | None, given: str | Sequence[Any]) -> ChatOfResponse:
    """Returns the messages that instructions and input make together."""
    chat = ChatOfResponse()
    if instructions:
        chat.add("instructions", {"role": "system", "content": instructions})
    if isinstance(given, str):
        chat.add("input", {"role": "user", "content": given})
        return chat
    for index, item in enumerate(given):
        _add(chat, f"input[{index}]", item)
    return chat


def _add(chat: ChatOfResponse, at: str, item: Any) -> None:
    if not isinstance(item, Mapping):
        chat.wrong.append(FieldError(at, f"is {kind_of(item)}; an item of input is an object"))
        return
    kind = item.get("type", "message")
    if kind == "message":
        _add_message(chat, at, item)
    elif kind in _CALLS:
        _add_call(chat, at, item, *_CALLS[kind])
    elif kind in _RESULTS:
        output = item.get("output")
        content = output if isinstance(output, str) else _parts(chat, f"{at}.output", output)
        chat.add(at, {"role": "tool", "tool_call_id": str(item.get("call_id", "")), "content": content})
    elif kind == "item_reference":
        chat.wrong.append(FieldError(at, _STORED))
    elif kind not in _UNREAD:
        told = printable(kind) if isinstance(kind, str) else kind_of(kind)
        chat.wrong.append(FieldError(f"{at}.type", f"is {told!r}; {', '.join(['message', *_CALLS, *sorted(_RESULTS)])} are read here"))


def _add_message(chat: ChatOfResponse, at: str, item: Mapping[str, Any]) -> None:
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        chat.wrong.append(FieldError(f"{at}.role", f"is none of {', '.join(sorted(_ROLES))}"))
        return
    chat.add(at, {"role": role, "content": content if isinstance(content, str) else _parts(chat, f"{at}.content", content)})


def _add_call(chat: ChatOfResponse, at: str, item: Mapping[str, Any], kind: str, text: str) -> None:
    called = {"id": str(item.get("call_id", "")), "type": kind, kind: {"name": item.get("name"), text: item.get(text)}}
    if not all(isinstance(item.get(name), str) for name in ("call_id", "name", text)):
        chat.wrong.append(FieldError(at, f"is a call, which needs `call_id`, `name` and `{text}` as strings"))
    last = chat.messages[-1] if chat.messages else {}
    # Calls stand beside the text that they came with, and each other, in one turn of the assistant.
    if last.get("role") == "assistant":
        last.setdefault("tool_calls", []).append(called)
    else:
        chat.add(at, {"role": "assistant", "content": None, "tool_calls": [called]})


def _parts(chat: ChatOfResponse, at: str, parts: Any) -> list[dict[str, Any]]:
    if not isinstance(parts, list):
        chat.wrong.append(FieldError(at, f"is {kind_of(parts)}; a string or a list of parts is needed"))
        return []
    return [_part(chat, f"{at}[{index}]", part) for index, part in enumerate(parts)]


def _part(chat: ChatOfResponse, at: str, part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": part.get("text")}
    if kind == "refusal":
        return {"type": "refusal", "refusal": part.get("refusal")}
    if kind in {"input_image", "input_file"} and part.get("file_id"):
        chat.wrong.append(FieldError(f"{at}.file_id", _STORED))
    elif kind == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url"), **_given(part, "detail")}}
    elif kind == "input_file":
        return {"type": "file", "file": _given(part, "file_data", "filename", "file_url")}
    elif kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    else:
        told = printable(kind) if isinstance(kind, str) else kind_of(part if kind is None else kind)
        chat.wrong.append(FieldError(at, f"is {told!r}; input_text, input_image, input_file, input_audio and output_text are read here"))
    return {"type": "text", "text": ""}


def tools_of(tools: Sequence[Any] | None, wrong: list[FieldError]) -> list[dict[str, Any]] | None:
    """Returns the tools as a chat has them; those that OpenAI itself runs are added to what is wrong."""
    found = []
    for index, tool in enumerate(tools or ()):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind in {"function", "custom"}:
            found.append({"type": kind, kind: {name: value for name, value in tool.items() if name != "type" and value is not None}})
            continue
        told = printable(kind) if isinstance(kind, str) else kind_of(tool)
        wrong.append(FieldError(f"tools[{index}]", f"is {told!r}; `function` and `custom` can be passed on, others run at OpenAI alone"))
    return found or None


def tool_choice_of(choice: Any) -> Any:
    """Returns the choice as a chat has it."""
    if not isinstance(choice, Mapping):
        return choice
    kind = choice.get("type")
    if kind in {"function", "custom"}:
        return {"type": kind, kind: {"name": choice.get("name")}}
    if kind == "allowed_tools":
        allowed = {"mode": choice.get("mode"), "tools": tools_of(choice.get("tools"), []) or []}
        return {"type": kind, kind: allowed}
    return choice


def format_of(text: Mapping[str, Any] | None) -> Any:
    """Returns the form of the answer as a chat has it."""
    asked = (text or {}).get("format")
    if isinstance(asked, Mapping) and asked.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {name: value for name, value in asked.items() if name != "type"}}
    return asked


def _given(part: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: part[name] for name in names if part.get(name) is not None}
