"""What every member of the portfolio understands: a request for text, and the pieces of the answer.

    use case ── GenerationRequest ──> roster ──> Member ── TextPiece* Finish ──> roster ──> use case

A member is a named place that can write: an adapter in this process (`local`) or another server (`openai`). Nothing
here knows users, rewards or decisions, and nothing here imports torch or an HTTP client.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Literal, Protocol, runtime_checkable

from attune.service.errors import CallerError, ComeBackLater, FieldError, InvalidRequest, MemberFailed
from attune.service.members.passing import Passed
from attune.service.members.tool_calls import Part

Reason = Literal[
    "breaker-open",  # not tried: it failed too often a moment ago
    "connect",  # no connection, or it closed before a byte of the answer
    "cooling-down",  # not tried: it asked to be left alone until a later time
    "silent",  # not tried, or left: another request has waited for a sign in vain, and somebody can stand in
    "timeout",  # a limit of this member passed: connect, first event, first text, between events or total
    "status",  # an HTTP status other than 200
    "protocol",  # what came is no answer at all, or the connection broke in its middle
    "content",  # this answer cannot be used: no text in it, or not readable; the next one may be well
    "upstream",  # an error object in place of an answer
    "overloaded",  # its queue is full, or it answered 429
    "refused",  # this request cannot be served by this member: too long for its context, say
    "deadline",  # the deadline of the whole request passed
    "model",  # the forward pass failed
    "closed",  # the member was closed or its worker died
]
"""Why a member failed; the label of a metric, so a closed set."""

LASTING: frozenset[Reason] = frozenset({"connect", "timeout", "status", "protocol", "upstream", "closed"})
"""Reasons that the next request would meet too, as far as one can tell."""

LATER: frozenset[Reason] = frozenset({"overloaded", "cooling-down"})
"""Reasons that ask to come back later."""

MAX_REASON_CHARS = 300

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
"""Why a complete answer ends where it does, by OpenAI's words."""


@dataclass(frozen=True, slots=True)
class ChatTurn:
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
        streamed: whether somebody reads the pieces as they come; if not, a member may answer in one piece.
        thinks_aloud: whether that reader is told what the model thinks as it comes, where its member passes it.
        stand_ins: how many members may still be asked if this one does not answer; 0 lets it wait as long as its limits are.
        passed: what is asked beyond text, for members that pass it to their server.

    Raises:
        InvalidRequest: a number is out of its range, or there is nothing to answer.
    """

    messages: tuple[ChatTurn, ...]
    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    streamed: bool = True
    thinks_aloud: bool = False
    stand_ins: int = 0
    passed: Passed | None = None

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
class Said:
    """What a server said beside text, end and counts, as it said it: for clients who speak its API, and for nothing here.

    Args:
        answer: of the whole answer, such as `service_tier` and `system_fingerprint`.
        choice: of the choice.
        message: of the message, such as `refusal` and `annotations`.
        usage: beside the counts, such as `prompt_tokens_details`.
    """

    answer: Mapping[str, Any] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)
    message: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)


NOTHING_SAID = Said()


@dataclass(frozen=True, slots=True)
class TextPiece:
    """The next characters of the answer: never half a character, never part of a stop string, and never empty but beside calls or thoughts.

    Args:
        text: the characters.
        said: what the server has said of the whole answer by then; with the first piece alone.
        calls: parts of calls of tools, each with its place; see `tool_calls`.
        refuses: whether this is said in place of an answer.
        thoughts: pieces of fields of the message that hold what the model thinks, by the server's names for them.
    """

    text: str
    said: Mapping[str, Any] | None = None
    calls: tuple[Part, ...] = ()
    refuses: bool = False
    thoughts: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer is complete.

    Args:
        reason: `stop` at an end-of-text token or a stop string, `length` at `max_tokens` or the end of the context, `content_filter`
            where the server's filter cut it, `tool_calls` where it waits for the results of the tools that it calls.
        prompt_tokens: tokens read, the template's included.
        completion_tokens: tokens written, the end-of-text token included.
        usage: `estimated` if an upstream sent no counts: one token a piece, four characters a prompt token.
        said: what else its server said.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    usage: Literal["reported", "estimated"] = "reported"
    said: Said = NOTHING_SAID


Event = TextPiece | Finish


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a member uses where the request leaves the choice to it, and the system prompt that is its own.

    Args:
        temperature: None where the server refuses the field: it is then left out, also where the request names one.
        top_p: likewise.
        system: goes in front of the conversation.
    """

    temperature: float | None = 0.8
    top_p: float | None = 0.95
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
            messages = (ChatTurn("system", content), *(messages[1:] if first.role == "system" else messages))
        return replace(
            request,
            messages=messages,
            temperature=_chosen(request.temperature, self.temperature),
            top_p=_chosen(request.top_p, self.top_p),
        )


def _chosen(asked: float | None, default: float | None) -> float | None:
    return default if asked is None or default is None else asked


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


@runtime_checkable
class PassesOn(Protocol):
    """A member that passes more than text to its server."""

    @property
    def passes(self) -> frozenset[str]:
        """What it sends as the caller wrote it, by the names of `passing.PASSES`."""
        ...


class OneMemberFailed(MemberFailed):
    """One member could not serve, for a reason out of a closed set.

    Args:
        member: its id.
        reason: what kind of failure, for metrics.
        detail: what happened, with the numbers; cut to 300 characters.
        lasting: whether the next request would meet the same; None takes what the reason says.
        retry_after_s: seconds after which it can be asked again, where it is left alone until then.
    """

    def __init__(self, member: str, reason: Reason, detail: str, *, lasting: bool | None = None, retry_after_s: float = 0.0) -> None:
        detail = detail if len(detail) <= MAX_REASON_CHARS else f"{detail[: MAX_REASON_CHARS - 1]}…"
        super().__init__(f"member {member!r}: {detail}", {member: detail})
        self.member = member
        self.reason: Reason = reason
        self.lasting = reason in LASTING if lasting is None else lasting
        self.retry_after_s = retry_after_s


class MembersFailed(MemberFailed):
    """Nobody answered: every member that was tried failed, or some refused the request and the others failed.

    Args:
        detail: what happened.
        attempts: every member that was tried, with its reason.
        retry_after_s: seconds after which the first of them is tried again; 0 where one may be at once.
    """

    def __init__(self, detail: str, attempts: Mapping[str, str], retry_after_s: float) -> None:
        super().__init__(detail, attempts)
        self.retry_after_s = retry_after_s

    def headers(self) -> Mapping[str, str]:
        return {"retry-after": str(ceil(self.retry_after_s))} if self.retry_after_s > 0.0 else {}


class PromptFiltered(CallerError):
    """The content filters of the members' servers refuse the conversation: no member that was tried takes it."""

    code = "prompt-filtered"


class PassedFieldRefused(CallerError):
    """No member's server takes what the request asks of it: a temperature, a tool, a format, a picture. The fields are named."""

    code = "passed-field-refused"


class MembersBusy(ComeBackLater):
    """The servers of all members that were tried ask to come back later; the detail names each with its reason."""

    code = "members-busy"


class UnusableMember(ValueError):
    """A member cannot be set up: its description or its files are wrong. An operator's error, never a client's.

    Args:
        member: its id, or the adapter's or base's name; empty where it is about the roster as a whole.
        field: what is wrong: a field of the description, or a file.
        message: what was found and what is needed.
    """

    def __init__(self, member: str, field: str, message: str) -> None:
        super().__init__(f"member {member!r}, {field}: {message}" if member else f"{field}: {message}")
        self.member = member
        self.field = field
        self.message = message
