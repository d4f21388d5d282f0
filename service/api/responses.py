"""`POST /v1/responses`: OpenAI's Responses API, as a chat completion in other words.

`model`, `user` and `attune` are those of `/v1/chat/completions`, and so is what members pass on. Nothing is stored, so a conversation is
sent whole.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from attune.service.api.answer_json import also, json_response
from attune.service.api.chat import MAX_TURNS, ChatOptions, ChatRequest, begin_chat
from attune.service.api.compatible_shapes import ResponseObject
from attune.service.api.generate import begun
from attune.service.api.promises import OpenRequest
from attune.service.api.prompted import MAX_USER_CHARS, Text, not_writable, refuse
from attune.service.api.response_input import ChatOfResponse, chat_of, format_of, tool_choice_of, tools_of
from attune.service.api.response_output import ResponseAnswer
from attune.service.errors import CallerError, FieldError
from attune.service.http.documentation import operation_name
from attune.service.http.streaming import EventStream
from attune.service.live.runtime import Call
from attune.service.usecases.member_answers import finished

router = APIRouter(prefix="/v1", tags=["compatible"], generate_unique_id_function=operation_name)
_LOGPROBS = "message.output_text.logprobs"
_NOT_HERE = {
    "previous_response_id": "names a response that was stored; nothing is stored here, so send the whole conversation as `input`",
    "conversation": "names a conversation that was stored; nothing is stored here, so send it as `input`",
    "prompt": "names a template that was stored; nothing is stored here, so send `instructions` and `input`",
    "background": "asks for an answer to be fetched later; nothing is stored here",
    "top_logprobs": "asks for probabilities of tokens, which are not passed on",
}


class ResponsesRequest(OpenRequest):
    """Body of `POST /v1/responses`; in every optional place an empty value stands for none.

    Attributes:
        instructions: what the model is to be, in front of the input
        stream: true answers with server-sent events, `response.created` to `response.completed`
        temperature: 0 to 2; null is the member's own
        top_p: 0 to 1; null is the member's own
        attune: what OpenAI's API has no field for
    """

    model: Annotated[Text, Field(max_length=256, description="`auto` routes by `user`; a member's name pins that member")]
    input: Annotated[
        str | list[Any],
        Field(max_length=None, description="a text, or items: messages, calls of functions and their results; all of the conversation"),
    ]
    instructions: str | None = None
    user: Annotated[str, Field(max_length=MAX_USER_CHARS, description="whose preferences decide; any opaque string")] | None = None
    safety_identifier: Annotated[str, Field(max_length=MAX_USER_CHARS, description="the user where `user` is not sent")] | None = None
    stream: bool | None = None
    max_output_tokens: (
        Annotated[int, Field(ge=1, description="null is what the deployment allows (`ATTUNE_MAX_NEW_TOKENS`), and more is cut to that")]
        | None
    ) = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    tools: list[Any] | None = Field(None, description="functions and custom tools, for members that pass `tools`")
    tool_choice: Any = Field(None, description="as `tool_choice` of a chat completion")
    parallel_tool_calls: bool | None = Field(None, description="passed on with `tools`")
    text: dict[str, Any] | None = Field(None, description="`format` (passed as `response_format`) and `verbosity`")
    reasoning: dict[str, Any] | None = Field(None, description="`effort`, for members that pass `reasoning_effort`")
    metadata: dict[str, str] | None = Field(None, description="comes back as it is")
    include: list[Any] | None = Field(None, description="probabilities of tokens are refused; of all else there is nothing to include")
    previous_response_id: Any = Field(None, description="refused: nothing is stored, so a conversation is sent whole")
    conversation: Any = Field(None, description="refused, likewise")
    prompt: Any = Field(None, description="refused, likewise")
    background: Any = Field(None, description="true is refused, likewise")
    top_logprobs: Any = Field(None, description="above 0 is refused: probabilities of tokens are not passed on")
    attune: ChatOptions | None = None

    def as_chat(self) -> tuple[ChatRequest, ChatOfResponse]:
        """Returns the chat completion that asks the same, and where its messages come from.

        Raises:
            InvalidRequest: something cannot be read, or something stored is meant; every field by the client's name.
        """
        if isinstance(self.input, list) and not 1 <= len(self.input) <= MAX_TURNS:  # before any of them is read
            refuse([FieldError("input", f"has {len(self.input):,} items; 1 to {MAX_TURNS:,} are taken")])
        chat = chat_of(self.instructions, self.input)
        chat.wrong += [FieldError(name, why) for name, why in _NOT_HERE.items() if getattr(self, name)]
        if _LOGPROBS in (self.include or ()):
            chat.refuse("include", _NOT_HERE["top_logprobs"])
        tools, choice, form = tools_of(chat, self.tools), tool_choice_of(chat, self.tool_choice), format_of(chat, self.text)
        refuse(chat.wrong or not_writable(self.echoed()))  # as a response repeats its request
        return (
            ChatRequest.model_construct(
                _fields_set=None,
                model=self.model,
                messages=chat.messages,
                user=self.user,
                safety_identifier=self.safety_identifier,
                stream=self.stream,
                max_completion_tokens=self.max_output_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                tools=tools,
                tool_choice=choice,
                parallel_tool_calls=self.parallel_tool_calls,
                response_format=form,
                verbosity=(self.text or {}).get("verbosity"),
                reasoning_effort=(self.reasoning or {}).get("effort"),
                attune=self.attune,
            ),
            chat,
        )

    def echoed(self) -> dict[str, Any]:
        """Returns what a response repeats of its request."""
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "reasoning": {"effort": None, "summary": None, **(self.reasoning or {})},
            "temperature": self.temperature,
            "text": {**(self.text or {}), "format": (self.text or {}).get("format") or {"type": "text"}},
            "tool_choice": self.tool_choice or "auto",
            "tools": self.tools or [],
            "top_p": self.top_p,
            "user": self.user,
        }


@router.post(
    "/responses",
    response_model=ResponseObject,
    responses=also("text/event-stream", "JSON, or events with `stream: true`"),
    summary="Responses, routed for `user`",
)
async def create_response(body: ResponsesRequest, request: Request) -> Response:
    """OpenAI responses; `attune.candidate_id` is for `/feedback`."""
    call: Call = request.state.call
    asked, chat = body.as_chat()
    try:
        decision, events, beyond = await begin_chat(call, request, asked)
        answer = ResponseAnswer(call, decision, beyond.ignored, body.echoed())
        if not body.stream:
            return json_response(answer.whole(await finished(events)))
        first = await begun(call, decision, events)
    except CallerError as error:
        raise chat.renamed(error) from None  # it may be the same one
    return EventStream(answer.events(first, events), begun=events)
