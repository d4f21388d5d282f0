"""The records of a user: the sum, a comparison on its way in, what an export gives out, and how much of each is kept.

A sum is stored as whole steps of 2**-24 where it is on that grid and as doubles where it is not, so that Lua, Python and the append-only
file hold the same numbers to the bit. What an entry of the evidence means is not known here; scaling, forgetting and quantisation happen
before.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.service.state.keys import checked_name

Vector = NDArray[np.float64]

HEADER_DOUBLES = 4
DOUBLE_BYTES = 8
MAX_STEP_BYTES = 6
STEPS_OF_ONE = 2.0**24
DIGEST_BYTES = 16
MAX_EVIDENCE_DOUBLES = 2048
MAX_EVENT_ID_BYTES = 256
_MAX_EPOCH = 2**40
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class UserSum:
    """A user under one basis: the sum of the evidence of `count` comparisons.

    Attributes:
        count: comparisons in the sum.
        epoch: landmark to which `evidence` is scaled (forward decay, Cormode et al. 2009; reconstruction).
        first_seen_s: earliest observation ever added, Unix seconds; taking a comparison back leaves it.
        last_seen_s: latest observation ever added, Unix seconds; taking a comparison back leaves it.
        evidence: `[E]` the sum.
    """

    count: int
    epoch: int
    first_seen_s: float
    last_seen_s: float
    evidence: Vector

    def pack(self) -> bytes:
        """Returns the sum as little-endian doubles: the four numbers of the header, then the evidence."""
        header = struct.pack("<4d", float(self.count), float(self.epoch), float(self.first_seen_s), float(self.last_seen_s))
        return header + np.ascontiguousarray(self.evidence, dtype="<f8").tobytes()

    @classmethod
    def unpack(cls, packed: bytes) -> UserSum:
        """Returns the sum that `pack` made.

        Raises:
            ValueError: the bytes are not a header and at least one double.
        """
        if len(packed) % 8 or len(packed) <= 8 * HEADER_DOUBLES:
            raise ValueError(f"a packed sum has a multiple of 8 and more than {8 * HEADER_DOUBLES} bytes, not {len(packed)}")
        count, epoch, first_seen_s, last_seen_s = struct.unpack_from("<4d", packed)
        evidence = np.frombuffer(packed, dtype="<f8", offset=8 * HEADER_DOUBLES).astype(np.float64)
        return cls(int(count), int(epoch), first_seen_s, last_seen_s, evidence)

    @classmethod
    def from_record(cls, record: bytes) -> UserSum:
        """Returns the sum that is stored in `record`, behind its seal; see `scripts/sum_records.lua`.

        Raises:
            ValueError: the bytes are not such a record.
        """
        width, size = record[0] if record else 0, len(record) - 1 - 8 * HEADER_DOUBLES
        if width == DOUBLE_BYTES:
            return cls.unpack(record[1:])
        if size <= 0 or not 1 <= width <= MAX_STEP_BYTES or size % width:
            raise ValueError(f"a sum of {len(record)} bytes with numbers of {width} bytes each is none")
        # Whole steps of the grid, little-endian: they become the upper bytes of 64-bit integers, which carries their sign.
        steps = np.zeros((size // width, DOUBLE_BYTES), dtype=np.uint8)
        steps[:, DOUBLE_BYTES - width :] = np.frombuffer(record, dtype=np.uint8, offset=len(record) - size).reshape(-1, width)
        evidence = (steps.view("<i8").reshape(-1) >> (8 * (DOUBLE_BYTES - width))) / STEPS_OF_ONE
        return cls.unpack(record[1 : len(record) - size] + evidence.astype("<f8").tobytes())


@dataclass(frozen=True, slots=True)
class NewComparison:
    """One comparison to add to a user's sum.

    Attributes:
        event_id: what makes a repeat a repeat; 1 to 256 bytes of UTF-8 without control characters.
        digest: 16 bytes of a hash of the canonical body; the same event with another digest is a conflict.
        basis: what the evidence is relative to; each basis has a sum of its own.
        epoch: landmark to which `evidence` was scaled.
        observed_s: when the user chose, Unix seconds.
        evidence: `[E]` finite; already scaled and quantised.
        payload: opaque bytes kept with the log for export and replay.

    Raises:
        ValueError: a field is outside these bounds.
    """

    event_id: str
    digest: bytes
    basis: str
    epoch: int
    observed_s: float
    evidence: Vector
    payload: bytes = b""

    def __post_init__(self) -> None:
        checked_event_id(self.event_id)
        checked_name("basis", self.basis)
        if len(self.digest) != DIGEST_BYTES:
            raise ValueError(f"digest has {len(self.digest)} bytes, not {DIGEST_BYTES}")
        if self.evidence.ndim != 1 or not 1 <= self.evidence.size <= MAX_EVIDENCE_DOUBLES:
            raise ValueError(f"evidence has shape {self.evidence.shape}; it must be a vector of 1 to {MAX_EVIDENCE_DOUBLES} numbers")
        if not bool(np.isfinite(self.evidence).all()):
            raise ValueError(f"evidence holds {int((~np.isfinite(self.evidence)).sum())} numbers that are not finite")
        if abs(self.epoch) > _MAX_EPOCH or not np.isfinite(self.observed_s):
            raise ValueError(f"epoch {self.epoch} or observed_s {self.observed_s} is out of range")

    def packed(self) -> bytes:
        """Returns what scripts add: see `packed_doubles`."""
        return packed_doubles(self.epoch, self.observed_s, self.evidence)


def packed_doubles(epoch: int, observed_s: float, evidence: Vector) -> bytes:
    """Returns epoch, time and evidence as little-endian doubles; -0.0 becomes 0.0, so that a sum's bits do not depend on order."""
    return struct.pack("<2d", float(epoch), float(observed_s)) + (evidence.astype("<f8") + 0.0).tobytes()


