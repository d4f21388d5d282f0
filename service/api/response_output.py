"""A response in the shapes of OpenAI's Responses API, whole or as events.

decision, pieces, end ──> output items: a message with the text, a call for each tool ──> one object, or its events in order
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from attune.service.api.generate import Events, Happened
from attune.service.http.problems import openai_object
from attune.service.http.streaming import failed_in_stream
from attune.service.ids import new_id
from attune.service.live.runtime import Call
from attune.service.members.tool_calls import Part
from attune.service.usecases.member_answers import Generated, GeneratedCandidate, Piece, Ping
from attune.service.usecases.member_choice import Decision

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_CALLS: Mapping[str, tuple[str, str]] = {"function": ("function_call", "arguments"), "custom": ("custom_tool_call", "input")}
_DELTAS = {"function_call": "response.function_call_arguments", "custom_tool_call": "response.custom_tool_call_input"}
_TEXT_FIELD = {"function_call": "arguments", "custom_tool_call": "input"}


@dataclass(slots=True)
class _Item:
    """An item of the output while it is written."""

    index: int
    content: dict[str, Any]
    pieces: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.content["id"])


class ResponseAnswer:
    """One response in OpenAI's shapes.

    Args:
        call: the request.
        decision: who answers.
        ignored: says which fields of the request these members did not use.
        echoed: what a response repeats of its request.
    """

    def __init__(self, call: Call, decision: Decision, ignored: Callable[[Collection[str]], list[str]], echoed: Mapping[str, Any]) -> None:
        self._call = call
        self._decision = decision
        self._ignored = ignored
        self._echoed = echoed
        self._suffix = decision.id or new_id()
        self._created = int(time.time())
        self._sent = 0
        self._items: list[_Item] = []
        self._calls: dict[int, _Item] = {}

    def whole(self, generated: Generated) -> dict[str, Any]:
        """Returns the whole response."""
        (candidate,) = generated.candidates
        incomplete = _INCOMPLETE.get(candidate.finish_reason)
        status = "incomplete" if incomplete else "completed"
        output = [self._message(candidate.text, status)] if candidate.text or not candidate.calls else []
        output += [self._call_item(place, call, status) for place, call in enumerate(candidate.calls)]
        return {
            **self._head(status, candidate.member),
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "output": output,
            "usage": _usage(candidate),
            "attune": self._told(generated, candidate),
        }

    async def events(self, first: Happened, events: Events) -> AsyncGenerator[bytes, None]:
        """Yields the response as OpenAI streams it, from `response.created` to `response.completed`, `.incomplete` or `.failed`."""
        event: Happened | None = first
        begun = False
        try:
            while event is not None:
                if isinstance(event, Ping):
                    yield b": ping\n\n"
                elif not begun:
                    begun = True
                    member = event.member if isinstance(event, Piece) else event.candidates[0].member
                    for kind in ("created", "in_progress"):
                        yield self._event(f"response.{kind}", response=self._head("in_progress", member))
                for said in self._of(event):
                    yield said
                event = await anext(events, None)
        except Exception as error:  # noqa: BLE001  the status is sent already: what went wrong is the last event
            told = openai_object(failed_in_stream(self._call, error), self._call.request_id)["error"]
            failed = {"error": {"code": told["code"], "message": told["message"]}}
            yield self._event("response.failed", response=self._head("failed", self._decision.record.routing.members[0]) | failed)

    def _of(self, event: Happened) -> Iterator[bytes]:
        match event:
            case Piece():
                if event.text:
                    yield from self._of_text(event.text)
                for part in event.calls:
                    yield from self._of_call(part)
            case Generated():
                whole = self.whole(event)
                for item in self._items:
                    yield from self._done(item, whole["status"])
                yield self._event(f"response.{whole['status']}", response=whole)

    def _of_text(self, text: str) -> Iterator[bytes]:
        item = next((item for item in self._items if item.content["type"] == "message"), None)
        if item is None:
            item = _Item(len(self._items), self._message(None, "in_progress"))
            self._items.append(item)
            yield self._event("response.output_item.added", output_index=item.index, item=item.content)
            yield self._of_item(item, "response.content_part.added", content_index=0, part=_part(""))
        item.pieces.append(text)
        yield self._of_item(item, "response.output_text.delta", content_index=0, delta=text, logprobs=[])

    def _of_call(self, part: Part) -> Iterator[bytes]:
        item = self._calls.get(part["index"])
        if item is None:
            item = _Item(len(self._items), self._call_item(part["index"], part, "in_progress"))
            item.content[_TEXT_FIELD[item.content["type"]]] = ""
            self._items.append(item)
            self._calls[part["index"]] = item
            yield self._event("response.output_item.added", output_index=item.index, item=item.content)
        for kind, (named, text) in _CALLS.items():
            if named == item.content["type"] and (delta := part.get(kind, {}).get(text)):
                item.pieces.append(delta)
                yield self._of_item(item, f"{_DELTAS[named]}.delta", delta=delta)

    def _done(self, item: _Item, status: str) -> Iterator[bytes]:
        text, kind = "".join(item.pieces), item.content["type"]
        if kind == "message":
            yield self._of_item(item, "response.output_text.done", content_index=0, text=text, logprobs=[])
            yield self._of_item(item, "response.content_part.done", content_index=0, part=_part(text))
            done = self._message(text, status)
        else:
            name = {"name": item.content["name"]} if kind == "function_call" else {}
            yield self._of_item(item, f"{_DELTAS[kind]}.done", **name, **{_TEXT_FIELD[kind]: text})
            done = {**item.content, _TEXT_FIELD[kind]: text, "status": status}
        yield self._event("response.output_item.done", output_index=item.index, item=done)

    def _of_item(self, item: _Item, kind: str, **told: object) -> bytes:
        return self._event(kind, item_id=item.id, output_index=item.index, **told)

    def _event(self, kind: str, **told: object) -> bytes:
        data = orjson.dumps({"type": kind, "sequence_number": self._sent, **told})
        self._sent += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    def _message(self, text: str | None, status: str) -> dict[str, Any]:
        content = [] if text is None else [_part(text)]
        return {"id": f"msg_{self._suffix}", "type": "message", "role": "assistant", "status": status, "content": content}

    def _call_item(self, place: int, call: Part, status: str) -> dict[str, Any]:
        kind = "custom" if "custom" in call else "function"
        named, text = _CALLS[kind]
        told = {"name": call.get(kind, {}).get("name", ""), text: call.get(kind, {}).get(text, "")}
        return {"id": f"fc_{self._suffix}_{place}", "type": named, "call_id": call["id"], **told, "status": status}

    def _head(self, status: str, member: str) -> dict[str, Any]:
        return {
            "id": f"resp_{self._suffix}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": member,
            "output": [],
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None,
            **self._echoed,
        }

    def _told(self, generated: Generated, candidate: GeneratedCandidate) -> dict[str, Any]:
        decision = generated.decision
        scores = {} if candidate.score is None else {"score": candidate.score, "std": candidate.std}
        return {
            "decision_id": decision.id,
            "candidate_id": candidate.id,
            "member": candidate.member,
            "bundle": decision.record.bundle,
            "personalization": decision.person.personalization,
            "comparisons": decision.person.comparisons,
            "ignored": self._ignored([candidate.member]),
            **scores,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(candidate: GeneratedCandidate) -> dict[str, Any]:
    read, written = (candidate.said.usage.get(f"{name}_tokens_details") or {} for name in ("prompt", "completion"))
    return {
        "input_tokens": candidate.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, **read},
        "output_tokens": candidate.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0, **written},
        "total_tokens": candidate.prompt_tokens + candidate.completion_tokens,
    }
