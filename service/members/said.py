"""What a server says beside the text of its answer and what is understood of it: gathered as it comes, passed on as it was said.

    chunk ── add ──> fields by their place ── begun, said ──> for clients who speak the server's own API

Passed on is what cannot be mistaken: a field that comes twice and differs is left out, and so are calls of tools, and thoughts unless the
member passes `reasoning`, which a reader of pieces is told as they come. Nothing of it is kept, scored or learned from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from attune.service.members.answer_text import SoundText, sound_text
from attune.service.members.member import Said
from attune.service.members.passing import THOUGHT, is_thought, thought_in

Fields = Mapping[str, Any]
MAX_BYTES = 16_384
"""Of one field as JSON; longer ones are numbers for every token, pictures and the like."""

MAX_THOUGHT_BYTES = 4 << 20
"""Of a field that holds thoughts: as much as a whole answer may have."""

LEAST_SECRET_CHARS = 8
"""The roster's headers are taken for secrets, and some of them hold no more than a `1`."""

_OWN = frozenset({"id", "object", "created", "model", "choices", "usage", "attune"})
_ERRORS = frozenset(
    {"error", "errors", "error_code", "error_msg", "error_message", "code", "message", "detail", "status", "success", "type", "base_resp"}
)
_OF_ANSWER = _OWN | _ERRORS | {"obfuscation"}  # the last is noise, by which OpenAI hides how long a piece is
_OF_CHOICE = frozenset({"index", "delta", "message", "text", "finish_reason", "logprobs", "usage", "error"}) | {
    *("candidate_id", "member", "score", "std", "rank")
}
_OF_MESSAGE = frozenset({"role", "content", "refusal", "tool_calls", "function_call", "audio"})
_OF_USAGE = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_DIFFERS = object()


