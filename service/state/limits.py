"""Bounds on what one user may occupy, and on how long anything is kept."""

from __future__ import annotations

from dataclasses import dataclass


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
