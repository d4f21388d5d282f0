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
from attune.service.api.prompted import sound_unicode
from attune.service.errors import CallerError, FieldError, InvalidRequest, invalid
from attune.service.members.member import PassedFieldRefused
from attune.service.members.passing import THOUGHT, add_thoughts, is_thought

_ROLES = frozenset({"user", "assistant", "system", "developer"})
_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})
_CALLS: Mapping[str, tuple[str, str]] = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}
_OF_A_CALL = frozenset(
    {"type", "id", "call_id", "name", "arguments", "input", "status", "async", "caller", "namespace", "created_by", "parsed_arguments"}
)
"""What OpenAI's clients know of a call; anything else is what its server said of it and wants back, such as a signature."""

_RESULTS = frozenset({"function_call_output", "custom_tool_call_output"})
_TOOLS: Mapping[str, tuple[str, ...]] = {"function": ("description", "parameters", "strict"), "custom": ("description", "format")}
"""Kinds of tools, and what of each beside its name a chat has a place for."""
_STORED = "refers to something that was stored; nothing is stored here, so send it whole"
_CHAT_FIELDS: Mapping[str, str] = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
}


_A_CHAT_WORD = re.compile(rf"(?<![\w'])({'|'.join(_CHAT_FIELDS)})(?![\w'])")
_CHAT_PARTS: Mapping[str, str] = {"'image_url'": "'input_image'", "'file'": "'input_file'"}


def clients_name(chats: str) -> str:
    """Returns what a field of a chat is called in a request of the Responses API."""
    return _CHAT_FIELDS.get(chats, chats)


@dataclass(slots=True)
class ChatOfResponse:
    """What a request comes to as a chat.

    Attributes:
        messages: of the chat.
        sources: for each message, the field of the request that its content is.
        wrong: what cannot be read.
        thoughts: that the next message of the assistant begins with, as fields of it.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    wrong: list[FieldError] = field(default_factory=list)
    thoughts: dict[str, Any] = field(default_factory=dict)

    def add(self, source: str, message: dict[str, Any]) -> None:
        """Takes one more message."""
        thoughts, self.thoughts = self.thoughts, {}
        self.messages.append({**thoughts, **message} if message["role"] == "assistant" else message)
        self.sources.append(source)

    def go_on(self, turn: dict[str, Any]) -> None:
        """Puts the thoughts that came since into a turn of the assistant that goes on."""
        add_thoughts(turn, self.thoughts)
        self.thoughts = {}

    def refuse(self, at: str, why: str) -> None:
        """Takes note of a field that cannot be read."""
        self.wrong.append(FieldError(at, why))

    def text(self, at: str, given: Any) -> str:
        """Returns a text that the client wrote; what is none, or cannot be read, is taken note of."""
        try:
            if isinstance(given, str):
                return sound_unicode(given)
            self.refuse(at, f"is {kind_of(given)}; a string is needed")
        except ValueError as error:
            self.refuse(at, str(error))
        return ""

    def renamed(self, error: CallerError) -> CallerError:
        """Returns an error of the chat by the client's own names for what is wrong."""
        if isinstance(error, InvalidRequest):
            return invalid([self._renamed(one) for one in error.errors])
        if isinstance(error, PassedFieldRefused):
            error.detail = _A_CHAT_WORD.sub(lambda found: _CHAT_FIELDS[found[1]], error.detail)
        return error

    def _renamed(self, error: FieldError) -> FieldError:
        message = error.message
        for chats, theirs in _CHAT_PARTS.items():
            message = message.replace(f"is {chats};", f"is {theirs};")
        found = re.fullmatch(r"messages\[(\d+)\](?:\.content)?(.*)", error.field)
        if found and int(found[1]) < len(self.sources):
            return FieldError(f"{self.sources[int(found[1])]}{found[2]}", message)
        head, bracket, rest = error.field.partition("[")
        return FieldError(f"{clients_name(head)}{bracket}{rest}", message)


