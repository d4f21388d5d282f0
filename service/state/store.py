"""What is kept of a user, and the operations on it, whoever keeps it.

    endpoints ── Comparison ──> Store.add_comparison ──> UserSum       RedisStore (redis_store.py): the real one
    endpoints ── decision id ─> Store.read_for_feedback                MemoryStore (memory_store.py): its twin for tests

A user is a sum: evidence vectors are added and subtracted, never recomputed, so events may arrive in any order, from any replica. This
layer does not know what an entry of the vector means; scaling, forgetting and quantisation happen in `models.seam.evidence`.
Alignment of epochs is the one exception, and it is an exact power of two.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.state.keys import UserKey, checked_name, user_tag

__all__ = [
    "Added",
    "Comparison",
    "DecisionPlace",
    "Deleted",
    "Exported",
    "Limits",
    "LoggedComparison",
    "Observe",
    "Store",
    "StoredDecision",
    "StoredSum",
    "TakenBack",
    "UserKey",
    "UserSum",
    "user_tag",
]

Vector = NDArray[np.float64]
Observe = Callable[[str, float, bool], None]
"""Told of every operation: its name, the seconds it took, whether it was answered. `wrong-user` counts replies refused by their seal."""

DecisionPlace = Literal["live", "expired", "foreign", "unknown"]

HEADER_DOUBLES = 4
DIGEST_BYTES = 16
EPOCH_BITS = 256
"""One epoch is 256 half-lives, so evidence of epoch e is 2^(256 (e - f)) of the same evidence under landmark f."""

MAX_EVIDENCE = 2048
MAX_EVENT_ID_BYTES = 256
_MAX_EPOCH = 2**40


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


@dataclass(frozen=True, slots=True)
class Comparison:
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
        if self.evidence.ndim != 1 or not 1 <= self.evidence.size <= MAX_EVIDENCE:
            raise ValueError(f"evidence has shape {self.evidence.shape}; it must be a vector of 1 to {MAX_EVIDENCE} numbers")
        if not bool(np.isfinite(self.evidence).all()):
            raise ValueError(f"evidence holds {int((~np.isfinite(self.evidence)).sum())} numbers that are not finite")
        if abs(self.epoch) > _MAX_EPOCH or not np.isfinite(self.observed_s):
            raise ValueError(f"epoch {self.epoch} or observed_s {self.observed_s} is out of range")

    def packed(self) -> bytes:
        """Returns epoch, time and evidence as little-endian doubles; -0.0 becomes 0.0, so that a sum's bits do not depend on order."""
        return struct.pack("<2d", float(self.epoch), float(self.observed_s)) + (self.evidence.astype("<f8") + 0.0).tobytes()


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
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in event_id):
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
class Added:
    """What `add_comparison` did, and the sum afterwards.

    `sum` is None only for a duplicate of an event that was learned under another basis, by a user without a sum under this one.
    """

    result: Literal["applied", "duplicate"]
    sum: UserSum | None


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion removed: keys of any kind, comparisons that the log still held, and decision records."""

    keys: int
    comparisons: int
    decisions: int


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
class TakenBack:
    """Export: the mark left by a comparison that was taken back; it holds nothing of the comparison but its event id."""

    event_id: str


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """Export: one decision whose record is still there."""

    decision_id: str
    record: bytes


Exported = StoredSum | LoggedComparison | TakenBack | StoredDecision


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one user may occupy; every store takes the same.

    Attributes:
        user_ttl_s: a user's sum, events and log go this long after the last comparison was added or taken back.
        max_log: comparisons (and marks of those taken back) kept per user; the oldest leave the log, not the sum.
        max_decisions: decisions kept per user; beyond it the oldest records go before their time.
        max_payload_bytes: largest payload of a comparison.
        max_decision_bytes: largest decision record.
    """

    user_ttl_s: float = 400 * 86_400.0
    max_log: int = 10_000
    max_decisions: int = 10_000
    max_payload_bytes: int = 65_536
    max_decision_bytes: int = 1_048_576

    def __post_init__(self) -> None:
        if min(self.user_ttl_s, self.max_log, self.max_decisions, self.max_payload_bytes, self.max_decision_bytes) <= 0:
            raise ValueError(f"every limit must be positive: {self}")

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


class Store(Protocol):
    """Everything the service asks of its state.

    Every operation may raise:
        StoreUnavailable: Redis did not answer, or answered with a record of somebody else. A write may or may not have happened, and
            sending it again with the same id is safe.
    """

    async def read_user(self, key: UserKey, basis: str) -> UserSum | None:
        """Returns the user's sum under `basis`, or None if there is none: the user is at the prior."""
        ...

    async def read_for_feedback(self, key: UserKey, basis: str, decision_ids: Sequence[str]) -> tuple[UserSum | None, Mapping[str, bytes]]:
        """Returns the user's sum and those of the decision records that are this user's and live, in one round trip."""
        ...

    async def write_decision(self, key: UserKey, decision_id: str, record: bytes, ttl_s: float) -> None:
        """Keeps a decision record for `ttl_s`, and for twice as long the knowledge that it existed and whose it was.

        Raises:
            ValueError: the record or `ttl_s` is out of bounds; nothing was written.
        """
        ...

    async def read_decision(self, tenant: str, decision_id: str) -> tuple[str, bytes]:
        """Returns the tag of the decision's user, and the record.

        Raises:
            UnknownDecision: no such decision was written for this tenant, or twice its time to live has passed.
            ExpiredCandidate: it was written, and its record has gone.
        """
        ...

    async def locate_decision(self, key: UserKey, decision_id: str) -> DecisionPlace:
        """Returns what became of a decision, as seen by this user; for the error path of feedback."""
        ...

    async def add_comparison(self, key: UserKey, comparison: Comparison) -> Added:
        """Adds the comparison to the sum once, however often it is sent; atomic, one round trip.

        Raises:
            EventConflict: the event id was used with another digest, or was taken back; nothing changed.
            ValueError: the stored evidence has another length, or the payload is over its limit; nothing changed.
        """
        ...

    async def take_back(self, key: UserKey, basis: str, event_id: str) -> UserSum | None:
        """Subtracts exactly what the event added, under the basis it was added to; atomic, one round trip.

        The event stays known as taken back, so that a late repeat of it is refused.

        Returns:
            The sum under `basis` afterwards; None if no comparison is left in it.

        Raises:
            UnknownEvent: the log does not hold the event, or it was taken back before; nothing changed.
        """
        ...

    def export(self, key: UserKey) -> AsyncIterator[Exported]:
        """Yields everything kept of a user: sums, then the log from its oldest entry, then decisions; read in pages."""
        ...

    async def delete_user(self, key: UserKey) -> Deleted:
        """Removes everything kept of a user. If it raises, calling it again finishes the work."""
        ...

    async def ping(self) -> None:
        """Returns when the store answers."""
        ...

    async def aclose(self) -> None:
        """Waits for commands under way, then closes every connection; afterwards every operation raises StoreUnavailable."""
        ...
