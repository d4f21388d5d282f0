"""Whether there is room on the disk where an embedded server writes, so that writes are refused before they meet its end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)

LEAST_FREE_BYTES = 1_048_576
LOOK_EVERY_S = 1.0


class DiskRoom:
    """The room that is left where a directory lies, as of the last second.

    Args:
        directory: where the server's files are.
        least_free_bytes: below so much there is none.
    """

    def __init__(self, directory: Path, least_free_bytes: int = LEAST_FREE_BYTES) -> None:
        self._directory = directory
        self._least_free_bytes = least_free_bytes
        self._looked_s: float | None = None
        self._lacks: str | None = None

    def lacks(self) -> str | None:
        """Returns why nothing should be written now; None if there is room."""
        now_s = time.monotonic()
        if self._looked_s is None or now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            try:
                self._look()
            except OSError as error:
                _log.error("embedded_redis_room_unknown", error=str(error))
        return self._lacks

    def _look(self) -> None:
        free = free_bytes(self._directory)
        before, self._lacks = self._lacks, None
        if free < self._least_free_bytes:
            least = f"at least {self._least_free_bytes // 1024:,} KiB are needed"
            self._lacks = f"{free // 1024:,} KiB are free where {self._directory.parent} lies, and {least}"
            if before is None:
                _log.error("embedded_redis_no_room", detail=self._lacks)
        elif before is not None:
            _log.info("embedded_redis_has_room_again", free_bytes=free)


def free_bytes(directory: Path) -> int:
    """Returns the room that is left where the directory lies, for those who are not root.

    Raises:
        OSError: the directory cannot be looked at.
    """
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
