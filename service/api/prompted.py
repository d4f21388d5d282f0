"""What native requests share: types of fields, a prompt as text or as messages, and checks of lengths and names against the deployment.

    JSON ─> pydantic model (shape, Unicode, unknown fields) ─> the route's check (limits, rules between fields) ─> plain request

Limits that an operator sets are numbers of `RequestLimits` and are checked after pydantic, so that no model depends on a setting. A check
collects every field that is wrong; sizes come last, because they have a status of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from attune.models.seam.counts import counted
from attune.models.seam.families import Families
from attune.models.seam.text import conversation_text
from attune.service.errors import FieldError, TextTooLong, invalid
from attune.service.live.runtime import RequestLimits

MAX_USER_CHARS = 256
MAX_MESSAGES = 256
MAX_CONTEXT_CHARS = 4096


def sound_unicode(text: str) -> str:
    """Returns `text` if it can be stored and sent.

    Raises:
        ValueError: it holds a lone surrogate or a NUL.
    """
    # Checked here and not left to pydantic, which looks into a string only where it has to measure it.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"holds a lone surrogate at character {error.start}, which is no Unicode text") from None
    at = text.find("\0")
    if at >= 0:
        raise ValueError(f"holds a NUL at character {at}")
    return text


def _with_words(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty" if not text else f"has {counted(len(text), 'character')}, all of them blank")
    return sound_unicode(text)


Text = Annotated[str, AfterValidator(sound_unicode)]
Written = Annotated[str, Field(json_schema_extra={"minLength": 1}), AfterValidator(_with_words)]
User = Annotated[str, Field(min_length=1, max_length=MAX_USER_CHARS, description="any opaque string"), AfterValidator(sound_unicode)]
Context = Annotated[
    str,
    Field(max_length=MAX_CONTEXT_CHARS, description="a short text on what this user wants; context-aware routers see it"),
    AfterValidator(sound_unicode),
]
Id = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(sound_unicode)]


class NativeRequest(BaseModel):
    """Base of every native request: unknown fields are refused, and `1` is not a string nor `true` a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Message(NativeRequest):
    """One turn of a conversation.

    Attributes:
        role: who said it; several `system` turns are allowed anywhere
        content: what was said; no empty or blank text
    """

    role: Literal["system", "user", "assistant"]
    content: Written


class Prompted(NativeRequest):
    """A prompt, either as text or as a conversation; texts that are too long for the scorer are cut unless `truncate` is false."""

    prompt: Annotated[
        Written | None, Field(description="what is answered, at most `max_prompt_chars` characters; in place of `messages`")
    ] = None
    messages: (
        Annotated[
            list[Message],
            Field(min_length=1, max_length=MAX_MESSAGES, description="a conversation of at most 256 turns; in place of `prompt`"),
        ]
        | None
    ) = None
    truncate: Annotated[bool, Field(description="false refuses texts for which the scorer has no room; true cuts them and says so")] = True

    @property
    def prompt_text(self) -> str | None:
        """The prompt as one text, as it is scored; None if there is none."""
        if self.messages is not None:
            return conversation_text([(message.role, message.content) for message in self.messages])
        return self.prompt


def wrong_prompt(request: Prompted) -> list[FieldError]:
    """Returns what is wrong with a request that must have one prompt in one of its two forms."""
    given = (request.prompt is not None) + (request.messages is not None)
    if given == 1:
        return []
    return [
        FieldError("prompt", "is missing; send `prompt` or `messages`" if not given else "and `messages` are both there; send one of them")
    ]


def wrong_family(family: str | None, families: Families) -> list[FieldError]:
    """Returns what is wrong with the name of a family; None is the one that serves."""
    if family is None or family in families:
        return []
    return [FieldError("family", f"is none of the families served: {', '.join(families.names)}")]


def not_writable(fields: Mapping[str, object]) -> list[FieldError]:
    """Returns the fields that could not be written as JSON: half a surrogate pair, infinity, a number of more than 64 bits."""
    told = "holds text that is no sound Unicode, or a number that is not finite or has more than 64 bits"
    return [FieldError(name, told) for name, value in fields.items() if not _is_writable(value)]


def _is_writable(value: object) -> bool:
    try:
        if b"null" in orjson.dumps(value):  # which it writes for infinity too
            json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def refuse(wrong: list[FieldError]) -> None:
    """Returns if nothing is wrong.

    Raises:
        InvalidRequest: something is; every field is named.
    """
    if wrong:
        raise invalid(wrong)


def check_prompt_length(request: Prompted, limits: RequestLimits) -> None:
    """Returns if the prompt, or all messages together, are within the limit.

    Raises:
        TextTooLong: they are not; the detail has the number and the limit.
    """
    if request.messages is not None:
        size = sum(len(message.content) for message in request.messages)
        if size > limits.max_prompt_chars:
            raise TextTooLong(f"messages have {size:,} characters; the limit is {limits.max_prompt_chars:,}")
    elif request.prompt is not None:
        check_length("prompt", request.prompt, limits.max_prompt_chars)


def check_length(field: str, text: str, limit: int) -> None:
    """Returns if a text is within its limit.

    Raises:
        TextTooLong: it is not; the detail has the number and the limit.
    """
    if len(text) > limit:
        raise TextTooLong(f"{field} has {len(text):,} characters; the limit is {limit:,}")
