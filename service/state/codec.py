"""How evidence and log entries are packed: every number that can be read back to the bit takes as few bytes as that allows.

    vector   flags (1) | count (2) | observed_s (8) | [epoch (8)] | numbers: float16, or widths and bit planes, or doubles
    entry    kind (1) | check (4) | token (4) | basis (2) | event id | vector | payload      kind "x": nothing after the event id

The scripts write the first eleven bytes of an entry and never look behind them. An event id is known by 12 bytes of its hash: two ids of
one user that share them are as likely as 2**-96 a pair.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

EVENT_BYTES = 12
BODY_DIGEST_BYTES = 8
TOKEN_BYTES = 4
CHECK_BYTES = 4
ENTRY_HEAD = 1 + CHECK_BYTES + TOKEN_BYTES + 2

_NEVER_LOGGED, _TAKEN_BACK = 2**30, 2**31
_GRID = 2.0**24
_MOST_STEPS = 2.0**31
_HALF, _PLANES, _DOUBLES = 0, 1, 2
_WITH_EPOCH = 4
_PER_BLOCK = 8
_BITS = np.arange(32)


@dataclass(frozen=True, slots=True)
class PackedVector:
    """A vector as it was packed: its landmark, when it was observed (Unix seconds), and the numbers `[E]`."""

    epoch: int
    observed_s: float
    evidence: Vector


@dataclass(frozen=True, slots=True)
class EventValue:
    """What is kept under the hash of an event id, as `user_log.lua` says.

    Attributes:
        digest: the first bytes of the body's.
        place: the number of the log's entry, or a token; with a bit more where the event was taken back.
    """

    digest: bytes
    place: int

    @classmethod
    def unpack(cls, packed: bytes) -> EventValue:
        """Returns the value that a script keeps."""
        return cls(packed[:BODY_DIGEST_BYTES], int.from_bytes(packed[BODY_DIGEST_BYTES : BODY_DIGEST_BYTES + TOKEN_BYTES], "little"))

    @property
    def taken_back(self) -> bool:
        """Whether the event was taken back."""
        return self.place >= _TAKEN_BACK

    @property
    def number(self) -> int | None:
        """The number of the log's entry; None where the event has none, or was taken back."""
        return self.place if self.place < _NEVER_LOGGED else None

    def without_place(self) -> bytes:
        """Returns the value of the event where it is known and in no log: as of a user who was merged into another."""
        return self.digest + (_TAKEN_BACK if self.taken_back else 0).to_bytes(TOKEN_BYTES, "little")


def event_digest(event_id: str) -> bytes:
    """Returns the 12 bytes by which an event id is known."""
    return hashlib.blake2b(event_id.encode("utf-8"), digest_size=EVENT_BYTES).digest()


def new_token(random: bytes) -> bytes:
    """Returns a request's token, little-endian with its two highest bits clear: the scripts have a use for them."""
    return random[: TOKEN_BYTES - 1] + bytes([random[TOKEN_BYTES - 1] & 0x3F])


def pack_vector(epoch: int, observed_s: float, evidence: Vector) -> bytes:
    """Returns a vector packed; -0.0 becomes 0.0, everything else is read back to the bit."""
    numbers = evidence.astype(np.float64) + 0.0
    coding, body = _pack_numbers(numbers)
    stamp = struct.pack("<d", observed_s) if not epoch else struct.pack("<dq", observed_s, epoch)
    return struct.pack("<BH", coding | (_WITH_EPOCH if epoch else 0), numbers.size) + stamp + body


def unpack_vector(packed: bytes) -> tuple[PackedVector, bytes]:
    """Returns the vector at the beginning of `packed`, and the bytes behind it.

    Raises:
        ValueError: the bytes are damaged.
    """
    try:
        flags, count = struct.unpack_from("<BH", packed)
        if flags & _WITH_EPOCH:
            observed_s, epoch = struct.unpack_from("<dq", packed, 3)
            at = 19
        else:
            (observed_s,), epoch, at = struct.unpack_from("<d", packed, 3), 0, 11
        numbers, end = _unpack_numbers(flags & 3, count, packed, at)
    except struct.error as error:
        raise ValueError(f"a packed vector of {len(packed)} bytes is damaged") from error
    return PackedVector(epoch, observed_s, numbers), packed[end:]


def _pack_numbers(numbers: Vector) -> tuple[int, bytes]:
    with np.errstate(over="ignore"):
        half = numbers.astype("<f2")
        steps = numbers * _GRID
    if np.array_equal(half, numbers):
        return _HALF, half.tobytes()
    if np.all(np.abs(steps) < _MOST_STEPS) and np.array_equal(np.rint(steps), steps):
        return _PLANES, _pack_planes(steps.astype(np.int64))
    return _DOUBLES, numbers.astype("<f8").tobytes()


