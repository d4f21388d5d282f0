"""The messages of a chat completion, as OpenAI's clients and agents send them, read into turns of text.

messages ─> `models.seam.turns` ─> messages of a native request; parts that are no text; every field that is wrong, by the client's own name
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from attune.models.seam.counts import counted
from attune.models.seam.turns import ROLES, ReadTurn, UnreadField, turns_of
from attune.service.api.prompted import MAX_MESSAGES, Message, sound_unicode
from attune.service.errors import FieldError
from attune.service.members.passing import CONTENTS

BESIDE_ROLE = 3
"""Characters that stand beside a role where turns are one text: a colon, a space and the end of the line."""


@dataclass(frozen=True, slots=True)
class ReadMessages:
    """What the messages of a chat completion hold.

    Attributes:
        turns: those that say something.
        places: for each of them, which of the messages it is, from 0.
        wrong: what cannot be read.
        contents: by the name under which members pass it (`CONTENTS`), the first part that is no text: an error unless it is passed.
    """

    turns: list[Message] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    wrong: list[FieldError] = field(default_factory=list)
    contents: dict[str, FieldError] = field(default_factory=dict)


def read_turns(messages: Sequence[Any]) -> ReadMessages:
    """Returns the turns that say something, what is no text, and what is wrong with any of the messages."""
    read, (said, unread) = ReadMessages(), turns_of(messages)
    for one in unread:
        error = FieldError(f"messages[{one.message}]{f'.{one.field}' if one.field else ''}", one.what)
        if one.kind in CONTENTS:
            read.contents.setdefault(CONTENTS[one.kind], error)
        else:
            read.wrong.append(error)
    for turn in sorted([*said, *_shown(messages, said, unread)], key=lambda turn: turn.message) if read.contents else said:
        try:
            read.turns.append(Message(role=turn.role, content=sound_unicode(turn.text)))
            read.places.append(turn.message)
        except ValueError as error:
            read.wrong.append(FieldError(f"messages[{turn.message}].content", str(error)))
    if not read.wrong and not any(turn.role == "user" for turn in read.turns):
        told = f"hold no user's or tool's text in {counted(len(messages), 'turn')}; at least one is needed"
        read.wrong.append(FieldError("messages", told))
    return read


def last_turns(turns: list[Message], most_chars: int) -> list[Message]:
    """Returns the end of a conversation, as much of it as one native prompt holds with its roles: the scorer reads less than that."""
    if len(turns) <= MAX_MESSAGES and sum(len(turn.content) + len(turn.role) + BESIDE_ROLE for turn in turns) <= most_chars:
        return turns
    kept: list[Message] = []
    for turn in reversed(turns[-MAX_MESSAGES:]):
        room = most_chars - len(turn.role) - BESIDE_ROLE
        if kept and room < 1:
            break
        content = turn.content.rstrip()[-max(1, room) :] if room < len(turn.content) else turn.content
        most_chars = room - len(content)
        kept.append(turn if content is turn.content else turn.model_copy(update={"content": content}))
    return kept[::-1]


def _shown(messages: Sequence[Any], said: Sequence[ReadTurn], unread: Sequence[UnreadField]) -> list[ReadTurn]:
    """Returns a turn for each message that holds a picture or the like and says nothing: somebody shows something, which is its text."""
    spoken = {turn.message for turn in said}
    kinds = {one.message: one.kind for one in reversed(unread) if one.kind in CONTENTS and one.message not in spoken}
    words = {at: kind.removeprefix("input_").removesuffix("_url") for at, kind in kinds.items()}
    return [ReadTurn(ROLES[messages[at]["role"]], f"({word})", at) for at, word in words.items()]


def has_tool_turns(messages: Sequence[Any]) -> bool:
    """Returns whether tools were called in the conversation, or answered."""
    return any(map(_is_of_tools, messages))


def without_tool_turns(messages: Sequence[Any], read: ReadMessages) -> list[Any]:
    """Returns the messages as they came, but turns of tools as turns of text, for servers that know no tools; a result in parts stays."""
    texts = dict(zip(read.places, read.turns, strict=True))
    told = [
        texts.get(place) if _is_of_tools(one) and not isinstance(one.get("content"), list) else one for place, one in enumerate(messages)
    ]
    return [one.model_dump() if isinstance(one, Message) else one for one in told if one is not None]


def _is_of_tools(message: Any) -> bool:
    return isinstance(message, dict) and (message.get("role") == "tool" or bool(message.get("tool_calls")))
