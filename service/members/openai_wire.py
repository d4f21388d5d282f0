"""The bytes of an OpenAI-compatible answer: server-sent events, chunks, whole completions.

    bytes ── EventReader ──> data of each event ── read_chunk ──> Chunk(text, thought, finish, usage, unsupported)
    JSON  ──────────────────────────────────────── read_whole ──> Chunk

A text that has arrived whole is an answer: what carries nothing of it is skipped, what is left out is named, and only what
cannot be read is refused. Pure functions; they know no connection and no time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from attune.models.seam.json_lines import kind_of
from attune.service.members.member import Reason
from attune.service.members.tool_calls import Part, parts_of

DONE = b"[DONE]"
MAX_EVENT_BYTES = 1 << 20
_THOUGHTS = frozenset({"reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks", "thought"})
_READ = frozenset({"content", "role", "refusal"})
_EMPTY: Mapping[str, Any] = {}


class BadAnswer(Exception):
    """The upstream's answer cannot be used.

    Args:
        reason: `content` if it says nothing about the next answer, `protocol` if what came is no answer at all, `upstream` if the
            server says that it failed.
        detail: what was found, in our words.
        said: the object in which the server says that it failed.
    """

    def __init__(self, reason: Reason, detail: str, said: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail
        self.said = said


class EventReader:
    """Splits a stream of bytes into the data of its server-sent events (WHATWG HTML, section 9.2.6).

    Lines end with CR, LF or both and with nothing else: JSON strings may hold U+2028 unescaped, at which `str.splitlines`
    would cut them.
    """

    __slots__ = ("_buffer", "_data", "_is_error", "_size", "_started")

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._is_error = False
        self._size = 0
        self._started = False

    def push(self, received: bytes) -> list[bytes]:
        """Returns the data of the events that these bytes complete.

        Raises:
            BadAnswer: an event is longer than 1 MiB.
        """
        self._buffer += received
        if not self._started and len(self._buffer) >= 3:
            self._started = True
            self._buffer = self._buffer.removeprefix(b"\xef\xbb\xbf")
        events = []
        for line in self._lines():
            if not line:
                events += self._event()
                continue
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"event":
                self._is_error = value.strip() == b"error"
            if name == b"error":  # as llama.cpp reported one until late in 2025: the object in a field of its own
                events += self._event()
                self._is_error, name = True, b"data"
            if name != b"data":  # a comment, `id`, `retry`: nothing of the answer
                continue
            if self._data and _begins(value) and self._data[-1].rstrip().endswith(b"}"):  # no JSON goes on so: a blank line was left out
                events += self._event()
            self._data.append(value)
            self._size += len(value)
        if self._size + len(self._buffer) > MAX_EVENT_BYTES:
            raise BadAnswer("content", f"an event is longer than {MAX_EVENT_BYTES} bytes")
        return events

    def _event(self) -> list[bytes]:
        """Returns the data of the event that is complete, none if it has none, and begins the next one."""
        events = [b"\n".join(self._data)] if self._data else []
        if self._is_error:
            events = [_as_error(data) for data in events]
        self._data, self._size, self._is_error = [], 0, False
        return events

    def close(self) -> list[bytes]:
        """Returns the data of an event whose last line end never came: the stream has ended, so it is complete too."""
        events = self.push(b"\n\n")
        self._buffer = b""
        return events

    def _lines(self) -> list[bytes]:
        """Returns the complete lines and keeps the rest; a CR at the very end may be half of a CRLF, so it waits."""
        text, held = self._buffer, b""
        if b"\r" in text:
            held = b"\r" if text.endswith(b"\r") else b""
            text = text.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._buffer = rest + held
        return lines


def _begins(data: bytes) -> bool:
    return data.lstrip()[:1] == b"{" or data.strip() == DONE


def _as_error(data: bytes) -> bytes:
    """Returns the data of an event that is called `error` as an object that reports one, whatever it says."""
    try:
        told = orjson.loads(data)
    except orjson.JSONDecodeError:
        told = data.decode("utf-8", "replace")
    return data if isinstance(told, dict) and told.get("error") else orjson.dumps({"error": told or "an error without words"})


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event adds to the answer, or a whole answer.

    Args:
        text: characters, often none; not sound yet.
        thought: whether it holds something of a thought.
        finish: the server's word for why the answer ends, empty if it goes on.
        usage: prompt and completion tokens, where they are told.
        unsupported: fields that hold something and are left out.
        alive: whether it is part of an answer at all, and so a sign of life.
        whole: the text of a message that stands in a chunk; it repeats what came piece by piece before.
        thought_tokens: tokens of `usage` that were thoughts.
        places: the objects that it was read from: answer, choice, message and usage.
        calls: parts of calls of tools; also named as unsupported, for readers that take none.
        whole_calls: the calls of a message that stands in a chunk, as `whole`.
        refused: how many characters at the end of `text` are said in place of an answer.
        index: of the choice that was read; None where there is none.
    """

    text: str = ""
    thought: bool = False
    finish: str = ""
    usage: tuple[int, int] | None = None
    unsupported: tuple[str, ...] = ()
    alive: bool = False
    whole: str = ""
    thought_tokens: int = 0
    places: tuple[Mapping[str, Any], ...] = field(default=(_EMPTY,) * 4, compare=False, repr=False)
    calls: tuple[Part, ...] = ()
    whole_calls: tuple[Part, ...] = ()
    refused: int = 0
    index: object = field(default=None, compare=False)


