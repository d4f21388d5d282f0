"""What goes over the Unix sockets between the processes of one service: frames, no pickles.

    header   length of the payload (uint32), kind (uint8), number of the request (uint32), little-endian
    FAILED   JSON: the error's class, detail, retry_after_s, fields        CANCEL   nothing: the caller left
    ASK, ANSWER   JSON, for everything that is rare

What the other kinds carry is said by `batching.frames` (texts and rows) and `members.engine_frames` (requests and answers).
"""

from __future__ import annotations

import asyncio
import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, cast

from attune.service import errors

HEADER = struct.Struct("<IBI")
LARGEST_FRAME = 256 * 1024 * 1024
MOST_UNREAD = 64 * 1024 * 1024


class FrameKind(IntEnum):
    """What a frame is."""

    SUBMIT = 1
    ROWS = 2
    FAILED = 3
    CANCEL = 4
    ASK = 5
    ANSWER = 6
    SPARE = 7
    HURRY = 8
    GENERATE = 9
    PIECE = 10
    FINISH = 11


def frame(kind: FrameKind, number: int, payload: bytes = b"") -> bytes:
    """Returns header and payload."""
    return HEADER.pack(len(payload), kind, number) + payload


def pack_error(error: BaseException) -> bytes:
    """Returns the payload of FAILED: the nearest kind that `errors` has, and of what is no `AttuneError` NotReady with its type."""
    named = [kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind]
    body = {
        "kind": named[0] if named else "NotReady",
        "detail": error.detail if isinstance(error, errors.AttuneError) else f"{type(error).__name__}: {error}",
        "retry_after_s": getattr(error, "retry_after_s", None),
    }
    if isinstance(error, errors.InvalidRequest):
        body["fields"] = [[each.field, each.message] for each in error.errors]
    return json.dumps(body).encode()


def unpack_error(payload: Mapping[str, Any]) -> errors.AttuneError:
    """Returns the error that `pack_error` packed."""
    kind = getattr(errors, str(payload["kind"]), errors.NotReady)
    if not (isinstance(kind, type) and issubclass(kind, errors.AttuneError)):
        kind = errors.NotReady
    detail = str(payload["detail"])
    if issubclass(kind, errors.ComeBackLater) and payload.get("retry_after_s") is not None:
        return kind(detail, float(payload["retry_after_s"]))
    if issubclass(kind, errors.InvalidRequest):
        return kind(detail, [errors.FieldError(str(field), str(message)) for field, message in payload.get("fields", ())])
    return kind(detail)


class Frames(asyncio.Protocol, ABC):
    """One connection: cuts what arrives into frames; subclasses say what a frame does and what losing the connection does."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._cut = bytearray()  # the beginning of a frame, and how long it must become before it is looked at again
        self._wanted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        """Hands over the frames that are whole; their payloads are views of what arrived, which is copied only where a frame is cut."""
        if self._cut:
            self._cut += data
            if len(self._cut) < self._wanted:
                return
            data, self._cut = bytes(self._cut), bytearray()
        view, start, self._wanted = memoryview(data), 0, HEADER.size
        while len(data) - start >= HEADER.size:
            length, kind, number = HEADER.unpack_from(data, start)
            if length > LARGEST_FRAME:
                assert self.transport is not None
                self.transport.abort()
                return
            end = start + HEADER.size + length
            if len(data) < end:
                self._wanted = end - start
                break
            self.frame_received(FrameKind(kind), number, view[start + HEADER.size : end])
            start = end
        if start < len(data):
            self._cut += view[start:]

    @abstractmethod
    def frame_received(self, kind: FrameKind, number: int, payload: memoryview) -> None:
        """Called with each whole frame."""

    def send(self, kind: FrameKind, number: int, payload: bytes = b"") -> None:
        """Writes a frame; nothing where the connection is gone."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(frame(kind, number, payload))


class Link(Frames):
    """One connection to a process that does something for this one; whoever asks over it has a number.

    Subclasses say who waits, in `frame_received` and `connection_lost`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._numbers = 0
        self._connecting = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Whether the other process is there."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def unread(self) -> bool:
        """Whether the other process has left so much unread that it does not read at all; callers that leave would add to it for ever."""
        return self.transport is not None and self.transport.get_write_buffer_size() > MOST_UNREAD

    async def connect(self, path: str) -> None:
        """Returns when the socket at `path` is connected; a connection that is there already is kept.

        Raises:
            OSError: nobody listens there.
        """
        async with self._connecting:  # two who ask at once would each make one, and the loss of either would count as of both
            if self.connected:
                return
            self._cut.clear()
            await asyncio.get_running_loop().create_unix_connection(lambda: self, path)

    def close(self) -> None:
        """Ends the connection."""
        if self.transport is not None:
            self.transport.close()

    def next_number(self) -> int:
        """Returns the number of another request."""
        self._numbers = (self._numbers + 1) & 0xFFFFFFFF
        return self._numbers
