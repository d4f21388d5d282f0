"""Single values of a table's row: users, numbers, times, flags and winners, as JSON has them or as text, which is all that CSV has."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal

from attune.models.data.preferences import ANONYMOUS
from attune.models.data.transcripts import ValueInvalid

Winner = Literal["a", "b", "tie"]

MOST_SHOWN = 60
"""Characters of a value that an error shows."""

_LATEST_S = 1e11
"""A time beyond the year 5138 is in milliseconds."""
_EARLIEST_S = datetime(1, 1, 1, tzinfo=UTC).timestamp()
_NOBODY = frozenset({"NA", "N/A", "<NA>", "NaN", "nan", "None", "null", "NULL", "undefined"})
"""What programs write into a cell of texts where there is nothing: a user of that name would be everybody who is not known."""
_SIDE = re.compile(r"(?:(?:model|response|answer|assistant|completion|output|option|candidate)[ _-]?)?([ab])")
_NEITHER = re.compile(r"tie\b.*|tie_.*|tied|draw|equal|same|both[ _-]?(?:bad|good)|neither")


def column_of(values: Any, name: str) -> Any:
    """Returns the value of a column; `a.b.0` is looked for inside of column `a` where there is no column of that whole name."""
    if name in values:
        return values[name]
    found = values
    for step in name.split("."):
        if isinstance(found, dict):
            found = found.get(step)
        elif isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found


def user_of(value: object, column: str) -> str | None:
    """Returns a user's name; None where nobody knows whose the row is.

    Raises:
        ValueInvalid: it is neither a name nor a number, or a name by which rows without a user are told apart.
    """
    if value is None:
        return None
    if isinstance(value, int | Decimal) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    if isinstance(value, float) and (math.isnan(value) or value.is_integer()):
        # What numbers become in a table of floats in which one of them is missing.
        return None if math.isnan(value) else str(int(value))
    if not isinstance(value, str) or not value.strip():
        raise ValueInvalid(column, f"is {value!r}; a name or a number is needed, or null where the user is not known")
    if value.strip() in _NOBODY:
        raise ValueInvalid(column, f"is {value!r}, which stands for nothing at all; leave it empty, or null, where the user is not known")
    if value.startswith(ANONYMOUS):
        raise ValueInvalid(column, f"is {value!r}; names that begin with {ANONYMOUS!r} stand for rows without a user")
    return value


def number_of(value: object, column: str) -> float:
    """Returns a finite number.

    Raises:
        ValueInvalid: it is none.
    """
    found = _as_number(value)
    if found is None or not math.isfinite(found):
        raise ValueInvalid(column, f"is {_short(value)}; a finite number is needed")
    return found


def is_number(value: object) -> bool:
    """Returns whether a value is a number, or a text that spells one."""
    return _as_number(value) is not None


def time_of(value: object, column: str) -> float | None:
    """Returns Unix seconds of Unix seconds or of RFC 3339 (`2026-01-31T12:00:00Z`; UTC where no offset is said); None for none.

    Raises:
        ValueInvalid: it is neither, or milliseconds, or before the year 1.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    found = _as_number(value)
    if found is None and isinstance(value, str):
        try:
            at = datetime.fromisoformat(value.strip())
        except ValueError:
            at = None
        if at is not None:
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if found is None or not math.isfinite(found):
        raise ValueInvalid(column, f"is {_short(value)}; a time is needed, as RFC 3339 or Unix seconds")
    if abs(found) > _LATEST_S:
        raise ValueInvalid(column, f"is {value!r}; a time in seconds is needed, and this looks like milliseconds")
    if found < _EARLIEST_S:
        raise ValueInvalid(column, f"is {_short(value)}; a time of the year 1 or later is needed")
    return found


def flag_of(value: object, column: str) -> bool:
    """Returns true or false; false for none.

    Raises:
        ValueInvalid: it is neither.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    if _as_number(value) in {0.0, 1.0}:  # what a table of numbers makes of a column of flags, also as text
        return bool(_as_number(value))
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    raise ValueInvalid(column, f"is {value!r}; true or false is needed")


def winner_of(value: object, column: str) -> Winner:
    """Returns which of two answers won: `a`, `b` or `tie`, also as `model_a`, `Response B`, `tie (bothbad)` or `both_bad`.

    Raises:
        ValueInvalid: it is none of them.
    """
    word = value.strip().lower() if isinstance(value, str) else ""
    if side := _SIDE.fullmatch(word):
        return "a" if side.group(1) == "a" else "b"
    if _NEITHER.fullmatch(word):
        return "tie"
    why = "" if not is_number(value) else "; of numbers nobody can tell whether they begin with 0 or 1: rename them"
    raise ValueInvalid(column, f"is {value!r}; a, b or tie is needed{why}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _as_number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if not isinstance(value, int | float | Decimal | str) or "_" in str(value):  # which Python reads over, as in 1_000
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf
    except ValueError:
        return None
