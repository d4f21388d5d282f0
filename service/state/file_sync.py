"""Syncing the append-only file once a second, without the server ever answering ahead of the kernel.

Redis has `appendfsync everysec` for this, but while its own sync runs it answers writes that it has not yet handed to the kernel: a server
killed then loses what it acknowledged. With `appendfsync no` every write reaches the kernel before its answer, so a killed server loses
nothing, and the sync that guards against a power cut is done here, by another thread on another file descriptor.
"""

from __future__ import annotations

import os
from pathlib import Path


class AppendOnlyFiles:
    """The parts of an append-only file in the server's directory, and what of them has been synced."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "appendonlydir"
        self._synced: dict[Path, tuple[int, int]] = {}

    def sync(self) -> int:
        """Returns how many parts had changed since the last call and are now on the disk.

        Raises:
            OSError: the disk failed; those parts count as changed the next time.
        """
        parts = {path: _state(path) for path in self._folder.glob("*")} if self._folder.is_dir() else {}
        changed = [path for path, state in parts.items() if state is not None and self._synced.get(path) != state]
        for path in changed:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # a rewrite replaced this part meanwhile
                continue
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._synced = {path: state for path, state in parts.items() if state is not None}
        return len(changed)


def _state(path: Path) -> tuple[int, int] | None:
    """Returns size and time of the last change of a file; None if it has gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
