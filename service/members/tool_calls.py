"""Calls of tools in an answer: parts of them as a server streams them, and the whole calls that they make.

    delta or message ── parts_of ──> parts as they came ── ToolCalls.add ──> parts as OpenAI streams them ── whole ──> tool_calls

Servers differ: some send a call in one part without its place, say its name with each part, or send its arguments as an object. A caller
gets OpenAI's form from all of them: the first part of a call has its id, kind and name, and every further one a piece of its text alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from attune.models.seam.turns import call_sentence
from attune.service.members.answer_text import sound_text

Part = dict[str, Any]
"""One part of a call: `index`, and what it adds: `id`, `type`, under `function` or `custom` a name and a piece of its text, and whatever
else its server says of it, such as a signature that it wants back."""

TEXTS: Mapping[str, str] = {"function": "arguments", "custom": "input"}
"""Kinds of calls, and the field in which the text of each grows."""

OWN = frozenset({"index", "id", "type", *TEXTS})
"""Fields of a part that are read; every other one is its server's."""


def parts_of(message: Mapping[str, Any]) -> tuple[Part, ...]:
    """Returns the parts of calls that a delta or a message holds; what is no call is left out.

    A place is there only where the server names one.

    Raises:
        TypeError: arguments that came as an object cannot be written as JSON.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return ()
    return tuple(part for part in map(_part, calls) if not part.keys() <= {"index", "type"})


def _part(call: object) -> Part:
    if not isinstance(call, Mapping):
        return {}
    part: Part = {name: value for name, value in call.items() if name not in OWN and value not in (None, "", [], {})}
    index, name, kind = call.get("index"), call.get("id"), call.get("type")
    if isinstance(index, int) and not isinstance(index, bool):
        part["index"] = index
    if isinstance(name, str) and name:
        part["id"] = sound_text(name)
    if isinstance(kind, str) and kind in TEXTS:
        part["type"] = kind
    for kind, text in TEXTS.items():
        told = call.get(kind)
        if isinstance(told, Mapping) and (found := _told(told, text)):
            part[kind] = found
    return part


def _told(told: Mapping[str, Any], text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name, value = told.get("name"), told.get(text)
    if isinstance(name, str) and name:
        found["name"] = sound_text(name)
    if value is not None:
        found[text] = sound_text(value if isinstance(value, str) else orjson.dumps(value).decode())
    return found


def joined(parts: Iterable[Part], is_sound: Callable[[Mapping[str, Any]], bool]) -> tuple[Part, ...]:
    """Returns parts as they may stand in one chunk: one of each call, as OpenAI has it.

    Args:
        parts: as `ToolCalls.add` returns them.
        is_sound: whether a field that is the server's own may be sent.
    """
    each: dict[int, Part] = {}
    for part in parts:
        sent = {name: value for name, value in part.items() if name in OWN or is_sound({name: value})}
        before = each.get(part["index"], {})
        for kind, text in TEXTS.items():
            if kind in before and kind in sent:
                sent[kind] = {**before[kind], text: before[kind].get(text, "") + sent[kind][text]}
        each[part["index"]] = before | sent
    return tuple(each.values())


@dataclass(slots=True, eq=False)
class _Call:
    """One call while it is put together.

    Attributes:
        kind: `function` or `custom`.
        id: its server's; empty where it has none.
        said: what else its server says of it.
        shown: the id that its caller sees, of which there is no second.
        place: among the calls that have a name; None until it has.
    """

    kind: str
    id: str = ""
    name: str = ""
    text: str = ""
    said: Part = field(default_factory=dict)
    shown: str = ""
    place: int | None = None

    def body(self) -> Part:
        return {"id": self.shown, "type": self.kind, self.kind: {"name": self.name, TEXTS[self.kind]: self.text}, **self.said}


class ToolCalls:
    """The calls of one answer, put together from their parts.

    Attributes:
        chars: of their names and texts.
    """

    __slots__ = ("_calls", "_named", "_places", "chars")

    def __init__(self) -> None:
        self.chars = 0
        self._calls: list[_Call] = []
        self._named: list[_Call] = []
        self._places: dict[int, _Call] = {}  # by the place that the server names, the call that began there last

    def __bool__(self) -> bool:
        return bool(self._named)

    def add(self, parts: Iterable[Part], *, apart: bool = False) -> tuple[Part, ...]:
        """Returns the parts in OpenAI's form, with their places counted from 0, after adding them to the calls.

        Args:
            parts: those of one delta, or the calls of one message.
            apart: whether each is a call of its own, as in a message.
        """
        begun: list[_Call] = []  # by this delta, in which no call begins twice
        added = [self._added(part, begun, apart=apart) for part in parts]
        return tuple(part for part in added if part)

    def whole(self) -> list[Part]:
        """Returns the calls so far, as `tool_calls` of a message."""
        return [call.body() for call in self._named]

    def sentences(self) -> list[str]:
        """Returns the text that each call is in a conversation."""
        return [call_sentence(call.name, call.text) for call in self._named]

    @property
    def in_the_middle(self) -> bool:
        """Whether the text of the last call ends before it is whole, as far as that can be told."""
        return bool(self._calls) and self._calls[-1].kind == "function" and not _is_json(self._calls[-1].text)

    def _added(self, part: Part, begun: list[_Call], *, apart: bool) -> Part:
        kind = next((kind for kind in TEXTS if kind in part), part.get("type", "function"))
        told = part.get(kind, {})
        name, text = told.get("name", ""), told.get(TEXTS[kind], "")
        call = None if apart else self._known(part, name, text, begun)
        if call is None:
            call = _Call(kind)
            self._calls.append(call)
            if "index" in part:
                self._places[part["index"]] = call
        if name:
            begun.append(call)
            if call.name and text == call.text and _is_json(text):
                text = ""  # said once more at the end, after it came in pieces
        said = {other: value for other, value in part.items() if other not in OWN}
        call.id, call.name, call.text = call.id or part.get("id", ""), call.name or name, call.text + text
        call.said |= said
        self.chars += len(name) + len(text)
        if call.place is None:
            call.kind = kind
            return self._first(call) if call.name else {}
        grown = {call.kind: {TEXTS[call.kind]: text}, **said} if text else said
        return {"index": call.place, **grown} if grown else {}

    def _first(self, call: _Call) -> Part:
        taken = {other.shown for other in self._named}
        call.place, call.shown = len(self._named), call.id if call.id and call.id not in taken else f"call_{secrets.token_hex(12)}"
        self._named.append(call)
        return {"index": call.place, **call.body()}

    def _known(self, part: Part, name: str, text: str, begun: list[_Call]) -> _Call | None:
        """Returns the call that a part goes on with: that of its place, else of its id, else the last; None where it begins one."""
        last = self._calls[-1] if self._calls else None
        if "index" in part:
            call = self._places.get(part["index"])
            if call is None and not name and "id" not in part and last not in self._places.values():
                call = last  # which began without a place
        elif "id" in part:
            call = next((one for one in reversed(self._calls) if one.id == part["id"]), last if text and not name else None)
        else:
            call = last
        if call is None or not name or not call.name:
            return call
        # Some servers say the name with every part; others call every call the first one, or send neither places nor ids.
        is_whole = _is_json(call.text) or (call in begun and not call.text and not text)
        if "id" in part:
            return None if part["id"] != call.id or (call in begun and is_whole) else call
        return None if name != call.name or is_whole else call


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
