"""`POST /v1/chat/completions` and `GET /v1/models`, as OpenAI's clients speak them.

`model: "auto"` routes by `user`, a member's name pins it. Without a `user` the prior decides and nothing is kept, so such an answer has
no candidate id. Unknown fields are ignored, as these clients expect. The request becomes a native one, so that every limit and check
holds on both. Tools, formats and pictures go to members whose roster passes them (`beyond_text`); what would change what an answer must be,
and nobody passes, is refused by the client's own name for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from attune.models.seam.printable import printable
from attune.service.api.answer_json import also, json_response, problems
from attune.service.api.beyond_text import BeyondText, beyond_text
from attune.service.api.chat_answer import ChatAnswer
from attune.service.api.compatible_shapes import ChatCompletion
from attune.service.api.generate import Events, GenerateRequest, begin, begun
from attune.service.api.openai_turns import last_turns, read_turns
from attune.service.api.promises import OpenRequest, PromisingRequest
from attune.service.api.prompted import MAX_USER_CHARS, Context, Message, NativeRequest, Text, refuse, sound_unicode
from attune.service.api.route import MOST_AMONG, check_members
from attune.service.api.shapes import ModelAnswer, ModelsAnswer
from attune.service.errors import FieldError, InvalidRequest, UnknownMember, invalid
from attune.service.http.documentation import operation_name
from attune.service.http.heads import as_written
from attune.service.http.segments import Segment
from attune.service.http.streaming import EventStream
from attune.service.live.runtime import Call, RequestLimits
from attune.service.usecases.member_answers import finished
from attune.service.usecases.member_choice import Decision

router = APIRouter(prefix="/v1", tags=["compatible"], generate_unique_id_function=operation_name)
OWNER = "attune"
AUTO = "auto"
MAX_TURNS = 4096
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
        among: members of whom one is to answer; null is all of them
    """

    context: Context | None = None
    family: str | None = None
    among: Annotated[list[str], Field(min_length=1, max_length=MOST_AMONG)] | None = None
    score: Annotated[bool, Field(description="true scores the answer before it is sent, and tells the score of each choice")] = False


class NativeChat(NamedTuple):
    """A chat in native form: the request, with the end of the conversation; all of its turns; and what is asked beyond text."""

    request: GenerateRequest
    turns: list[Message]
    beyond: BeyondText


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
        Field(min_length=1, max_length=MAX_TURNS, description="turns as OpenAI has them; members read all of them, the scorer the end"),
    ]
    user: Annotated[str, Field(max_length=MAX_USER_CHARS, description="whose preferences decide; any opaque string")] | None = None
    safety_identifier: Annotated[str, Field(max_length=MAX_USER_CHARS, description="the user where `user` is not sent")] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: (
        Annotated[int, Field(ge=1, description="null is what the deployment allows (`ATTUNE_MAX_NEW_TOKENS`), and more is cut to that")]
        | None
    ) = None
    max_completion_tokens: Annotated[int, Field(ge=1, description="goes before `max_tokens`")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    attune: ChatOptions | None = None

    def as_native(self, limits: RequestLimits, passing: Mapping[str, frozenset[str]]) -> NativeChat:
        """Returns the same request in native form.

        Args:
            limits: `max_new_tokens` of an answer, also where the request names no number; a wish for more is cut. These clients expect
                both. `max_prompt_chars` of the conversation are scored.
            passing: what each member passes to its server as it comes.

        Raises:
            InvalidRequest: a message cannot be read, or something is promised that cannot be kept; every field by the client's name.
            ValidationError: a field is out of the native limits.
        """
        read, options = read_turns(self.messages), self.attune or ChatOptions()
        named = [self.model] if self.model != AUTO else options.among
        asked_of = passing if named is None else {name: passing.get(name, frozenset()) for name in named}
        beyond = beyond_text(self, self.messages, read, asked_of)
        left = beyond.among
        wrong = [*read.wrong, *beyond.wrong]
        if self.model != AUTO and options.among:
            wrong.append(FieldError("attune.among", f"has no place beside the `model` {printable(self.model)!r}, which is to answer"))
        if left is not None and self.n is not None and self.n > len(left):
            wrong.append(FieldError("n", f"is {self.n}, and of {', '.join(left)}, who can keep what is asked, each answers once"))
        refuse(wrong)
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        most_tokens = limits.max_new_tokens
        native = GenerateRequest(
            user="-",
            messages=last_turns(read.turns, limits.max_prompt_chars),
            context=options.context,
            family=options.family,
            among=options.among if left is None else list(left),
            candidates=self.n or 1,
            member=None if self.model == AUTO else self.model,
            max_tokens=min(self.max_completion_tokens or self.max_tokens or most_tokens, most_tokens),
            temperature=self.temperature,
            top_p=None if self.top_p is None else max(self.top_p, LEAST_TOP_P),
            stream=bool(self.stream),
            stop=[stop for stop in stops if stop],
            score=options.score,
            seed=None if self.seed is None else self.seed % 2**53,  # theirs may be negative and has 64 bits
        )
        return NativeChat(native, read.turns, beyond)


def user_of(request: Request, user: str | None, safety_identifier: str | None = None) -> str | None:
    """Returns who asks: `user`, else `safety_identifier`, else what the operator's header says; counts the requests that name nobody.

    Raises:
        InvalidRequest: the name cannot be a user's.
    """
    call: Call = request.state.call
    name = call.runtime.user_header
    header = as_written(request.headers.get(name, "")) if name else None
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
    decision, events, beyond = await begin_chat(call, request, body)
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    chat = ChatAnswer(call, decision, beyond.ignored, include_usage=include_usage)
    if not body.stream:
        return json_response(chat.completion(await finished(events)))
    first = await begun(call, decision, events)
    return EventStream(chat.chunks(first, events), begun=events)


async def begin_chat(call: Call, request: Request, body: ChatRequest) -> tuple[Decision, Events, BeyondText]:
    """Returns the decision, the generation that carries it out, and what was asked beyond text.

    Raises:
        InvalidRequest, TooLarge, UnknownMember: the request is over a limit or names what is not there; nothing was decided.
    """
    if members := call.serving.bundle.portfolio.names:
        if body.model != AUTO:
            _known(body.model, call)
        check_members((body.attune and body.attune.among) or (), members)
    native, turns, beyond = body.as_native(call.runtime.limits, call.serving.roster.passing)
    user = user_of(request, body.user, body.safety_identifier)
    try:
        decision, events = await begin(call, native, user, tells_cut=False, turns=turns, passed=beyond.passed, thinks_aloud=True)
    except InvalidRequest as error:
        raise invalid([_of_attune(one) for one in error.errors]) from error
    return decision, events, beyond


def _of_attune(error: FieldError) -> FieldError:
    """Returns an error of a native request by the name that its field has in a chat."""
    return FieldError(f"attune.{error.field}", error.message) if error.field in ChatOptions.model_fields else error
