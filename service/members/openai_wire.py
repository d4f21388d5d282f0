"""The bytes of an OpenAI-compatible stream, read strictly: server-sent events, chunks of an answer, error bodies.

    bytes ── EventReader ──> data of each event ── read_chunk ──> Chunk(text, finish, usage, unsupported)
    body of another status ── reason_in ──> one line that names no key

Pure functions; knows no connection and no time. What an upstream sends and this does not understand is named, never
dropped in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from attune.service.members.member import GenerationRequest, Reason, without_secrets

DONE = "[DONE]"
MAX_EVENT_BYTES = 1 << 20
# Some servers call a stop by the name of what stopped them.
_FINISHES: Mapping[str, Literal["stop", "length"]] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
}
# These replace the answer's text: without them it would be another answer.
_FATAL_FIELDS = ("tool_calls", "function_call", "audio", "refusal")


class BadAnswer(Exception):
    """The upstream's answer cannot be used.

    Args:
        reason: `protocol` if it breaks the format, `upstream` if it says that it failed.
        detail: what was found.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


class EventReader:
    """Splits a stream of bytes into the data of its server-sent events (WHATWG HTML, section 9.2.6).

    Lines end with CR, LF or both and with nothing else: JSON strings may hold U+2028 unescaped, at which `str.splitlines`
    and httpx's `aiter_lines` would cut them.
    """

    __slots__ = ("_buffer", "_data", "_size", "_started")

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[str] = []
        self._size = 0
        self._started = False

    def push(self, received: bytes) -> list[str]:
        """Returns the data of the events that these bytes complete.

        Raises:
            BadAnswer: an event is not UTF-8, or longer than 1 MiB.
        """
        self._buffer += received
        if not self._started and len(self._buffer) >= 3:
            self._started = True
            self._buffer = self._buffer.removeprefix(b"\xef\xbb\xbf")
        events = []
        for line in self._lines():
            if not line:
                if self._data:
                    events.append("\n".join(self._data))
                self._data, self._size = [], 0
                continue
            name, _, value = line.partition(b":")
            if name != b"data":  # a comment, `event`, `id`, `retry`: nothing of the answer
                continue
            try:
                self._data.append(value.removeprefix(b" ").decode("utf-8"))
            except UnicodeDecodeError as error:
                raise BadAnswer("protocol", f"an event is not UTF-8: {error.reason} at byte {error.start}") from error
            self._size += len(value)
        if self._size + len(self._buffer) > MAX_EVENT_BYTES:
            raise BadAnswer("protocol", f"an event is longer than {MAX_EVENT_BYTES} bytes")
        return events

    def _lines(self) -> list[bytes]:
        """Returns the complete lines and keeps the rest; a CR at the very end may be half of a CRLF, so it waits."""
        held = b"\r" if self._buffer.endswith(b"\r") else b""
        text = self._buffer.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._buffer = rest + held
        return lines


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event adds to the answer.

    Args:
        text: characters, often none.
        finish: why the answer ends here, None if it goes on.
        usage: prompt and completion tokens, where they are told.
        unsupported: fields that hold something and are left out.
    """

    text: str
    finish: Literal["stop", "length"] | None
    usage: tuple[int, int] | None
    unsupported: tuple[str, ...]


def read_chunk(data: str) -> Chunk:
    """Returns what one event's data adds to the answer.

    Raises:
        BadAnswer: it is no chunk of a chat completion, it reports an error, or it holds an answer of another kind.
    """
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise BadAnswer("protocol", f"an event is not JSON: {error}") from error
    if not isinstance(chunk, dict):
        raise BadAnswer("protocol", f"an event is JSON of type {type(chunk).__name__}, not an object")
    if chunk.get("error"):
        raise BadAnswer("upstream", f"error in the stream: {_message_in(chunk)}")
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise BadAnswer("protocol", "an event has no list of choices")
    usage = _usage(chunk.get("usage"))
    if not choices:
        return Chunk("", None, usage, ())
    if len(choices) > 1 or choices[0].get("index", 0) != 0:
        raise BadAnswer("protocol", f"an event has {len(choices)} choices, the first of index {choices[0].get('index')}; one was asked for")
    finish = choices[0].get("finish_reason")
    if finish is not None and finish not in _FINISHES:
        raise BadAnswer("protocol", f"finish_reason is {finish!r}, which is not supported")
    text, unsupported = _read_delta(choices[0].get("delta") or {})
    return Chunk(text, None if finish is None else _FINISHES[finish], usage, unsupported)


def _read_delta(delta: object) -> tuple[str, tuple[str, ...]]:
    """Returns the text of a delta and the fields of it that are left out."""
    if not isinstance(delta, dict):
        raise BadAnswer("protocol", f"a delta is JSON of type {type(delta).__name__}, not an object")
    for name in _FATAL_FIELDS:
        if delta.get(name):
            raise BadAnswer("protocol", f"the answer holds delta.{name}, which is not supported")
    text = delta.get("content")
    if text is not None and not isinstance(text, str):
        raise BadAnswer("protocol", f"delta.content is JSON of type {type(text).__name__}, not a string")
    return text or "", tuple(f"delta.{name}" for name, value in delta.items() if value and name not in {"content", "role"})


def request_body(request: GenerationRequest, model: str, max_tokens_field: str, *, include_usage: bool) -> dict[str, Any]:
    """Returns the JSON body of a streaming chat completion; `request` has every default filled in."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        max_tokens_field: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": True,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if request.seed is not None:
        body["seed"] = request.seed
    if include_usage:
        body["stream_options"] = {"include_usage": True}
    return body


def reason_in(body: bytes, content_type: str, secrets: tuple[str, ...]) -> tuple[str, str | None]:
    """Returns what the body of a failed request says on one line, without secrets, and its error code if it has one."""
    text, code = body.decode("utf-8", "replace"), None
    if "html" in content_type:
        return "(an HTML page)", None
    try:
        answer = json.loads(text)
    except ValueError:
        pass  # plain text says it as it is
    else:
        if isinstance(answer, dict):
            text = _message_in(answer)
            error = answer.get("error")
            code = error.get("code") if isinstance(error, dict) else None
    return without_secrets(" ".join(text.split())[:300], secrets) or "(an empty body)", code if isinstance(code, str) else None


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Returns the seconds that a Retry-After header asks to wait; None without one that can be read."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def _message_in(answer: Mapping[str, Any]) -> str:
    """Returns the message of an error object in the shapes that servers use: OpenAI's, a plain string, FastAPI's."""
    error = answer.get("error")
    if isinstance(error, Mapping):
        kind = error.get("type") or error.get("code")
        message = str(error.get("message") or json.dumps(error))
        return f"{message} ({kind})" if kind else message
    found = error or answer.get("message") or answer.get("detail") or answer
    return found if isinstance(found, str) else json.dumps(found)


def _usage(usage: object) -> tuple[int, int] | None:
    """Returns prompt and completion tokens if both are told as whole numbers."""
    if not isinstance(usage, Mapping):
        return None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    if all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        return counts  # type: ignore[return-value]  # checked above
    return None
