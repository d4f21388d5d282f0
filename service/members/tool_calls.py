"""Calls of tools in an answer: parts of them as a server streams them, and the whole calls that they make.

    delta or message ── parts_of ──> parts as OpenAI streams them ── ToolCalls.add ──> parts with their places ── whole ──> tool_calls

Servers differ: some send a call in one part without its place, or its arguments as an object. A caller gets OpenAI's form from all of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import orjson

from attune.models.seam.turns import call_sentence
from attune.service.members.answer_text import sound_text

Part = dict[str, Any]
"""One part of a call: `index`, and what it adds: `id`, `type`, and under `function` or `custom` a name and a piece of its text."""

_TEXTS: Mapping[str, str] = {"function": "arguments", "custom": "input"}
"""Kinds of calls, and the field in which the text of each grows."""


def parts_of(message: Mapping[str, Any]) -> tuple[Part, ...]:
    """Returns the parts of calls that a delta or a message holds, in OpenAI's form; what is no call is left out.

    A place is there only where the server names one.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return ()
    return tuple(part for part in map(_part, calls) if part)


def _part(call: object) -> Part:
    if not isinstance(call, Mapping):
        return {}
    part: Part = {}
    index, name, kind = call.get("index"), call.get("id"), call.get("type")
    if isinstance(index, int) and not isinstance(index, bool):
        part["index"] = index
    if isinstance(name, str) and name:
        part["id"] = sound_text(name)
    if isinstance(kind, str) and kind in _TEXTS:
        part["type"] = kind
    for kind, text in _TEXTS.items():
        told = call.get(kind)
        if isinstance(told, Mapping):
            part[kind] = _told(told, text)
    return part


def _told(told: Mapping[str, Any], text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name, value = told.get("name"), told.get(text)
    if isinstance(name, str) and name:
        found["name"] = sound_text(name)
    if value is not None:
        found[text] = sound_text(value if isinstance(value, str) else orjson.dumps(value).decode())
    return found


class ToolCalls:
    """The calls of one answer, put together from their parts."""

    __slots__ = ("_calls", "_places")

    def __init__(self) -> None:
        self._calls: list[Part] = []
        self._places: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """Returns the parts with their places counted from 0, after adding them to the calls."""
        return tuple(self._added(part) for part in parts)

    def whole(self) -> list[Part]:
        """Returns the calls so far, as `tool_calls` of a message."""
        return [{name: dict(value) if isinstance(value, dict) else value for name, value in call.items()} for call in self._calls]

    def sentences(self) -> list[str]:
        """Returns the text that each call is in a conversation."""
        told = [(call[kind]["name"], call[kind][text]) for call in self._calls for kind, text in _TEXTS.items() if kind in call]
        return [call_sentence(*each) for each in told]

    def _added(self, part: Part) -> Part:
        place = self._place_of(part)
        if place == len(self._calls):
            kind = part.get("type") or ("custom" if "custom" in part else "function")
            part = {**part, "id": part.get("id") or f"call_{secrets.token_hex(12)}", "type": kind}
            self._calls.append({"id": part["id"], "type": kind, kind: {"name": "", _TEXTS[kind]: ""}})
        call = self._calls[place]
        for kind, text in _TEXTS.items():
            told = part.get(kind)
            if told and kind in call:
                call[kind]["name"] = call[kind]["name"] or told.get("name", "")
                call[kind][text] += told.get(text, "")
        return {"index": place, **{name: value for name, value in part.items() if name != "index"}}

    def _place_of(self, part: Part) -> int:
        """Returns where a part belongs: the place that it names, else that of its id, a new one for a new id, or the last."""
        if "index" in part:
            named = self._places.get(part["index"])
            # Some servers call every call the first one, and tell them apart by their ids alone.
            begins = "id" in part and any("name" in part.get(kind, {}) for kind in _TEXTS)
            if named is not None and not (begins and self._calls[named]["id"] != part["id"]):
                return named
            self._places[part["index"]] = len(self._calls)
            return len(self._calls)
        known = next((place for place, call in enumerate(self._calls) if call["id"] == part.get("id")), None)
        if known is not None:
            return known
        return len(self._calls) if "id" in part or not self._calls else len(self._calls) - 1
