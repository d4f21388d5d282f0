"""The messages of a chat completion, as OpenAI's clients and agents send them, read into turns of text.

messages ─> `models.seam.turns` ─> messages of a native request, or every field that is wrong by the client's own name
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attune.models.seam.counts import counted
from attune.models.seam.turns import turns_of
from attune.service.api.prompted import Message, sound_unicode
from attune.service.errors import FieldError


def read_turns(messages: Sequence[Any]) -> tuple[list[Message], list[FieldError]]:
    """Returns the turns that say something, and what is wrong with any of the messages."""
    said, unread = turns_of(messages)
    wrong = [FieldError(f"messages[{one.message}]{f'.{one.field}' if one.field else ''}", one.what) for one in unread]
    turns: list[Message] = []
    for turn in said:
        try:
            turns.append(Message(role=turn.role, content=sound_unicode(turn.text)))
        except ValueError as error:
            wrong.append(FieldError(f"messages[{turn.message}].content", str(error)))
    if not wrong and not any(turn.role == "user" for turn in turns):
        wrong.append(FieldError("messages", f"hold no user's or tool's text in {counted(len(messages), 'turn')}; at least one is needed"))
    return turns, wrong
