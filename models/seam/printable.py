"""Text of a stranger, made fit to be said back or to be written to a log."""

from __future__ import annotations

MAX_NAME_CHARS = 100
MAX_VALUE_CHARS = 60


def printable(text: str, limit: int = MAX_NAME_CHARS) -> str:
    """Returns the text as valid Unicode without control characters, cut to `limit` characters."""
    if len(text) <= limit and text.isprintable() and text.isascii():
        return text
    whole = text.encode("utf-8", "replace").decode("utf-8")
    clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in whole[: limit + 1])
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def shortened(value: object) -> str:
    """Returns a value as Python writes it, cut to `MAX_VALUE_CHARS` characters."""
    shown = repr(value)
    return shown if len(shown) <= MAX_VALUE_CHARS else shown[: MAX_VALUE_CHARS - 3] + "..."