def chat_of(instructions: str | None, given: str | Sequence[Any]) -> ChatOfResponse:
    """Returns the messages that instructions and input make together."""
    chat = ChatOfResponse()
    if instructions:
        chat.add("instructions", {"role": "system", "content": chat.text("instructions", instructions)})
    if isinstance(given, str):
        chat.add("input", {"role": "user", "content": chat.text("input", given)})
        return chat
    for index, item in enumerate(given):
        _add(chat, f"input[{index}]", item)
    return chat


def _add(chat: ChatOfResponse, at: str, item: Any) -> None:
    if not isinstance(item, Mapping):
        chat.refuse(at, f"is {kind_of(item)}; an item of input is an object")
        return
    kind = _kind(item) if item.get("type") else "message"
    if kind == "message":
        _add_message(chat, at, item)
    elif kind in _CALLS:
        _add_call(chat, at, item, *_CALLS[kind])
    elif kind in _RESULTS:
        called = chat.text(f"{at}.call_id", item.get("call_id"))
        content = _content(chat, f"{at}.output", item.get("output"))
        chat.add(f"{at}.output", {"role": "tool", "tool_call_id": called, "content": content})
    elif kind == "reasoning":
        add_thoughts(chat.thoughts, _thoughts(chat, at, item))
    elif kind == "item_reference":
        chat.refuse(at, _STORED)
    else:
        chat.refuse(f"{at}.type", f"is {kind}; {', '.join(['message', *_CALLS, *sorted(_RESULTS), 'reasoning'])} are read here")


