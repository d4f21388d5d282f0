"""What clients send on native routes, as pydantic models: shapes, types and what is fixed by the contract.

    JSON ─> Wire model (shape, Unicode, unknown fields) ─> checks (the deployment's limits, rules between fields) ─> use case

Limits that an operator sets are numbers of `Limits` and are checked in `checks`, so that no model depends on a setting.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from attune.models.seam.text import conversation_text

MAX_USER_CHARS = 256
MAX_MESSAGES = 256
MAX_CONTEXT_CHARS = 4096
MAX_STOPS = 8
MAX_STOP_CHARS = 64


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
        raise ValueError("is empty" if not text else f"has {len(text)} characters, all of them blank")
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
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS), AfterValidator(sound_unicode)]


class Wire(BaseModel):
    """Base of every request: unknown fields are refused, and `1` is not a string nor `true` a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Message(Wire):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Written


class Prompted(Wire):
    """A prompt, either as text or as a conversation."""

    prompt: Written | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None

    @property
    def prompt_text(self) -> str | None:
        """The prompt as one text, as it is scored; None if there is none."""
        if self.messages is not None:
            return conversation_text([(message.role, message.content) for message in self.messages])
        return self.prompt


class ScoreRequest(Prompted):
    """Body of `POST /score`."""

    user: User
    responses: list[Written]
    context: Context | None = None
    family: str | None = None
    explain: bool = False


class RouteRequest(Prompted):
    """Body of `POST /route`."""

    user: User
    context: Context | None = None
    family: str | None = None
    candidates: Annotated[int, Field(ge=1)] = 1
    policy: Literal["sample", "best", "uniform"] = "sample"
    member: str | None = None


class GenerateRequest(RouteRequest):
    """Body of `POST /generate`; sampling that is not named is the member's own."""

    stream: bool = False
    max_tokens: Annotated[int, Field(ge=1)] = 128
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: Annotated[list[Stop], Field(max_length=MAX_STOPS)] = Field(default_factory=list)
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None


class FeedbackRequest(Prompted):
    """Body of `POST /feedback`: a pair of candidate ids, or two texts with their prompt."""

    user: User
    chosen: Id | None = None
    rejected: Id | None = None
    chosen_text: Written | None = None
    rejected_text: Written | None = None
    decision_id: Id | None = None
    context: Context | None = None
    tie: bool = False
    event_id: Id | None = None
    observed_at: Annotated[AwareDatetime, Field(strict=False)] | None = None


class ReplayRequest(Wire):
    """Body of `POST /admin/replay`: everybody, the users of a tenant, or one user (of the caller's tenant if none is named)."""

    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}\z")] | None = None
    user: User | None = None
    cursor: Annotated[str, Field(max_length=256)] | None = None
    limit_s: Annotated[float, Field(ge=0, le=600, description="how long one call works at most; half its deadline is the limit")] = 20.0


class ReloadRequest(Wire):
    """Body of `POST /admin/reload`."""

    bundle: Annotated[str, AfterValidator(sound_unicode), Field(max_length=4096)] | None = None
