"""The body that asks an OpenAI-compatible server for one answer: what request and roster say, and what is passed on as it came."""

from __future__ import annotations

from typing import Any

from attune.service.members.member import GenerationRequest
from attune.service.members.spec import OpenAISpec


def request_body(request: GenerationRequest, spec: OpenAISpec, *, stream: bool, include_usage: bool) -> dict[str, Any]:
    """Returns the JSON body of a chat completion; `request` has every default filled in, and None leaves a field out."""
    passed = request.passed
    as_sent = passed.messages_for(spec.passes, spec.system, in_parts=spec.thoughts_as == "parts") if passed else None
    body: dict[str, Any] = {
        **spec.body,
        "model": spec.model,
        "messages": as_sent or [{"role": message.role, "content": message.content} for message in request.messages],
        "stream": stream,
    }
    if spec.max_tokens_field is not None:
        body[spec.max_tokens_field] = request.max_tokens + spec.reasoning_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop and spec.send_stop:
        body["stop"] = list(request.stop)
    if request.seed is not None and spec.send_seed:
        body["seed"] = request.seed
    if spec.reasoning_effort is not None:
        body["reasoning_effort"] = spec.reasoning_effort
    if stream and include_usage:
        body["stream_options"] = {"include_usage": True}
    if passed:
        body |= passed.body(spec.passes)
    return body
