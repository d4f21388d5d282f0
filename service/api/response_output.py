"""A response in the shapes of OpenAI's Responses API, whole or as events.

decision, pieces, end ──> output items: what the model thought, a message with the text, a call for each tool ──> one object, or its
events in order
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from typing import Any

import orjson

from attune.service.api.generate import Events, Happened
from attune.service.api.response_input import clients_name
from attune.service.http.problems import openai_object
from attune.service.http.streaming import failed_in_stream
from attune.service.ids import new_id
from attune.service.live.runtime import Call
from attune.service.members.passing import add_thoughts, is_thought
from attune.service.members.tool_calls import OWN, TEXTS, Part
from attune.service.usecases.member_answers import Generated, GeneratedCandidate, Piece, Ping
from attune.service.usecases.member_choice import Decision

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_CALLS: Mapping[str, tuple[str, str, str]] = {
    "function": ("fc", "function_call", "arguments"),
    "custom": ("ctc", "custom_tool_call", "input"),
}
"""Kinds of calls of a chat: what ids of such an item begin with, its type, and the field in which its text stands."""

_DELTAS = {"function_call": "response.function_call_arguments", "custom_tool_call": "response.custom_tool_call_input"}
_TEXT_FIELD = {kind: text for _, kind, text in _CALLS.values()}
_PARTS: Mapping[str, tuple[str, str]] = {
    "output_text": ("text", "response.output_text"),
    "refusal": ("refusal", "response.refusal"),
    "reasoning_text": ("text", "response.reasoning_text"),
}
"""Kinds of parts of messages and thoughts: the field that holds the text, and what events of it begin with."""

_TEXTS_OF_THOUGHTS = frozenset({"reasoning_content", "reasoning", "thinking", "thought"})
"""What servers call the text of a thought; a message may have a signature of it beside that."""

_FAILED = {429: "rate_limit_exceeded"}
"""Codes of a failed response, by the status that the error would have had; OpenAI's clients know no others than theirs."""


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
        self._places: dict[str, int] = {}  # of items of a stream, by their ids
        self._parts: list[dict[str, Any]] = []  # of the message of a stream
        self._thoughts: dict[str, Any] = {}  # by the names that their server has for them
        self._thought_name = ""  # of the one whose text is shown
        self._calls: dict[int, dict[str, Any]] = {}  # items of calls of a stream as they began

    def whole(self, generated: Generated) -> dict[str, Any]:
        """Returns the whole response."""
        (candidate,) = generated.candidates
        incomplete = _INCOMPLETE.get(candidate.finish_reason)
        status = "incomplete" if incomplete else "completed"
        parts = self._parts or _parts_of(candidate.text, candidate.said.message.get("refusal", ""))
        if parts[0]["type"] == "output_text":
            parts[0]["annotations"] = _annotations(candidate)
        self._think({name: value for name, value in candidate.said.message.items() if is_thought(name)})
        output = [self._thought(status)] if self._thoughts else []
        output += [self._message(parts, status)] if candidate.text or not candidate.calls else []
        output += [self._call_item(place, call, status) for place, call in enumerate(candidate.calls)]
        output.sort(key=lambda item: self._places.get(item["id"], len(self._places)))
        return {
            **self._head(status, candidate.member),
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "output": output,
            "usage": _usage(candidate),
            **_served_as(candidate),
            "attune": self._told(generated, candidate),
        }

    async def events(self, first: Happened, events: Events) -> AsyncGenerator[bytes, None]:
        """Yields the response as OpenAI streams it, from `response.created` to `response.completed`, `.incomplete` or `.failed`."""
        event: Happened | None = first
        try:
            while event is not None:
                if isinstance(event, Ping):
                    yield b": ping\n\n"
                else:
                    for said in self._of(event):
                        yield said
                event = await anext(events, None)
        except Exception as error:  # noqa: BLE001  the status is sent already: what went wrong is the last event
            known, member = failed_in_stream(self._call, error), self._decision.record.routing.members[0]
            told = openai_object(known, self._call.request_id)["error"]
            code = _FAILED.get(known.status, "invalid_prompt" if known.status < 500 else "server_error")
            failed = {"error": {"code": code, "message": told["message"], "type": told["code"]}}
            for said in self._begun(member):
                yield said
            yield self._event("response.failed", response=self._head("failed", member) | failed)

    def _begun(self, member: str) -> Iterator[bytes]:
        """Yields what every stream begins with, once; it waits for the first piece, since another member may stand in."""
        if not self._sent:
            for kind in ("created", "in_progress"):
                yield self._event(f"response.{kind}", response=self._head("in_progress", member))

    def _of(self, event: Piece | Generated) -> Iterator[bytes]:
        match event:
            case Piece():
                yield from self._begun(event.member)
                if event.thoughts:
                    yield from self._of_thoughts(event.thoughts)
                if event.text:
                    yield from self._of_text(event.text, "refusal" if event.refuses else "output_text")
                for part in event.calls:
                    yield from self._of_call(part)
            case Generated():
                yield from self._begun(event.candidates[0].member)
                if not (event.candidates[0].text or self._calls):  # its limit ended it before any text
                    yield from self._of_text("", "output_text")
                whole = self.whole(event)
                for item in whole["output"]:
                    yield from self._done(item)
                yield self._event(f"response.{whole['status']}", response=whole)

    def _added(self, item: dict[str, Any]) -> Iterator[bytes]:
        self._places[item["id"]] = len(self._places)
        yield self._event("response.output_item.added", output_index=self._places[item["id"]], item=item)

    def _of_thoughts(self, thoughts: Mapping[str, Any]) -> Iterator[bytes]:
        shown = bool(self._thought_name)
        self._think(thoughts)
        item = self._thought("in_progress")
        if item["id"] not in self._places:
            yield from self._added({name: value for name, value in item.items() if name not in self._thoughts} | {"content": []})
        delta = thoughts.get(self._thought_name)
        if isinstance(delta, str):
            if not shown:
                yield self._of_item(item, "response.content_part.added", content_index=0, part=_part("reasoning_text", ""))
            yield self._of_item(item, "response.reasoning_text.delta", content_index=0, delta=delta)

    def _think(self, thoughts: Mapping[str, Any]) -> None:
        """Takes up pieces of thoughts; the first text among them is shown, and the others go with it."""
        add_thoughts(self._thoughts, thoughts)
        if not self._thought_name:
            texts = (name for name in thoughts if name in _TEXTS_OF_THOUGHTS and isinstance(self._thoughts[name], str))
            self._thought_name = next(texts, "")

    def _of_text(self, text: str, kind: str) -> Iterator[bytes]:
        item = self._message([], "in_progress")
        if item["id"] not in self._places:
            yield from self._added(item)
        if not self._parts or self._parts[-1]["type"] != kind:
            self._parts.append(_part(kind, ""))
            yield self._of_item(item, "response.content_part.added", content_index=len(self._parts) - 1, part=self._parts[-1])
        name, events = _PARTS[kind]
        self._parts[-1][name] += text
        if text:
            yield self._of_item(item, f"{events}.delta", content_index=len(self._parts) - 1, delta=text, **_beside(kind))

    def _of_call(self, part: Part) -> Iterator[bytes]:
        item = self._calls.get(part["index"])
        if item is None:  # the first part of a call has its id, kind and name
            item = self._calls[part["index"]] = self._call_item(part["index"], part, "in_progress")
            yield from self._added(item | {_TEXT_FIELD[item["type"]]: ""})
        for kind, text in TEXTS.items():
            if delta := part.get(kind, {}).get(text):
                yield self._of_item(item, f"{_DELTAS[item['type']]}.delta", delta=delta)

    def _done(self, item: dict[str, Any]) -> Iterator[bytes]:
        if item["id"] not in self._places:
            yield from self._added(item | {"status": "in_progress"})
        if "content" in item:
            for index, part in enumerate(item["content"]):
                name, events = _PARTS[part["type"]]
                for place, annotation in enumerate(part.get("annotations", ())):
                    told = {"content_index": index, "annotation_index": place, "annotation": annotation}
                    yield self._of_item(item, "response.output_text.annotation.added", **told)
                yield self._of_item(item, f"{events}.done", content_index=index, **{name: part[name]}, **_beside(part["type"]))
                yield self._of_item(item, "response.content_part.done", content_index=index, part=part)
        else:
            text = _TEXT_FIELD[item["type"]]
            named = {"name": item["name"]} if item["type"] == "function_call" else {}
            yield self._of_item(item, f"{_DELTAS[item['type']]}.done", **named, **{text: item[text]})
        yield self._event("response.output_item.done", output_index=self._places[item["id"]], item=item)

    def _of_item(self, item: Mapping[str, Any], kind: str, **told: object) -> bytes:
        return self._event(kind, item_id=item["id"], output_index=self._places[item["id"]], **told)

    def _event(self, kind: str, **told: object) -> bytes:
        data = orjson.dumps({"type": kind, "sequence_number": self._sent, **told})
        self._sent += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    def _message(self, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
        return {"id": f"msg_{self._suffix}", "type": "message", "role": "assistant", "status": status, "content": content}

    def _thought(self, status: str) -> dict[str, Any]:
        """Returns what the model thought, in OpenAI's form and beside it by its server's names, under which it goes back."""
        content = [_part("reasoning_text", self._thoughts[self._thought_name])] if self._thought_name else []
        return {
            **self._thoughts,
            "id": f"rs_{self._suffix}",
            "type": "reasoning",
            "summary": [],
            "content": content,
            "status": status,
        }

    def _call_item(self, place: int, call: Part, status: str) -> dict[str, Any]:
        prefix, kind, text = _CALLS[call["type"]]
        told = call[call["type"]]
        name = {"id": f"{prefix}_{self._suffix}_{place}", "type": kind, "call_id": call["id"], "name": told["name"]}
        said = {name: value for name, value in call.items() if name not in OWN}  # a signature, say, that its server wants back
        return {**said, **name, text: told.get(text, ""), "status": status}

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
            "ignored": [clients_name(name) for name in self._ignored([candidate.member])],
            **scores,
        }


