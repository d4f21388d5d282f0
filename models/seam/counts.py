"""Counts in sentences for people: `1 row is bad`, `2 rows are bad`."""

from __future__ import annotations


def counted(count: int, one: str, several: str = "") -> str:
    """Returns the count and what is counted, in the number that goes with it.

    Args:
        count: of things.
        one: their name, and whatever else of the sentence goes by the number, for one thing.
        several: likewise for none or several; `one` with an `s` if empty.
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def all_counted(count: int, one: str, several: str = "") -> str:
    """Returns `all 2 rows are bad`, and `the one row is bad` of one alone; arguments as of `counted`."""
    return f"the one {one}" if count == 1 else f"all {counted(count, one, several)}"
