"""`POST /v1/chat/completions` and `GET /v1/models`, as OpenAI's clients speak them.

`model: "auto"` routes by `user`, a member's name pins it. Without a `user` the prior decides and nothing is kept, so such an answer has
no candidate id. Text only: a content part of another kind is refused by name; unknown fields are ignored, as these clients expect. The
request becomes a native one, so that every limit and check holds on both; what would change what an answer must be, and cannot be had, is
refused by the client's own name for it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from attune.models.seam.printable import printable
from attune.service.api.answer_json import also, json_response, problems
from attune.service.api.compatible_shapes import ChatCompletion
from attune.service.api.generate import Events, GenerateRequest, Happened, begin, begun
from attune.service.api.openai_turns import read_turns
from attune.service.api.promises import OpenRequest, PromisingRequest
from attune.service.api.prompted import MAX_MESSAGES, MAX_USER_CHARS, Context, NativeRequest, Text, refuse, sound_unicode
from attune.service.api.shapes import ModelAnswer, ModelsAnswer
from attune.service.errors import FieldError, UnknownMember
from attune.service.http.documentation import operation_name
from attune.service.http.problems import openai_object
from attune.service.http.segments import Segment
from attune.service.http.streaming import EventStream, failed_in_stream
from attune.service.ids import new_id
from attune.service.live.runtime import Call
from attune.service.members.member import NOTHING_SAID
from attune.service.usecases.member_answers import Generated, GeneratedCandidate, Piece, Ping, finished
from attune.service.usecases.member_choice import Decision

router = APIRouter(prefix="/v1", tags=["compatible"], generate_unique_id_function=operation_name)
OWNER = "attune"
AUTO = "auto"
DEFAULT_MAX_TOKENS = 128
LEAST_TOP_P = 0.001
"""What 0 is taken for, by which these clients mean the likeliest token alone and which servers refuse."""


class StreamOptions(OpenRequest):
    """Options of a stream.

    Attributes:
        include_usage: true sends a last chunk with the tokens of the whole completion
    """

    include_usage: bool | None = False


class ChatOptions(NativeRequest):
    """What only Attune understands of a chat completion, in the field `attune`.

    Attributes:
        family: the reward family that decides, one of `GET /bundle`; null is the one that serves
    """

    context: Context | None = None
    family: str | None = None
    score: Annotated[bool, Field(description="true scores the answer before it is sent, and tells the score of each choice")] = False


class ChatRequest(PromisingRequest):
    """Body of `POST /v1/chat/completions`; in every optional place an empty value stands for none.

    Attributes:
        n: how many choices, each by another member with `auto`; null is 1
        stream: true answers with chunks as server-sent events that end with `[DONE]`
        stream_options: only with `stream`
        temperature: 0 to 2; null is the member's own
        top_p: 0 to 1; null is the member's own
        stop: one text or up to 8, before the first of which the answer ends
        seed: of the members that can be seeded
        attune: what OpenAI's API has no field for
    """

    model: Annotated[Text, Field(max_length=256, description="`auto` routes by `user`; a member's name pins that member")]
    messages: Annotated[
        list[Any],
        Field(min_length=1, max_length=MAX_MESSAGES, description="turns as OpenAI has them; tool turns are read as text"),
    ]
    user: Annotated[str, Field(max_length=MAX_USER_CHARS, description="whose preferences decide; any opaque string")] | None = None
    safety_identifier: Annotated[str, Field(max_length=MAX_USER_CHARS, description="the user where `user` is not sent")] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, description="more than the deployment allows is cut to what it allows")] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, description="goes before `max_tokens`")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    attune: ChatOptions | None = None

    def as_native(self, most_tokens: int) -> GenerateRequest:
        """Returns the same request in native form.

        Args:
            most_tokens: of an answer; a wish for more is cut, as these clients expect.

        Raises:
            InvalidRequest: a message cannot be read, or something is promised that cannot be kept; every field by the client's name.
            ValidationError: a field is out of the native limits.
        """
        turns, wrong = read_turns(self.messages)
        wrong += self.not_to_be_kept()
        refuse(wrong)
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        options = self.attune or ChatOptions()
        return GenerateRequest(
            user="-",
            messages=turns,
            context=options.context,
            family=options.family,
            candidates=self.n or 1,
            member=None if self.model == AUTO else self.model,
            max_tokens=min(self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS, most_tokens),
            temperature=self.temperature,
            top_p=None if self.top_p is None else max(self.top_p, LEAST_TOP_P),
            stream=bool(self.stream),
            stop=[stop for stop in stops if stop],
            score=options.score,
            seed=None if self.seed is None else self.seed % 2**53,  # theirs may be negative and has 64 bits
        )


def user_of(request: Request, user: str | None, safety_identifier: str | None = None) -> str | None:
    """Returns who asks: `user`, else `safety_identifier`, else what the operator's header says; counts the requests that name nobody.

    Raises:
        InvalidRequest: the name cannot be a user's.
    """
    call: Call = request.state.call
    name = call.runtime.user_header
    header = request.headers.get(name) if name else None
    for field, given in (("user", user), ("safety_identifier", safety_identifier), (name, header)):
        if given:
            if len(given) > MAX_USER_CHARS:
                refuse([FieldError(field, f"has {len(given):,} characters; the limit is {MAX_USER_CHARS}")])
            try:
                return sound_unicode(given)
            except ValueError as error:
                refuse([FieldError(field, str(error))])
    call.runtime.metrics.named_nobody()
    return None


@router.get("/models", response_model=ModelsAnswer, summary="`auto` and every member, as OpenAI lists models")
async def list_models(request: Request) -> Response:
    """`auto` and every member."""
    call: Call = request.state.call
    return json_response({"object": "list", "data": [_model(name) for name in (AUTO, *call.serving.bundle.portfolio.names)]})


@router.get("/models/{model:segments}", response_model=ModelAnswer, responses=problems(404), summary="One model: `auto` or a member")
async def show_model(model: Segment, request: Request) -> Response:
    """`auto` or one member, as OpenAI describes a model."""
    call: Call = request.state.call
    return json_response(_model(_known(model, call)))


def _known(model: str, call: Call) -> str:
    names = (AUTO, *call.serving.bundle.portfolio.names)
    if model not in names:
        raise UnknownMember(f"model {printable(model)!r} is none of {', '.join(names)}")
    return model


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses=also("text/event-stream", "JSON, or chunks with `stream: true`"),
    summary="Chat completions, routed for `user`",
)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """OpenAI chat completions; each choice carries a `candidate_id` for `/feedback`."""
    call: Call = request.state.call
    native = body.as_native(call.runtime.limits.max_new_tokens)
    if call.serving.bundle.portfolio.names and body.model != AUTO:
        _known(body.model, call)
    decision, events = await begin(call, native, user_of(request, body.user, body.safety_identifier), tells_cut=False)
    chat = _Chat(call, body, decision, f"chatcmpl-{decision.id or new_id()}", int(time.time()))
    if not body.stream:
        return json_response(chat.completion(await finished(events)))
    first = await begun(call, decision, events)
    return EventStream(chat.chunks(first, events), begun=events)


class _Chat:
    """One chat completion in OpenAI's shapes."""

    def __init__(self, call: Call, body: ChatRequest, decision: Decision, completion_id: str, created: int) -> None:
        self._call = call
        self._body = body
        self._decision = decision
        self._id = completion_id
        self._created = created
        self._says: dict[str, str] = {}  # what the server of a single choice says in every chunk

    def completion(self, generated: Generated) -> dict[str, Any]:
        """Returns the whole completion; each choice carries its candidate id and member."""
        choices = [
            {
                **candidate.said.choice,
                "index": candidate.index,
                "message": {"refusal": None, **candidate.said.message, "role": "assistant", "content": candidate.text},
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
                        if event.said and self._is_single:
                            self._begin(event.said)
                        if event.index not in told:
                            told.add(event.index)
                            yield self._chunk(event.index, {"role": "assistant", "content": ""}, event.member)
                        yield self._chunk(event.index, {"content": event.text}, event.member)
                    case Ping():
                        yield b": ping\n\n"
                    case Generated():
                        for end in self._ends(event):
                            yield end
                event = await anext(events, None)
            yield b"data: [DONE]\n\n"
        except Exception as error:  # noqa: BLE001  the status is sent already: what went wrong is the last event
            yield _data(openai_object(failed_in_stream(self._call, error), self._call.request_id))

    def _begin(self, said: Mapping[str, Any]) -> None:
        self._says = {name: said[name] for name in ("service_tier", "system_fingerprint") if isinstance(said.get(name), str)}

    @property
    def _is_single(self) -> bool:
        return len(self._decision.record.routing.members) == 1

    def _ends(self, generated: Generated) -> list[bytes]:
        last = generated.candidates[-1]
        ends = [
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
        if self._body.stream_options and self._body.stream_options.include_usage:
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
            "ignored": self._body.ignored,
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