def checked_event_id(event_id: str) -> str:
    """Returns `event_id` if it can be stored.

    Raises:
        ValueError: it is empty, longer than 256 bytes, or holds control characters or lone surrogates.
    """
    try:
        size = len(event_id.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise ValueError(f"event id holds a lone surrogate at character {error.start}") from error
    if not 1 <= size <= MAX_EVENT_ID_BYTES:
        raise ValueError(f"event id has {size} bytes; it must have 1 to {MAX_EVENT_ID_BYTES}")
    if _CONTROL.search(event_id):
        raise ValueError("event id holds a control character")
    return event_id


def is_event_id(event_id: str) -> bool:
    """Returns whether an event could be stored under this id."""
    try:
        checked_event_id(event_id)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """An event that was applied: the first eight bytes of its body's digest, and whether it was taken back since."""

    digest: bytes
    taken_back: bool

    def is_of(self, digest: bytes) -> bool:
        """Returns whether the event had a body with this digest."""
        return digest.startswith(self.digest)


@dataclass(frozen=True, slots=True)
class StoredSum:
    """Export: the sum under one basis."""

    basis: str
    sum: UserSum


@dataclass(frozen=True, slots=True)
class LoggedComparison:
    """Export: one comparison of the log, as it was added."""

    event_id: str
    basis: str
    epoch: int
    observed_s: float
    evidence: Vector
    payload: bytes


@dataclass(frozen=True, slots=True)
class ReplayedEvidence:
    """Export: what a replay added for one comparison under a basis that came later."""

    event_id: str
    basis: str
    epoch: int
    observed_s: float
    evidence: Vector


@dataclass(frozen=True, slots=True)
class TakenBack:
    """Export: the mark left by a comparison that was taken back; it holds nothing of the comparison but its event id."""

    event_id: str


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """Export: one decision whose record is still there."""

    decision_id: str
    record: bytes


@dataclass(frozen=True, slots=True)
class LastMember:
    """Export: the member that served the user last."""

    member: str


Exported = StoredSum | LoggedComparison | TakenBack | ReplayedEvidence | LastMember | StoredDecision


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one user may occupy; every store takes the same.

    Attributes:
        user_ttl_s: a user's sum, events and log go this long after the last comparison was added or taken back.
        max_log: comparisons (and marks of those taken back) kept per user; the oldest leave the log, neither the sum nor the known
            events. 0 keeps none: then nothing can be taken back, exported or replayed, and repeats are still refused.
        tombstone_s: how long a deletion is remembered.
        max_decisions: decisions kept per user; beyond it the oldest records go before their time.
        max_payload_bytes: largest payload of a comparison.
        max_decision_bytes: largest decision record.
    """

    user_ttl_s: float = 400 * 86_400.0
    max_log: int = 10_000
    max_decisions: int = 10_000
    max_payload_bytes: int = 65_536
    max_decision_bytes: int = 1_048_576
    tombstone_s: float = 86_400.0

    def __post_init__(self) -> None:
        if self.max_log < 0:
            raise ValueError(f"max_log is {self.max_log}; it must not be negative")
        if min(self.user_ttl_s, self.tombstone_s, self.max_decisions, self.max_payload_bytes, self.max_decision_bytes) <= 0:
            raise ValueError(f"every limit must be positive: {self}")

    @property
    def user_ttl_ms(self) -> int:
        """`user_ttl_s` in milliseconds, as Redis takes it."""
        return max(1, round(1000 * self.user_ttl_s))

    @property
    def tombstone_ms(self) -> int:
        """`tombstone_s`, likewise."""
        return max(1, round(1000 * self.tombstone_s))

    def check_payload(self, payload: bytes) -> None:
        """Raises ValueError if a comparison's payload is over its limit."""
        if len(payload) > self.max_payload_bytes:
            raise ValueError(f"payload has {len(payload)} bytes; at most {self.max_payload_bytes} are kept")

    def check_decision(self, record: bytes, ttl_s: float) -> None:
        """Raises ValueError if a decision record is over its limit, or its time to live is not positive."""
        if len(record) > self.max_decision_bytes:
            raise ValueError(f"decision record has {len(record)} bytes; at most {self.max_decision_bytes} are kept")
        if not 0.001 <= ttl_s <= 10 * 365 * 86_400.0:
            raise ValueError(f"ttl_s is {ttl_s}; it must be between 1 ms and ten years")
