"""What every member of the portfolio understands: a request for text, and the pieces of the answer.

    endpoints ── GenerationRequest ──> roster ──> Member ── TextPiece* Finish ──> roster ──> endpoints

A member is a named place that can write: an adapter in this process (`local`) or another server (`openai`). Nothing
here knows users, rewards or decisions, and nothing here imports torch or httpx.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from attune.service.errors import FieldError, InvalidRequest, MemberFailed

Reason = Literal[
    "breaker-open",  # not tried: it failed too often a moment ago
    "connect",  # no connection, or it closed before a byte of the answer
    "timeout",  # a limit of this member passed: connect, first token or between tokens
    "status",  # an HTTP status other than 200
    "protocol",  # the answer breaks the format, ends early or holds what is not supported
    "upstream",  # an error object inside the stream
    "overloaded",  # its queue is full, or it answered 429
    "refused",  # this request cannot be served by this member: too long for its context, say
    "deadline",  # the deadline of the whole request passed
    "model",  # the forward pass failed
    "closed",  # the member was closed or its worker died
]
"""Why a member failed; the label of a metric, so a closed set."""

MAX_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to write.

    Args:
        messages: the conversation so far, oldest first; at least one.
        max_tokens: how many tokens the answer may have at most.
        temperature: 0 takes the likeliest token; None takes the member's default.
        top_p: mass of the nucleus that is sampled from, in (0, 1]; None takes the member's default.
        stop: strings before which the answer ends; none of them is part of it.
        seed: equal seeds give equal answers on a local member; None draws a fresh one.

    Raises:
        InvalidRequest: a number is out of its range, or there is nothing to answer.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        errors = []
        if not self.messages:
            errors.append(FieldError("messages", "holds no message; at least one is needed"))
        if self.max_tokens < 1:
            errors.append(FieldError("max_tokens", f"is {self.max_tokens}; at least 1 is needed"))
        if self.temperature is not None and not 0.0 <= self.temperature < float("inf"):
            errors.append(FieldError("temperature", f"is {self.temperature}; it is at least 0"))
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            errors.append(FieldError("top_p", f"is {self.top_p}; it is above 0 and at most 1"))
        if "" in self.stop:
            errors.append(FieldError("stop", "holds an empty string, which would end every answer at once"))
        if errors:
            raise InvalidRequest("; ".join(f"{error.field} {error.message}" for error in errors), errors)


@dataclass(frozen=True, slots=True)
class TextPiece:
    """The next characters of the answer: never empty, never half a character, never part of a stop string."""

    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer is complete.

    Args:
        reason: `stop` at an end-of-text token or a stop string, `length` at `max_tokens` or the end of the context.
        prompt_tokens: tokens read, the template's included.
        completion_tokens: tokens written, the end-of-text token included.
        usage: `estimated` if an upstream sent no counts: one token a piece, four characters a prompt token.
    """

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    usage: Literal["reported", "estimated"] = "reported"


Event = TextPiece | Finish


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a member uses where the request leaves the choice to it, and the system prompt that is its own."""

    temperature: float = 0.8
    top_p: float = 0.95
    system: str | None = None

    def applied_to(self, request: GenerationRequest) -> GenerationRequest:
        """Returns the request with every choice made and the member's system prompt in front.

        A member's system prompt and one in the request become one message, the member's first: most chat templates
        take a single system message, and only at the start.
        """
        messages = request.messages
        if self.system:
            first = messages[0]
            content = f"{self.system}\n\n{first.content}" if first.role == "system" else self.system
            messages = (Message("system", content), *(messages[1:] if first.role == "system" else messages))
        return replace(
            request,
            messages=messages,
            temperature=self.temperature if request.temperature is None else request.temperature,
            top_p=self.top_p if request.top_p is None else request.top_p,
        )


class Member(Protocol):
    """A place that writes answers."""

    @property
    def id(self) -> str:
        """The name under which the portfolio knows this member."""
        ...

    def stream(self, request: GenerationRequest, deadline_s: float) -> AsyncGenerator[Event, None]:
        """Yields the answer as it is written: any number of pieces, then exactly one `Finish`.

        Closing the generator early frees what it holds: the row leaves the batch, the upstream connection is closed.

        Args:
            request: what to write.
            deadline_s: when to give up, in seconds of the event loop's clock.

        Raises:
            MemberFailed: it could not serve; nothing more follows, and what was yielded stands.
            DeadlineExceeded: the deadline passed.
            Overloaded: its queue is full; nothing was begun.
            TooLarge: the prompt is longer than the context; nothing was begun.
            InvalidRequest: the conversation does not fit the chat template; nothing was begun.
        """
        ...

    async def check(self) -> None:
        """Returns if the member can serve now.

        Raises:
            MemberFailed: it cannot, with the reason.
        """
        ...

    async def aclose(self) -> None:
        """Gives back what the member holds; streams that are open fail."""
        ...


class OneMemberFailed(MemberFailed):
    """One member could not serve, for a reason out of a closed set.

    Args:
        member: its id.
        reason: what kind of failure, for metrics.
        detail: what happened, with the numbers; cut to 300 characters.
    """

    def __init__(self, member: str, reason: Reason, detail: str) -> None:
        detail = detail if len(detail) <= MAX_REASON_CHARS else f"{detail[: MAX_REASON_CHARS - 1]}…"
        super().__init__(f"member {member!r}: {detail}", {member: detail})
        self.member = member
        self.reason: Reason = reason


class UnusableMember(ValueError):
    """A member cannot be set up: its description or its files are wrong. An operator's error, never a client's.

    Args:
        member: its id, or the adapter's or base's name.
        field: what is wrong: a field of the description, or a file.
        message: what was found and what is needed.
    """

    def __init__(self, member: str, field: str, message: str) -> None:
        super().__init__(f"member {member!r}, {field}: {message}")
        self.member = member
        self.field = field


_SECRET = re.compile(r"(?i)\b(bearer\s+|sk-|key-)[^\s\"',}]+")


def without_secrets(text: str, secrets: Sequence[str]) -> str:
    """Returns the text without the given secrets and without anything that looks like an API key."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[redacted]")
    return _SECRET.sub("[redacted]", text)