class Saying:
    """Gathers what is said beside the text of one answer.

    Args:
        secrets: a field that holds one of them is left out.
        thoughts: whether fields of a message that hold thoughts are passed on: a text comes in pieces, and is joined.
        aloud: whether texts and lists of thoughts are taken as they come (`new_thoughts`); `said` then has what is left of them.
        in_parts: whether thoughts are parts of the content, and told as if they had a field.
    """

    __slots__ = ("_aloud", "_answer", "_choice", "_halves", "_in_parts", "_message", "_refusal", "_secrets", "_thoughts", "_usage")

    def __init__(self, secrets: Sequence[str] = (), *, thoughts: bool = False, aloud: bool = False, in_parts: bool = False) -> None:
        self._in_parts = in_parts
        self._thoughts: dict[str, Any] | None = {} if thoughts else None
        self._aloud: dict[str, Any] | None = {} if thoughts and aloud else None
        self._halves: dict[str, SoundText] = {}
        self._secrets = [spelt for secret in secrets if len(secret) >= LEAST_SECRET_CHARS for spelt in (secret, quote(secret, safe=""))]
        self._answer: dict[str, Any] = {}
        self._choice: dict[str, Any] = {}
        self._message: dict[str, Any] = {}
        self._usage: Fields = {}
        self._refusal = ""

    def add(self, answer: Fields, choice: Fields, message: Fields, usage: Fields) -> None:
        """Takes up what one chunk says, or a whole answer; counts are said again from chunk to chunk, and the last ones hold."""
        if not answer.keys() <= _OF_ANSWER:
            _gather(self._answer, answer, _OF_ANSWER)
        if not choice.keys() <= _OF_CHOICE:
            _gather(self._choice, choice, _OF_CHOICE)
        if not message.keys() <= _OF_MESSAGE:
            _gather(self._message, message, _OF_MESSAGE, joins=True)
            if self._thoughts is not None:
                self._add_thoughts(self._thoughts, message)
        if self._in_parts:
            self.add_thought(thought_in(message.get("content")))
        if isinstance(refusal := message.get("refusal"), str):
            self._refusal += refusal
        self._usage = usage or self._usage

    def add_thought(self, text: str) -> None:
        """Takes up a thought that stood in the text."""
        if self._thoughts is not None:
            self._add_thoughts(self._thoughts, {THOUGHT: text})

    @property
    def refuses(self) -> bool:
        """Whether the server has said something in place of an answer."""
        return bool(self._refusal)

    def passes_on(self, place: str) -> bool:
        """Returns whether something of a message that is no text is passed on, if it can be; it is named as in `Chunk.unsupported`."""
        _, dot, name = place.partition(".")
        return bool(dot) and name.partition(" ")[0] not in _OF_MESSAGE and (self._thoughts is not None or not is_thought(name))

    def begun(self) -> Fields:
        """Returns what the server has said of the whole answer until now."""
        return self._sound(self._answer)

    def new_thoughts(self) -> Fields | None:
        """Returns pieces of thoughts that came since it was asked last, None for none."""
        if not self._aloud:
            return None
        told = self._sound(self._aloud, MAX_THOUGHT_BYTES)
        self._aloud.clear()
        return told or None

    def said(self) -> Said:
        """Returns all that it has said, but for what was told before."""
        for name, half in self._halves.items():
            if self._thoughts is not None and (rest := half.close()):
                _join_thought(self._thoughts if self._aloud is None else self._aloud, name, rest)
        usage = {name: value for name, value in self._usage.items() if name not in _OF_USAGE and value is not None}
        message = self._sound(self._message) | self._sound(self._thoughts or {}, MAX_THOUGHT_BYTES)
        if self._refusal:
            message["refusal"] = sound_text(self._refusal)
        return Said(self.begun(), self._sound(self._choice), message, self._sound(usage))

    def _add_thoughts(self, whole: dict[str, Any], message: Fields) -> None:
        """Takes up what a message says of thoughts; a text may be cut anywhere, in the middle of a character too."""
        for name, value in message.items():
            if value and is_thought(name):
                said = self._halves.setdefault(name, SoundText()).push(value) if isinstance(value, str) else value
                pieces = whole if self._aloud is None or not isinstance(said, str | list) else self._aloud
                if said:
                    _join_thought(pieces, name, said)

    def _sound(self, fields: Fields, most_bytes: int = MAX_BYTES) -> dict[str, Any]:
        """Returns the fields that can be written as JSON, are not too long and hold no secret."""
        return {name: value for name, value in fields.items() if value is not _DIFFERS and self.is_sound({name: value}, most_bytes)}

    def is_sound(self, field: Fields, most_bytes: int = MAX_BYTES) -> bool:
        """Returns whether a field can be written as JSON, is not too long and holds no secret."""
        try:
            written = orjson.dumps(field)
        except TypeError:  # half of a surrogate pair, a number that is too large, levels without end
            return False
        text = written.decode()
        return len(written) <= most_bytes and "\\u0000" not in text and not any(secret in text for secret in self._secrets)


def _join_thought(into: dict[str, Any], name: str, said: Any) -> None:
    """Takes up what is said of a field of thoughts: texts and lists come in pieces, and half of anything else is worse than nothing."""
    before: Any = into.get(name, said)
    if name in into and any(isinstance(before, kind) and isinstance(said, kind) for kind in (str, list)):
        # One that is too long is left out, so its pieces are not joined any more: each would copy all of it.
        into[name] = before + said if len(before) <= MAX_THOUGHT_BYTES else _DIFFERS
    else:
        into[name] = said if before == said else _DIFFERS


def _gather(into: dict[str, Any], said: Fields, known: frozenset[str], *, joins: bool = False) -> None:
    for name, value in said.items():
        if name in known or value is None or value in ("", [], {}) or is_thought(name):
            continue
        before = into.get(name, value)
        if joins and isinstance(before, list) and isinstance(value, list) and name in into:
            into[name] = before + value
        else:
            into[name] = value if before == value else _DIFFERS
