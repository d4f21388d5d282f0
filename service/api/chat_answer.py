"""A chat completion in OpenAI's shapes, whole or in chunks.

decision, pieces, end ──> choices with text, calls of tools, `candidate_id` and member ──> one JSON object, or server-sent events
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from typing import Any

import orjson

from attune.service.api.generate import Events, Happened
from attune.service.http.problems import openai_object
from attune.service.http.streaming import failed_in_stream
from attune.service.ids import candidate_id, new_id
from attune.service.live.runtime import Call
from attune.service.members.member import NOTHING_SAID
from attune.service.usecases.member_answers import Generated, GeneratedCandidate, Piece, Ping
from attune.service.usecases.member_choice import Decision


class ChatAnswer:
    """One chat completion in OpenAI's shapes.

    Args:
        call: the request.
        decision: who answers.
        ignored: says which fields of the request these members did not use.
        include_usage: whether a stream ends with the tokens of the whole completion.
    """

    def __init__(
        self, call: Call, decision: Decision, ignored: Callable[[Collection[str]], list[str]], *, include_usage: bool = False
    ) -> None:
        self._call = call
        self._decision = decision
        self._ignored = ignored
        self._include_usage = include_usage
        self._id = f"chatcmpl-{decision.id or new_id()}"
        self._created = int(time.time())
        self._says: dict[str, str] = {}  # what the server of a single choice says in every chunk

    def completion(self, generated: Generated) -> dict[str, Any]:
        """Returns the whole completion; each choice carries its candidate id and member."""
        choices = [
            {
                **candidate.said.choice,
                "index": candidate.index,
                "message": _message(candidate),
                "logprobs": None,
                "finish_reason": candidate.finish_reason,
                "candidate_id": candidate.id,
                "member": candidate.member,
                **_scores(candidate),
            }
            for candidate in generated.candidates
        ]
        said = _said_of_all(generated)
        self._begin(said)
        return {
            **said,
            **self._head("chat.completion", generated.candidates[0].member),
            "choices": choices,
            "usage": _usage(generated),
            "attune": self._told(generated),
        }

    async def chunks(self, first: Happened, events: Events) -> AsyncGenerator[bytes, None]:
        """Yields the completion as OpenAI streams it: roles, pieces, ends, usage if it was asked for, `[DONE]`.

        A choice's role waits for its first piece, because clients keep the names of the first chunk, and another member may stand in.
        """
        told: set[int] = set()
        event: Happened | None = first
        try:
            while event is not None:
                match event:
                    case Piece():
                        for chunk in self._of_piece(event, begins=event.index not in told):
                            yield chunk
                        told.add(event.index)
                    case Ping():
                        yield b": ping\n\n"
                    case Generated():
                        for end in self._ends(event, told):
                            yield end
                event = await anext(events, None)
            yield b"data: [DONE]\n\n"
        except Exception as error:  # noqa: BLE001  the status is sent already: what went wrong is the last event
            yield _data(openai_object(failed_in_stream(self._call, error), self._call.request_id))

    def _of_piece(self, piece: Piece, *, begins: bool) -> Iterator[bytes]:
        if piece.said and self._is_single:
            self._begin(piece.said)
        if begins:
            yield self._beginning(piece.index, piece.member, "" if piece.text or not piece.calls else None)
        if piece.thoughts:
            yield self._chunk(piece.index, piece.thoughts, piece.member)
        if piece.text:
            yield self._chunk(piece.index, {"content": piece.text}, piece.member)
        if piece.calls:
            yield self._chunk(piece.index, {"tool_calls": piece.calls}, piece.member)

    def _beginning(self, index: int, member: str, content: str | None) -> bytes:
        return self._chunk(index, {"role": "assistant", "content": content}, member, more=self._named(index))

    def _named(self, index: int) -> dict[str, str]:
        """Returns a choice's candidate id as its first chunk tells it: of later ones clients' helpers keep what they know alone."""
        decision = self._decision
        return {"candidate_id": candidate_id(decision.id, index)} if decision.id and decision.written else {}

    def _begin(self, said: Mapping[str, Any]) -> None:
        self._says = {name: said[name] for name in ("service_tier", "system_fingerprint") if isinstance(said.get(name), str)}

    @property
    def _is_single(self) -> bool:
        return len(self._decision.record.routing.members) == 1

    def _ends(self, generated: Generated, told: Collection[int]) -> list[bytes]:
        last = generated.candidates[-1]
        ends = [self._beginning(one.index, one.member, "") for one in generated.candidates if one.index not in told]  # without text
        ends += [
            self._chunk(
                candidate.index,
                candidate.said.message,
                candidate.member,
                candidate.finish_reason,
                {**candidate.said.choice, "candidate_id": candidate.id, **_scores(candidate)},
                {**_said_of_all(generated), "attune": self._told(generated)} if candidate is last else {},
            )
            for candidate in generated.candidates
        ]
        if self._include_usage:
            ends.append(
                _data({**self._head("chat.completion.chunk", generated.candidates[0].member), "choices": [], "usage": _usage(generated)})
            )
        return ends

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        member: str,
        finish_reason: str | None = None,
        more: Mapping[str, Any] = NOTHING_SAID.choice,
        whole: Mapping[str, Any] = NOTHING_SAID.answer,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "member": member, **more}
        return _data({**whole, **self._head("chat.completion.chunk", member), "choices": [choice]})

    def _told(self, generated: Generated) -> dict[str, Any]:
        """Returns what a client that knows Attune may want: whether the answer was personal, and what was offered and not used."""
        decision = generated.decision
        return {
            "decision_id": decision.id,
            "bundle": decision.record.bundle,
            "personalization": decision.person.personalization,
            "comparisons": decision.person.comparisons,
            "ignored": self._ignored([candidate.member for candidate in generated.candidates]),
        }

    def _head(self, kind: str, member: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": member,
            "system_fingerprint": self._decision.record.bundle,
            **self._says,
        }


def _message(candidate: GeneratedCandidate) -> dict[str, Any]:
    content = candidate.text or None if candidate.calls else candidate.text
    message = {"refusal": None, **candidate.said.message, "role": "assistant", "content": content}
    return {**message, "tool_calls": candidate.calls} if candidate.calls else message


def _scores(candidate: GeneratedCandidate) -> dict[str, object]:
    if candidate.score is None:
        return {}
    return {"score": candidate.score, "std": candidate.std, "rank": candidate.rank}


def _said_of_all(generated: Generated) -> Mapping[str, Any]:
    """Returns what the server of a single choice says of the whole answer; of several, none speaks for the others."""
    return generated.candidates[0].said.answer if len(generated.candidates) == 1 else NOTHING_SAID.answer


def _usage(generated: Generated) -> dict[str, Any]:
    # One prompt, however many answers: OpenAI counts it once.
    prompt = max(candidate.prompt_tokens for candidate in generated.candidates)
    completion = sum(candidate.completion_tokens for candidate in generated.candidates)
    details = generated.candidates[0].said.usage if len(generated.candidates) == 1 else NOTHING_SAID.usage
    return {**details, "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _data(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