def _unpack_numbers(coding: int, count: int, packed: bytes, at: int) -> tuple[Vector, int]:
    if coding == _PLANES:
        return _unpack_planes(count, packed, at)
    kind, size = ("<f2", 2) if coding == _HALF else ("<f8", 8)
    end = at + size * count
    if coding not in {_HALF, _DOUBLES} or end > len(packed):
        raise ValueError(f"a packed vector of {count} numbers ends after {len(packed)} bytes, or is coded as {coding}")
    return np.frombuffer(packed[at:end], dtype=kind).astype(np.float64), end


def _pack_planes(steps: NDArray[np.int64]) -> bytes:
    """Returns whole numbers below 2**31 in size, eight by eight: the width of each eight in bits, then their bits, a byte a plane."""
    unsigned = np.where(steps >= 0, 2 * steps, -2 * steps - 1).astype("<u4")  # small numbers of either sign have few bits
    padded = np.zeros(-(-unsigned.size // _PER_BLOCK) * _PER_BLOCK, dtype="<u4")
    padded[: unsigned.size] = unsigned
    blocks = padded.reshape(-1, _PER_BLOCK)
    bits = np.unpackbits(blocks.view(np.uint8).reshape(-1, _PER_BLOCK, 4), axis=2, bitorder="little")
    planes = np.packbits(bits, axis=1, bitorder="little")[:, 0, :]
    widths = np.array([int(most).bit_length() for most in blocks.max(axis=1)], dtype=np.uint8)
    return widths.tobytes() + planes[widths[:, None] > _BITS].tobytes()


def _unpack_planes(count: int, packed: bytes, at: int) -> tuple[Vector, int]:
    blocks = -(-count // _PER_BLOCK)
    widths = np.frombuffer(packed, dtype=np.uint8, count=blocks, offset=at)
    end = at + blocks + int(widths.sum())
    if end > len(packed) or (blocks and int(widths.max()) > _BITS.size):
        raise ValueError(f"a packed vector of {count} numbers ends after {len(packed)} bytes")
    planes = np.zeros((blocks, _BITS.size), dtype=np.uint8)
    planes[widths[:, None] > _BITS] = np.frombuffer(packed[at + blocks : end], dtype=np.uint8)
    bits = np.unpackbits(planes[:, None, :], axis=1, bitorder="little")
    unsigned = np.packbits(bits, axis=2, bitorder="little").view("<u4").reshape(-1)[:count].astype(np.int64)
    steps = np.where(unsigned & 1, -(unsigned >> 1) - 1, unsigned >> 1)
    return steps / _GRID, end


def pack_event_id(event_id: str) -> bytes:
    """Returns an event id with its length; a UUID in its usual form takes 17 bytes."""
    if len(event_id) == 36:
        try:
            given = uuid.UUID(event_id)
        except ValueError:
            pass
        else:
            if str(given) == event_id:
                return b"\0" + given.bytes
    encoded = event_id.encode("utf-8")
    return struct.pack("<BB", 1, len(encoded) - 1) + encoded


def unpack_event_id(packed: bytes) -> tuple[str, bytes]:
    """Returns the event id at the beginning of `packed`, and the bytes behind it.

    Raises:
        ValueError: the bytes are damaged.
    """
    if packed[:1] == b"\0" and len(packed) > 16:
        return str(uuid.UUID(bytes=packed[1:17])), packed[17:]
    end = 3 + packed[1] if packed[:1] == b"\1" and len(packed) > 1 else 0
    if not 0 < end <= len(packed):
        raise ValueError(f"an event id in a log entry is damaged: it begins with {packed[:2].hex() or 'nothing'}")
    return packed[2:end].decode("utf-8"), packed[end:]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of a user's log, taken apart; `vector` and `payload` are None and empty for one that was taken back."""

    check: bytes
    token: bytes
    basis: int
    event_id: str
    vector: PackedVector | None
    payload: bytes


def unpack_entry(packed: bytes) -> LogEntry:
    """Returns what an entry of the log says.

    Raises:
        ValueError: the bytes are damaged.
    """
    if len(packed) <= ENTRY_HEAD or packed[:1] not in {b"c", b"x"}:
        raise ValueError(f"a log entry of {len(packed)} bytes is damaged")
    event_id, rest = unpack_event_id(packed[ENTRY_HEAD:])
    check, token = packed[1 : 1 + CHECK_BYTES], packed[1 + CHECK_BYTES : 1 + CHECK_BYTES + TOKEN_BYTES]
    (basis,) = cast("tuple[int]", struct.unpack_from("<H", packed, 1 + CHECK_BYTES + TOKEN_BYTES))
    if packed[:1] == b"x":
        return LogEntry(check, token, basis, event_id, None, b"")
    vector, payload = unpack_vector(rest)
    return LogEntry(check, token, basis, event_id, vector, payload)
