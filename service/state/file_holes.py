"""Holes of zeros in the store's append-only file, which a full disk leaves there and no server reads.

    short write ─> cut back ─> room again ─> written on at the old place, behind zeros ─> "Bad file format" at the next start

A server that has rewritten its file since it began appends to the new one without O_APPEND (Redis from 7.0 on, Valkey). What stands behind
the zeros is whole and acknowledged. Here the zeros become comments, of which the format has lines; the file keeps its length, so a disk
that is still full hardly matters.
"""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

_ZEROS = re.compile(rb"\x00+")
_LINE_BYTES = 64
"""Of a comment; servers read a line into 128 bytes."""


def fill_holes(directory: Path) -> int:
    """Returns how many holes were filled in the files below this directory of a server that does not run.

    A file that is no sequence of commands even with its holes filled is left as it is.

    Raises:
        OSError: a file cannot be read, or there is no room for what is written into a hole; calling again goes on.
    """
    return sum(_fill(path) for path in sorted((directory / "appendonlydir").glob("*.incr.aof")) if path.stat().st_size)


def _fill(path: Path) -> int:
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            holes, size = _holes(content), len(content)
        for start, end in holes:
            if end == size:  # nothing was written behind it
                os.ftruncate(file.fileno(), start)
            else:
                os.pwrite(file.fileno(), _filling(end - start), start)
        if holes:
            os.fsync(file.fileno())
    return len(holes)


def _filling(size: int) -> bytes:
    """Returns `size` bytes of comments; for a single one, in which there is no room for a line, that byte and the one after it."""
    if size == 1:
        return b"*0"  # what follows is `*N`, and becomes `*0N`
    lines = b""
    while size:
        # No line of one byte is left over: it would not end.
        line = min(size, _LINE_BYTES - (size == _LINE_BYTES + 1))
        lines += b"#" + b"-" * (line - 2) + b"\n"
        size -= line
    return lines


def _holes(content: mmap.mmap) -> list[tuple[int, int]]:
    """Returns where zeros begin and end between two commands; none if anything else is between them."""
    at, found = 0, list[tuple[int, int]]()
    while at < len(content):
        hole = _ZEROS.match(content, at)
        if hole is not None:
            found.append(hole.span())
            following = hole.end()
            if following < len(content) and content[following : following + 1] != b"*":
                return []
        else:
            following = _after(content, at)
            if following == 0:
                return []
        at = following
    return found


def _after(content: mmap.mmap, at: int) -> int:
    """Returns where the command or comment at this place ends, behind the file where it is cut off; 0 if it is neither."""
    if content[at : at + 1] not in {b"*", b"#"}:
        return 0
    end = content.find(b"\n", at)
    if end < 0:
        return len(content)
    if content[at : at + 1] == b"#":
        return end + 1
    try:
        words = int(content[at + 1 : end])
        for _ in range(words):
            start, end = end + 1, content.find(b"\n", end + 1)
            if end < 0:
                return len(content)
            if content[start : start + 1] != b"$":
                return 0
            end += int(content[start + 1 : end]) + len(b"\r\n")
    except ValueError:
        return 0
    return min(end + 1, len(content))
