"""What of a chat completion goes to a member's server as the caller wrote it, where the roster says that this server takes it.

    request ── what it asks beyond text, by the names of `PASSES` ──> members whose roster `passes` them ──> Passed ──> `request_body`

Attune reads none of it. Routing and rewards see the text of a conversation; pictures and sound are the server's alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOOLS = "tools"
REASONING = "reasoning"
"""What a model thinks, which its server tells beside the text: passed to the caller, who may have to send it back."""
THOUGHT = "reasoning_content"
"""The field of a message in which most servers tell a thought, for thoughts that came without one."""
CONTENTS: Mapping[str, str] = {"image_url": "images", "input_audio": "audio", "file": "files", "video_url": "videos"}
"""Kinds of parts of a message that are no text, and the name under which they are passed."""

_ALONE = (
    *("response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "structural_tag"),
    *("grammar", "regex", "ebnf", "json_schema", "format"),
    *("logit_bias", "frequency_penalty", "presence_penalty", "repetition_penalty", "top_k", "min_p"),
    *("reasoning_effort", "verbosity", "prediction", "thinking", "documents", "web_search_options"),
    *("min_tokens", "ignore_eos", "stop_token_ids", "allowed_token_ids", "bad_words"),
)
PASSES: Mapping[str, tuple[str, ...]] = {
    TOOLS: ("tools", "tool_choice", "parallel_tool_calls"),
    **dict.fromkeys([*CONTENTS.values(), REASONING], ()),
    **{name: (name,) for name in _ALONE},
}
"""What a roster may let pass, each with the fields of a chat completion that it stands for; contents and thoughts stand in messages."""

ALL = frozenset(PASSES)

_SYSTEM_ROLES = ("system", "developer")
_THOUGHTS = ("reasoning", "thinking", "thought")


def is_thought(name: str) -> bool:
    """Returns whether a field of a message holds what a model thinks, by its name."""
    return any(part in name for part in _THOUGHTS)


def add_thoughts(into: dict[str, Any], thoughts: Mapping[str, Any]) -> None:
    """Joins pieces of thoughts, by their names, to those that came before: texts and lists go on, of anything else the first holds."""
    for name, said in thoughts.items():
        before: Any = into.setdefault(name, said)
        if before is not said and any(isinstance(before, kind) and isinstance(said, kind) for kind in (str, list)):
            into[name] = before + said


@dataclass(frozen=True, slots=True)
class Passed:
    """What one request asks beyond text.

    Args:
        fields: by the names of `PASSES`, fields of the body with their values; a member is sent those that it passes.
        messages: the conversation as it came, where turns of text would lose something that whoever answers passes; None where they do not.
        needed: names of `PASSES` for which only some of the members were asked.
    """

    fields: Mapping[str, Mapping[str, Any]]
    messages: tuple[Mapping[str, Any], ...] | None = None
    needed: tuple[str, ...] = ()

    def body(self, passes: Collection[str]) -> dict[str, Any]:
        """Returns the fields for a member that passes these."""
        return {name: value for passed, fields in self.fields.items() if passed in passes for name, value in fields.items()}

    def names(self, passes: Collection[str]) -> list[str]:
        """Returns the names of what a member that passes these is sent as it came."""
        return [*self.body(passes), *(["messages"] if self.messages else [])]

    def messages_for(self, passes: Collection[str], system: str | None, *, in_parts: bool = False) -> list[Mapping[str, Any]] | None:
        """Returns the conversation for a member that passes these, with its own system prompt in front, as one message with the request's.

        What another member thought goes to none that does not pass thoughts: servers of such refuse the fields. Whoever has thoughts
        `in_parts` of the content is sent all of them so.
        """
        if self.messages is None:
            return None
        if REASONING not in passes:
            told = [_without_thoughts(message) for message in self.messages]
        else:
            told = [_with_thought_part(message) for message in self.messages] if in_parts else list(self.messages)
        if not system:
            return told
        first, *rest = told
        if first.get("role") not in _SYSTEM_ROLES:
            return [{"role": "system", "content": system}, *told]
        said = first.get("content")
        content = [{"type": "text", "text": system}, *said] if isinstance(said, list) else "\n\n".join(filter(None, (system, said)))
        return [{**first, "content": content}, *rest]

    def texts(self) -> Iterator[str]:
        """Yields every string in it, so that foreign words can be searched for them; names count, which in a schema are its author's."""
        for fields in self.fields.values():
            for value in fields.values():
                yield from _texts(value)
        yield from _texts(self.messages or ())


def _without_thoughts(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in message.items() if not is_thought(name)} if any(map(is_thought, message)) else message


def _with_thought_part(message: Mapping[str, Any]) -> Mapping[str, Any]:
    told = next((message[name] for name in (THOUGHT, "reasoning") if isinstance(message.get(name), str) and message[name]), "")
    if not told:
        return _without_thoughts(message)
    part = {"type": "thinking", "thinking": [{"type": "text", "text": told}], "closed": True}
    said = message.get("content") or []
    said = [{"type": "text", "text": said}] if isinstance(said, str) else said
    return {**_without_thoughts(message), "content": [part, *said]}


def thought_in(content: object) -> str:
    """Returns what is thought in the parts of a content, as Mistral's models tell it."""
    parts = [part.get("thinking") for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    texts: list[Any] = [text for part in parts for text in (part if isinstance(part, list) else [{"text": part}])]
    return "".join(text["text"] for text in texts if isinstance(text, Mapping) and isinstance(text.get("text"), str))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield name
            yield from _texts(entry)
    elif isinstance(value, Sequence):
        for entry in value:
            yield from _texts(entry)
