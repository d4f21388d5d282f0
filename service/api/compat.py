"""Routes that other clients speak already: OpenAI's chat completions and models, and rerank as Cohere, Jina and vLLM have it.

`model: "auto"` routes by `user`, a member's name pins it. Without a `user` the prior decides and nothing is kept, so such an answer has
no candidate id. Unknown fields are ignored here, as these clients expect.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.models.seam.hedge import sigmoid
from attune.service.api.answers import GenerateAnswer, json_response
from attune.service.api.checks import check_generate
from attune.service.api.generate import asked
from attune.service.api.openai_wire import AUTO, ChatRequest, RerankRequest
from attune.service.api.score import score_texts
from attune.service.api.wire import ScoreRequest
from attune.service.errors import UnknownMember
from attune.service.http.problems import openai_object, printable
from attune.service.http.streaming import EventStream, failed_in_stream
from attune.service.ids import new_id
from attune.service.live.runtime import Call
from attune.service.usecases.deciding import Decision, decide
from attune.service.usecases.generating import Piece, Ping, answer_of, generate

router = APIRouter(prefix="/v1", tags=["compatible"])
OWNER = "attune"


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
    bundle = call.serving.bundle
    native = body.as_native()
    check_generate(native, call.runtime.limits, bundle.families, bundle.portfolio.names)
    decision = await decide(call, native, body.user)
    events = generate(call, decision, asked(native))
    chat = _Chat(call, body, decision, f"chatcmpl-{decision.id or new_id()}", int(time.time()))
    if not body.stream:
        return json_response(chat.completion(await answer_of(events)))
    call.headers["x-attune-member"] = decision.record.routing.members[0]
    return EventStream(chat.chunks(events))


@router.post("/rerank", summary="Rerank documents for `user`")
async def rerank(body: RerankRequest, request: Request) -> Response:
    """Documents by relevance to this user."""
    call: Call = request.state.call
    families = call.serving.bundle.families
    family = None if body.model in {None, AUTO} else body.model
    if family is not None and family not in families:
        raise UnknownMember(f"model {printable(family)!r} is none of {AUTO}, {', '.join(families.names)}")
    texts = body.texts
    native = ScoreRequest(user=body.user or "-", prompt=body.query, responses=texts, family=family)
    answer = await score_texts(call, native, body.user)
    # Rewards have no bounds and these clients expect a relevance within 0..1; the order is that of the scores.
    relevance = sigmoid(np.array([score.score for score in answer.scores]))
    ranked = sorted(answer.scores, key=lambda score: score.rank)[: body.top_n or len(texts)]
    results = [
        {
            "index": score.index,
            "relevance_score": float(relevance[score.index]),
            **({"document": {"text": texts[score.index]}} if body.return_documents else {}),
        }
        for score in ranked
    ]
    usage = {"total_tokens": answer.usage.tokens, "prompt_tokens": answer.usage.tokens}
    return json_response({"id": f"rerank-{answer.id}", "model": answer.family, "results": results, "usage": usage})


class _Chat:
    """One chat completion in OpenAI's shapes."""

    def __init__(self, call: Call, body: ChatRequest, decision: Decision, completion_id: str, created: int) -> None:
        self._call = call
        self._body = body
        self._decision = decision
        self._id = completion_id
        self._created = created

    def completion(self, answer: GenerateAnswer) -> dict[str, Any]:
        """Returns the whole completion; each choice carries its candidate id and member."""
        choices = [
            {
                "index": candidate.index,
                "message": {"role": "assistant", "content": candidate.text, "refusal": None},
                "logprobs": None,
                "finish_reason": candidate.finish_reason,
                "candidate_id": candidate.candidate_id,
                "member": candidate.member,
            }
            for candidate in answer.candidates
        ]
        return {**self._head("chat.completion", answer.routing.member), "choices": choices, "usage": _usage(answer)}

    async def chunks(self, events: AsyncGenerator[Piece | Ping | GenerateAnswer, None]) -> AsyncGenerator[bytes, None]:
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
                        case GenerateAnswer():
                            for end in self._ends(event):
                                yield end
            yield b"data: [DONE]\n\n"
        except Exception as error:  # noqa: BLE001  the status is sent already: what went wrong is the last event
            yield _data(openai_object(failed_in_stream(self._call, error), self._call.request_id))

    def _ends(self, answer: GenerateAnswer) -> list[bytes]:
        ends = [
            self._chunk(candidate.index, {}, candidate.member, finish_reason=candidate.finish_reason, candidate_id=candidate.candidate_id)
            for candidate in answer.candidates
        ]
        if self._body.stream_options and self._body.stream_options.include_usage:
            ends.append(_data({**self._head("chat.completion.chunk", answer.routing.member), "choices": [], "usage": _usage(answer)}))
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


def _usage(answer: GenerateAnswer) -> dict[str, int]:
    # One prompt, however many answers: OpenAI counts it once.
    prompt = max(candidate.usage.prompt_tokens for candidate in answer.candidates)
    completion = sum(candidate.usage.completion_tokens for candidate in answer.candidates)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _data(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