_NOTHING = Chunk()


def read_chunk(data: bytes, index: object = None) -> Chunk:
    """Returns what one event's data adds to the answer; nothing for pings and whatever else is no chunk.

    Args:
        data: of the event.
        index: of the choice that is read; None where none has come yet.

    Raises:
        BadAnswer: it is JSON that cannot be read, or it reports an error.
    """
    if not data.lstrip().startswith((b"{", b"[")):
        return _NOTHING  # a word, as some proxies send to keep a connection open
    chunk = read_json(data, "an event")
    return _NOTHING if not isinstance(chunk, dict) else _read(chunk, "delta", index)


def read_whole(body: bytes) -> Chunk:
    """Returns the answer in a body that was not streamed.

    Raises:
        BadAnswer: it is no completion, or it reports an error.
    """
    answer = read_json(body, "the body")
    if not isinstance(answer, dict):
        raise BadAnswer("protocol", f"the body is {kind_of(answer)}; an object is needed")
    chunk = _read(answer, "message")
    if not chunk.alive:
        raise BadAnswer("protocol", "the body is a JSON object without choices")
    return chunk


def read_json(data: bytes, what: str) -> Any:
    """Returns the value, whatever the strings in it are; bytes that are no UTF-8 become surrogates.

    Raises:
        BadAnswer: it is not JSON, or nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # half of a surrogate pair, NaN, bytes that are no UTF-8: the other reader takes them
        pass
    try:
        return json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadAnswer("content", f"{what} is not JSON that can be read ({type(error).__name__})") from None


def _read(answer: Mapping[str, Any], part: str, index: object = None) -> Chunk:
    choices = answer.get("choices")
    choices = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    if not choices and _is_error(answer):
        raise BadAnswer("upstream", "the server reports an error", answer)
    if _says(answer.get("error")):
        raise BadAnswer("upstream", "the server reports an error in its answer", answer)
    counts = answer.get("usage")
    usage, thought_tokens = _usage(counts)
    # One answer was asked for, which some servers do not number from 0; what others there are is another one's.
    choice = next((choice for choice in choices if _index(choice) == (index or 0)), choices[0] if choices and index is None else None)
    if choice is None:
        return Chunk(usage=usage, thought_tokens=thought_tokens, places=(answer, _EMPTY, _EMPTY, counts if usage and counts else _EMPTY))
    if _says(choice.get("error")):
        raise BadAnswer("upstream", "the server reports an error in its answer", choice)
    if usage is None and isinstance(choice.get("usage"), Mapping):
        counts = choice["usage"]
        usage, thought_tokens = _usage(counts)
    finish = choice.get("finish_reason")
    message = choice.get(part)
    other = choice.get("message" if part == "delta" else "delta")
    text, thought, unsupported = _read_message(message, part)
    if not text and isinstance(choice.get("text"), str):
        text = choice["text"]
    return Chunk(
        text,
        thought,
        finish if isinstance(finish, str) else "",
        usage,
        unsupported,
        alive=True,
        whole=_read_message(other, part)[0] if isinstance(other, dict) else "",
        thought_tokens=thought_tokens,
        places=(answer, choice, message if isinstance(message, dict) else _EMPTY, counts if usage and counts else _EMPTY),
        calls=_calls_of(message) if isinstance(message, dict) and message.get("tool_calls") else (),
        whole_calls=_calls_of(other) if isinstance(other, dict) and other.get("tool_calls") else (),
        refused=len(message["refusal"]) if isinstance(message, dict) and isinstance(message.get("refusal"), str) else 0,
        index=_index(choice),
    )


def _index(choice: Mapping[str, Any]) -> object:
    index = choice.get("index")
    return 0 if index in (None, "0") else index


def _calls_of(message: Mapping[str, Any]) -> tuple[Part, ...]:
    try:
        return parts_of(message)
    except TypeError:  # half of a surrogate pair, a number that is too large, levels without end
        raise BadAnswer("content", "the arguments of a call cannot be written as JSON") from None


def _read_message(message: object, part: str) -> tuple[str, bool, tuple[str, ...]]:
    """Returns the text of a delta or a message, whether it holds a thought, and the fields of it that are left out."""
    if not isinstance(message, dict):
        return "", False, () if not message else (part,)
    text, thought, unsupported = _text_of(message.get("content"), part)
    refusal = message.get("refusal")
    if isinstance(refusal, str):  # what the model says in place of an answer is what a reader shall see
        text += refusal
    if message.keys() <= _READ:  # as nearly every piece is
        return text, thought, unsupported
    thought = thought or any(message.get(name) for name in _THOUGHTS)
    left_out = tuple(f"{part}.{name}" for name, value in message.items() if value and name not in _READ)
    return text, thought, unsupported + left_out


def _text_of(content: object, part: str) -> tuple[str, bool, tuple[str, ...]]:
    """Returns the text of a content: a string, or parts, of which some are thoughts or no text."""
    if content is None or isinstance(content, str):
        return content or "", False, ()
    texts, thought, unsupported = [], False, []
    for entry in content if isinstance(content, list) else [content]:
        if isinstance(entry, str):
            texts.append(entry)
            continue
        kind = entry.get("type", "text") if isinstance(entry, dict) else type(entry).__name__
        found = entry.get("text", entry.get("refusal")) if isinstance(entry, dict) else None
        if isinstance(found, Mapping):
            found = found.get("value")
        if kind in ("text", "output_text", "refusal", "text_delta") and isinstance(found, str):
            texts.append(found)
        elif kind in ("thinking", "reasoning", "thought", "reasoning_text"):
            thought = True
        elif entry:
            unsupported.append(f"{part}.content of type {kind}")
    return "".join(texts), thought, tuple(unsupported)


def _is_error(answer: Mapping[str, Any]) -> bool:
    """Whether an object without choices is an error, in the shapes of servers that have no `error` in it too."""
    status = answer.get("base_resp")
    return (
        _says(answer.get("error"))
        or "error" in (answer.get("object"), answer.get("type"), answer.get("status"))
        or ("message" in answer and answer.get("code", 0) not in (0, 200, "0", "200"))
        or answer.get("success") is False
        or any(_says(answer.get(name)) for name in ("detail", "errors", "error_code", "error_msg", "error_message"))
        or (isinstance(status, Mapping) and _says(status.get("status_code")))
    )


def _says(error: object) -> bool:
    """Whether a field for an error holds one: some servers send it with every chunk, and nothing in it."""
    if isinstance(error, Mapping):
        return any(_says(value) for value in error.values())
    return bool(error) and error != "0"


def _usage(usage: object) -> tuple[tuple[int, int] | None, int]:
    """Returns prompt and completion tokens if both are told as whole numbers, and how many of them were thoughts."""
    if not isinstance(usage, Mapping):
        return None, 0
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if not prompt and not completion:
        return None, 0  # not counted, in the way of servers that send numbers in any case
    details = usage.get("completion_tokens_details")
    thoughts = _count(details.get("reasoning_tokens")) if isinstance(details, Mapping) else None
    return (None if prompt is None or completion is None else (prompt, completion)), thoughts or 0


def _count(value: object) -> int | None:
    is_digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16
    if isinstance(value, str | float) and (is_digits or (isinstance(value, float) and value.is_integer())):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else None
