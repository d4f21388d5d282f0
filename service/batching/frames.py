"""What goes over the socket between a process that takes requests and the one that owns the scorer: frames, no pickles.

    header   length of the payload (uint32), kind (uint8), number of the request (uint32), little-endian
    SUBMIT   deadline_s, generation, count; count x (tokens, pool_start, pool_stop); token ids, int32
    ROWS     queue_s, inference_s, waiting texts, waiting tokens, drain rate, count; float32 `[count, width]`
    FAILED   JSON: the error's class, detail, retry_after_s        CANCEL   nothing: the caller left
    ASK, ANSWER   JSON, for everything that is rare

Axes: the outputs of a row lie one after the other, in the order and with the shapes that loading told (`RowLayout`).
"""

from __future__ import annotations

import asyncio
import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Any, cast

import numpy as np

from attune.models.seam.families import Row
from attune.models.seam.text import Encoded
from attune.service import errors

HEADER = struct.Struct("<IBI")
_SUBMIT = struct.Struct("<dII")
_TEXT = struct.Struct("<III")
_ROWS = struct.Struct("<ddIIdI")
LARGEST_FRAME = 256 * 1024 * 1024


class FrameKind(IntEnum):
    """What a frame is."""

    SUBMIT = 1
    ROWS = 2
    FAILED = 3
    CANCEL = 4
    ASK = 5
    ANSWER = 6


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Names and shapes of a row's outputs, in their order on the wire."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(prod(shape) for shape in self.shapes)

    @classmethod
    def of(cls, row: Row) -> RowLayout:
        """Returns the layout of a row."""
        return cls(tuple(row), tuple(value.shape for value in row.values()))

    def to_json(self) -> list[Any]:
        """Returns JSON data that `from_json` reads."""
        return [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> RowLayout:
        """Returns what `to_json` gave."""
        return cls(tuple(str(name) for name, _ in data), tuple(tuple(int(size) for size in shape) for _, shape in data))


@dataclass(frozen=True, slots=True)
class Answered:
    """The payload of ROWS: rows, times in seconds, and how full the queue was when they were ready."""

    rows: list[Row]
    queue_s: float
    inference_s: float
    waiting_items: int
    waiting_tokens: int
    drain_tokens_per_s: float


def frame(kind: FrameKind, number: int, payload: bytes = b"") -> bytes:
    """Returns header and payload."""
    return HEADER.pack(len(payload), kind, number) + payload


def pack_submit(items: Sequence[Encoded], deadline_s: float, generation: int) -> bytes:
    """Returns the payload of SUBMIT."""
    heads = b"".join(_TEXT.pack(len(item), item.pool_start, item.pool_stop) for item in items)
    ids = np.concatenate([np.asarray(item.input_ids, dtype="<i4") for item in items]) if items else np.zeros(0, dtype="<i4")
    return _SUBMIT.pack(deadline_s, generation, len(items)) + heads + ids.tobytes()


def unpack_submit(payload: memoryview) -> tuple[list[Encoded], float, int]:
    """Returns texts, deadline in seconds and generation.

    Raises:
        ValueError: the lengths do not add up.
    """
    deadline_s, generation, count = _SUBMIT.unpack_from(payload)
    start = _SUBMIT.size + count * _TEXT.size
    heads = [_TEXT.unpack_from(payload, _SUBMIT.size + index * _TEXT.size) for index in range(count)]
    ids = np.frombuffer(payload[start:], dtype="<i4").tolist()
    if sum(tokens for tokens, _, _ in heads) != len(ids):
        raise ValueError(f"{len(ids)} token ids for texts of {sum(tokens for tokens, _, _ in heads)} tokens")
    items, place = [], 0
    for tokens, pool_start, pool_stop in heads:
        items.append(Encoded(tuple(ids[place : place + tokens]), pool_start, pool_stop))
        place += tokens
    return items, deadline_s, generation


def pack_rows(answered: Answered, layout: RowLayout) -> bytes:
    """Returns the payload of ROWS."""
    head = _ROWS.pack(
        answered.queue_s,
        answered.inference_s,
        answered.waiting_items,
        answered.waiting_tokens,
        answered.drain_tokens_per_s,
        len(answered.rows),
    )
    return head + b"".join(row[name].tobytes() for row in answered.rows for name in layout.names)


def unpack_rows(payload: memoryview, layout: RowLayout) -> Answered:
    """Returns what `pack_rows` packed; rows are read-only views of one copy."""
    queue_s, inference_s, items, tokens, rate, count = _ROWS.unpack_from(payload)
    table = np.frombuffer(bytes(payload[_ROWS.size :]), dtype="<f4").reshape(count, layout.width)
    outputs, start = [], 0
    for shape in layout.shapes:
        size = prod(shape)
        outputs.append(table[:, start : start + size].reshape(count, *shape))
        start += size
    rows: list[Row] = [dict(zip(layout.names, values, strict=True)) for values in zip(*outputs, strict=True)]
    return Answered(rows, queue_s, inference_s, items, tokens, rate)


def pack_error(error: BaseException) -> bytes:
    """Returns the payload of FAILED; what is no `AttuneError` becomes NotReady with its type."""
    known = isinstance(error, errors.AttuneError)
    body = {
        "kind": type(error).__name__ if known else "NotReady",
        "detail": error.detail if isinstance(error, errors.AttuneError) else f"{type(error).__name__}: {error}",
        "retry_after_s": getattr(error, "retry_after_s", None),
    }
    return json.dumps(body).encode()


def unpack_error(payload: Mapping[str, Any]) -> errors.AttuneError:
    """Returns the error that `pack_error` packed."""
    kind = getattr(errors, str(payload["kind"]), errors.NotReady)
    if not (isinstance(kind, type) and issubclass(kind, errors.AttuneError)):
        kind = errors.NotReady
    detail = str(payload["detail"])
    if issubclass(kind, errors.ComeBackLater) and payload.get("retry_after_s") is not None:
        return kind(detail, float(payload["retry_after_s"]))
    return kind(detail)


class Frames(asyncio.Protocol, ABC):
    """One connection: cuts what arrives into frames; subclasses say what a frame does and what losing the connection does."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            length, kind, number = HEADER.unpack_from(self._buffer, start)
            if length > LARGEST_FRAME:
                assert self.transport is not None
                self.transport.abort()
                return
            end = start + HEADER.size + length
            if len(self._buffer) < end:
                break
            self.frame_received(FrameKind(kind), number, memoryview(bytes(self._buffer[start + HEADER.size : end])))
            start = end
        del self._buffer[:start]

    @abstractmethod
    def frame_received(self, kind: FrameKind, number: int, payload: memoryview) -> None:
        """Called with each whole frame."""

    def send(self, kind: FrameKind, number: int, payload: bytes = b"") -> None:
        """Writes a frame; nothing where the connection is gone."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(frame(kind, number, payload))