def _part(kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, _PARTS[kind][0]: text} | ({"annotations": [], "logprobs": []} if kind == "output_text" else {})


def _beside(kind: str) -> dict[str, Any]:
    """Returns what events of the text of a part hold beside it."""
    return {"logprobs": []} if kind == "output_text" else {}


def _parts_of(text: str, refusal: str) -> list[dict[str, Any]]:
    """Returns the parts of a whole message; what its server said in place of an answer is the end of its text."""
    said = "" if refusal.startswith(text) else text.removesuffix(refusal)  # the first where it was cut
    refused = [_part("refusal", text[len(said) :])] if len(said) < len(text) else []
    return [_part("output_text", said), *refused] if said or not refused else refused


def _annotations(candidate: GeneratedCandidate) -> list[dict[str, Any]]:
    """Returns what a server cites that looks things up: a chat has each citation in an object of its own."""
    found = candidate.said.message.get("annotations")
    cited = [one.get("url_citation") for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
    kinds = {"start_index": int, "end_index": int, "url": str, "title": str}
    return [
        {"type": "url_citation", **{name: one[name] for name in kinds}}
        for one in cited
        if isinstance(one, Mapping) and all(isinstance(one.get(name), kind) for name, kind in kinds.items())
    ]


def _served_as(candidate: GeneratedCandidate) -> dict[str, str]:
    tier = candidate.said.answer.get("service_tier")
    return {"service_tier": tier} if isinstance(tier, str) else {}


def _usage(candidate: GeneratedCandidate) -> dict[str, Any]:
    def details(name: str, **least: int) -> dict[str, Any]:
        said = candidate.said.usage.get(name)
        return least | ({key: value for key, value in said.items() if value is not None} if isinstance(said, Mapping) else {})

    return {
        "input_tokens": candidate.prompt_tokens,
        "input_tokens_details": details("prompt_tokens_details", cached_tokens=0, cache_write_tokens=0),
        "output_tokens": candidate.completion_tokens,
        "output_tokens_details": details("completion_tokens_details", reasoning_tokens=0),
        "total_tokens": candidate.prompt_tokens + candidate.completion_tokens,
    }
