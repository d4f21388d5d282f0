"""Identifiers: UUIDv7 (RFC 9562), sortable by time; a candidate's id contains its decision's.

A decision id has its low six bits zero; its candidates' ids are the same number with `index + 1` in those bits. So the decision of a
candidate is computed and never looked up, and a forged candidate id can at most name a candidate that does not exist.
"""

from __future__ import annotations

import os
import re
import time

CANDIDATE_BITS = 6
MAX_CANDIDATES = 2**CANDIDATE_BITS - 1
_MASK = MAX_CANDIDATES
_CANONICAL = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-7[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}", re.ASCII)
"""One spelling is ours, and one version: a UUID of another may be an answer's text. `uuid.UUID`, which takes other spellings, costs several
times as much, and a request has some ten ids."""


def new_id(now_s: float | None = None) -> str:
    """Returns a new UUIDv7: 48 bits of milliseconds since 1970, then 74 random bits."""
    return _spelled(_version_7(now_s))


def new_decision_id(now_s: float | None = None) -> str:
    """Returns a new decision id: a UUIDv7 with its low six bits zero."""
    return _spelled(_version_7(now_s) & ~_MASK)


def candidate_id(decision_id: str, index: int) -> str:
    """Returns the id of a decision's candidate.

    Raises:
        ValueError: `index` is not within 0..62, or the decision's id is none.
    """
    if not 0 <= index < MAX_CANDIDATES:
        raise ValueError(f"a decision has at most {MAX_CANDIDATES} candidates; there is no place for index {index}")
    number = _parse(decision_id)
    if number is None:
        raise ValueError(f"{decision_id[:64]!r} is not an id")
    return _spelled(number | (index + 1))


def split_candidate(candidate: str) -> tuple[str, int] | None:
    """Returns the decision id and index that a candidate id holds, or None if it cannot be a candidate id."""
    number = _parse(candidate)
    if number is None or not number & _MASK:
        return None
    return _spelled(number & ~_MASK), (number & _MASK) - 1


def as_decision_id(text: str) -> str | None:
    """Returns a decision id in its canonical spelling, or None if the text cannot be one."""
    number = _parse(text)
    return None if number is None or number & _MASK else _spelled(number)


def _parse(text: str) -> int | None:
    return None if _CANONICAL.fullmatch(text) is None else int(text.replace("-", ""), 16)


def _spelled(number: int) -> str:
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _version_7(now_s: float | None) -> int:
    milliseconds = int((time.time() if now_s is None else now_s) * 1000)
    chance = int.from_bytes(os.urandom(10))
    return (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | (chance >> 68) << 64 | 0b10 << 62 | chance & (2**62 - 1)