def _thoughts(chat: ChatOfResponse, at: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a model thought, by its server's names for it where the item still has them, else as most servers name it."""
    named = {name: value for name, value in item.items() if value and is_thought(name)}
    parts = item.get("content")
    if named or not isinstance(parts, list):
        return named
    told = [chat.text(f"{at}.content[{index}].text", part.get("text")) for index, part in enumerate(parts) if isinstance(part, Mapping)]
    return {THOUGHT: "".join(told)} if any(told) else {}


def _add_message(chat: ChatOfResponse, at: str, item: Mapping[str, Any]) -> None:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        chat.refuse(f"{at}.role", f"is none of {', '.join(sorted(_ROLES))}")
        return
    content = _content(chat, f"{at}.content", item.get("content"))
    last = chat.messages[-1] if chat.messages else {}
    if role == "assistant" and last.get("tool_calls"):
        chat.go_on(last)
        # What is said behind calls is of the turn that made them: a chat has the results right after it.
        if last["content"] is None:
            last["content"] = content
        else:
            last["content"] = _as_parts(last["content"])
            last["content"] += _as_parts(content)
    else:
        chat.add(f"{at}.content", {"role": role, "content": content})


def _add_call(chat: ChatOfResponse, at: str, item: Mapping[str, Any], kind: str, text: str) -> None:
    told = {name: chat.text(f"{at}.{name}", item.get(name)) for name in ("call_id", "name", text)}
    said = {name: value for name, value in item.items() if name not in _OF_A_CALL and value is not None}
    called = {**said, "id": told["call_id"], "type": kind, kind: {"name": told["name"], text: told[text]}}
    last = chat.messages[-1] if chat.messages else {}
    # Calls stand beside the text that they came with, and each other, in one turn of the assistant.
    if last.get("role") == "assistant":
        chat.go_on(last)
        last.setdefault("tool_calls", []).append(called)
    else:
        chat.add(at, {"role": "assistant", "content": None, "tool_calls": [called]})


def _content(chat: ChatOfResponse, at: str, content: Any) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return chat.text(at, content)
    if not isinstance(content, list):
        chat.refuse(at, f"is {kind_of(content)}; a string or a list of parts is needed")
        return ""
    parts = [_part(chat, f"{at}[{index}]", part) for index, part in enumerate(content)]
    # One text goes as a string, which every server takes: clients send their answers back as lists of one part.
    return str(parts[0]["text"]) if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _as_parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(chat: ChatOfResponse, at: str, part: Any) -> dict[str, Any]:
    kind = _kind(part)
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": chat.text(f"{at}.text", part.get("text"))}
    if kind == "refusal":
        return {"type": "refusal", "refusal": chat.text(f"{at}.refusal", part.get("refusal"))}
    if kind in {"input_image", "input_file"} and part.get("file_id"):
        chat.refuse(f"{at}.file_id", _STORED)
    elif kind == "input_image":
        return {"type": "image_url", "image_url": {"url": chat.text(f"{at}.image_url", part.get("image_url")), **_given(part, "detail")}}
    elif kind == "input_file" and not _given(part, "file_data", "file_url"):
        chat.refuse(at, "holds neither `file_data` nor `file_url`")
    elif kind == "input_file":
        return {"type": "file", "file": _given(part, "file_data", "filename", "file_url")}
    elif kind == "input_audio" and not isinstance(part.get("input_audio"), Mapping):
        chat.refuse(f"{at}.input_audio", f"is {kind_of(part.get('input_audio'))}; an object with `data` and `format` is needed")
    elif kind == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    else:
        chat.refuse(at, f"is {kind}; input_text, input_image, input_file, input_audio and output_text are read here")
    return {"type": "text", "text": ""}


def tools_of(chat: ChatOfResponse, tools: Any, at: str = "tools") -> list[dict[str, Any]] | None:
    """Returns the tools as a chat has them; those that OpenAI itself runs are refused."""
    if not isinstance(tools, list | None):
        chat.refuse(at, f"is {kind_of(tools)}; a list of tools is needed")
        return None
    found = []
    for index, tool in enumerate(tools or ()):
        kind = _kind(tool)
        if kind in _TOOLS:
            told = {"name": chat.text(f"{at}[{index}].name", tool.get("name")), **_given(tool, *_TOOLS[kind])}
            if "format" in told:
                told["format"] = _grammar(told["format"])
            found.append({"type": kind, kind: told})
        else:
            chat.refuse(f"{at}[{index}]", f"is {kind}; `function` and `custom` can be passed on, others run at OpenAI alone")
    return found or None


def _grammar(form: Any) -> Any:
    """Returns the form of a custom tool's input as a chat has it, which keeps a grammar in an object of its own."""
    return {"type": "grammar", "grammar": _given(form, "definition", "syntax")} if _kind(form) == "grammar" else form


def tool_choice_of(chat: ChatOfResponse, choice: Any) -> Any:
    """Returns the choice as a chat has it; one of a tool that OpenAI itself runs is refused."""
    if not choice or isinstance(choice, str):
        return choice or None
    kind = _kind(choice)
    if kind in _TOOLS:
        return {"type": kind, kind: {"name": chat.text("tool_choice.name", choice.get("name"))}}
    if kind == "allowed_tools":
        tools = tools_of(chat, choice.get("tools"), "tool_choice.tools")
        return {"type": kind, kind: {"mode": choice.get("mode"), "tools": tools or []}}
    chat.refuse("tool_choice", f"is {kind}; `none`, `auto`, `required`, `function`, `custom` and `allowed_tools` can be passed on")
    return None


def format_of(chat: ChatOfResponse, text: Mapping[str, Any] | None) -> Any:
    """Returns the form of the answer as a chat has it."""
    asked = (text or {}).get("format") or None
    if asked is not None and not isinstance(asked, Mapping):
        chat.refuse("text.format", f"is {kind_of(asked)}; an object with `type` is needed")
    elif asked is not None and _kind(asked) == "json_schema":
        return {"type": "json_schema", "json_schema": _given(asked, "name", "description", "schema", "strict")}
    return asked


def _kind(found: Any) -> str:
    """Returns the `type` that an item, a part or a tool names, else what stands in its place."""
    kind = found.get("type") if isinstance(found, Mapping) else None
    return printable(kind) if isinstance(kind, str) else kind_of(found if kind is None else kind)


def _given(part: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: part[name] for name in names if part.get(name) is not None}
