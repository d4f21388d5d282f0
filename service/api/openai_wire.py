"""What OpenAI and rerank clients send: as much of it as is served, with everything else ignored.

Text only: a content part of another kind is refused by name. The chat request becomes a native one, so that every limit and check holds
on both.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from attune.service.api import wire

AUTO = "auto"
DEFAULT_MAX_TOKENS = 128


class Open(BaseModel):
    """Base of compatible requests: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)


class TextPart(Open):
    """One part of a message's content."""

    type: Literal["text"]
    text: wire.Text


class ChatMessage(Open):
    """One turn; `developer` is OpenAI's newer name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: wire.Written | Annotated[list[TextPart], Field(min_length=1)]

    def as_native(self) -> wire.Message:
        """Returns the turn with its parts joined."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return wire.Message(role="system" if self.role == "developer" else self.role, content=content)


class StreamOptions(Open):
    """Options of a stream."""

    include_usage: bool = False


class ChatRequest(Open):
    """Body of `POST /v1/chat/completions`."""

    model: Annotated[wire.Text, Field(max_length=256)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=wire.MAX_MESSAGES)]
    user: wire.User | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None

    def as_native(self) -> wire.GenerateRequest:
        """Returns the same request in native form; errors name fields as they are called there.

        Raises:
            ValidationError: a field is out of the native limits.
        """
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return wire.GenerateRequest(
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


class RerankDocument(Open):
    """A document as an object; only its text is read."""

    text: wire.Written


class RerankRequest(Open):
    """Body of `POST /v1/rerank`."""

    query: wire.Written
    documents: Annotated[list[wire.Written | RerankDocument], Field(min_length=1)]
    model: Annotated[wire.Text, Field(max_length=256)] | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    user: wire.User | None = None

    @property
    def texts(self) -> list[str]:
        """The documents' texts, in order."""
        return [document if isinstance(document, str) else document.text for document in self.documents]
