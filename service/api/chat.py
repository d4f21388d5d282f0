"""`POST /v1/chat/completions` and `GET /v1/models`, as OpenAI's clients speak them.

`model: "auto"` routes by `user`, a member's name pins it. Without a `user` the prior decides and nothing is kept, so such an answer has
no candidate id. Text only: a content part of another kind is refused by name; unknown fields are ignored, as these clients expect. The
request becomes a native one, so that every limit and check holds on both.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from attune.service.api.answers import json_response
from attune.service.api.generate import Events, GenerateRequest, begin
from attune.service.api.prompted import MAX_MESSAGES, Message, Text, User, Written
from attune.service.http.problems import openai_object
from attune.service.http.streaming import EventStream, failed_in_stream
from attune.service.ids import new_id
from attune.service.live.runtime import Call
from attune.service.usecases.generating import Generated, Piece, Ping, finished
from attune.service.usecases.routing import Decision

router = APIRouter(prefix="/v1", tags=["compatible"])
OWNER = "attune"
AUTO = "auto"
DEFAULT_MAX_TOKENS = 128


class OpenRequest(BaseModel):
    """Base of compatible requests: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)


class TextPart(OpenRequest):
    """One part of a message's content."""

    type: Literal["text"]
    text: Text


class ChatMessage(OpenRequest):
    """One turn; `developer` is OpenAI's newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Written | Annotated[list[TextPart], Field(min_length=1)]

    def as_native(self) -> Message:
        """Returns the turn with its parts joined."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=content)


class StreamOptions(OpenRequest):
    """Options of a stream."""

    include_usage: bool = False


class ChatRequest(OpenRequest):
    """Body of `POST /v1/chat/completions`."""

    model: Annotated[Text, Field(max_length=256)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    user: User | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None

    def as_native(self) -> GenerateRequest:
        """Returns the same request in native form; errors name fields as they are called there.

        Raises:
            ValidationError: a field is out of the native limits.
        """
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerateRequest(
            user=self.user or "-",
            messages=[message.as_native() for message in self.messages],
            candidates=self.n or 1,
            member=None if self.model == AUTO else self.model,
            max_tokens=self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=stops,
            seed=None if self.seed is None else self.seed % 2**53,  # theirs may be negative and has 64 bits
        )


@router.get("/models", summary="`auto` and the members, as OpenAI lists models")
async def list_models(request: Request) -> Response:
    """`auto` and every member."""
    call: Call = request.state.call
    names = (AUTO, *call.serving.bundle.portfolio.names)
    return json_response({"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": OWNER} for name in names]})


@router.post("/chat/completions", summary="Chat completions, routed for `user`")
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """OpenAI chat completions; each choice carries a `candidate_id` for `/feedback`."""
    call: Call = request.state.call
    decision, events = await begin(call, body.as_native(), body.user)
    chat = _Chat(call, body, decision, f"chatcmpl-{decision.id or new_id()}", int(time.time()))
    if not body.stream:
        return json_response(chat.completion(await finished(events)))
    call.headers["x-attune-member"] = decision.record.routing.members[0]
    return EventStream(chat.chunks(events))


class _Chat:
    """One chat completion in OpenAI's shapes."""

    def __init__(self, call: Call, body: ChatRequest, decision: Decision, completion_id: str, created: int) -> None:
        self._call = call
        self._body = body
        self._decision = decision
        self._id = completion_id
        self._created = created

    def completion(self, generated: Generated) -> dict[str, Any]:
        """Returns the whole completion; each choice carries its candidate id and member."""
        choices = [
            {
                "index": candidate.index,
                "message": {"role": "assistant", "content": candidate.text, "refusal": None},
                "logprobs": None,
                "finish_reason": candidate.finish_reason,
                "candidate_id": candidate.id,
                "member": candidate.member,
            }
            for candidate in generated.candidates
        ]
        return {**self._head("chat.completion", generated.candidates[0].member), "choices": choices, "usage": _usage(generated)}

    async def chunks(self, events: Events) -> AsyncGenerator[bytes, None]:
        """Yields the completion as OpenAI streams it: roles, pieces, ends, usage if it was asked for, `[DONE]`."""
        for index, member in enumerate(self._decision.record.routing.members):
            yield self._chunk(index, {"role": "assistant", "content": ""}, member)
        try:
            async with aclosing(events):
                async for event in events:
                    match event:
                        case Piece():
                            yield self._chunk(event.index, {"content": event.text}, event.member)
                        case Ping():
                            yield b": ping\n\n"
                        case Generated():
                            for end in self._ends(event):
                                yield end
            yield b"data: [DONE]\n\n"
        except Exception as error:  # noqa: BLE001  the status is sent already: what went wrong is the last event
            yield _data(openai_object(failed_in_stream(self._call, error), self._call.request_id))

    def _ends(self, generated: Generated) -> list[bytes]:
        ends = [
            self._chunk(candidate.index, {}, candidate.member, finish_reason=candidate.finish_reason, candidate_id=candidate.id)
            for candidate in generated.candidates
        ]
        if self._body.stream_options and self._body.stream_options.include_usage:
            ends.append(
                _data({**self._head("chat.completion.chunk", generated.candidates[0].member), "choices": [], "usage": _usage(generated)})
            )
        return ends

    def _chunk(self, index: int, delta: dict[str, Any], member: str, finish_reason: str | None = None, **extra: object) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "member": member, **extra}
        return _data({**self._head("chat.completion.chunk", member), "choices": [choice]})

    def _head(self, kind: str, member: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": member,
            "system_fingerprint": self._decision.record.bundle,
        }


def _usage(generated: Generated) -> dict[str, int]:
    # One prompt, however many answers: OpenAI counts it once.
    prompt = max(candidate.prompt_tokens for candidate in generated.candidates)
    completion = sum(candidate.completion_tokens for candidate in generated.candidates)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _data(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
