"""A folder for the sockets and files of one service, which goes with its process: at its end, or at the next start after a kill.

`attune-xxxx/owner` is locked by the living owner: whose lock can be had is dead, and the folder goes. A folder without it is left alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attune.service.observe.logs import get_logger

_log = get_logger(__name__)
PREFIX = "attune-"
OWNER = "owner"


@contextmanager
def private_folder(where: Path) -> Iterator[Path]:
    """Gives a new folder that nobody else can read, and removes it; those of owners that were killed go first.

    Args:
        where: the folder in which it lies, such as `/tmp`; others may have theirs in it.

    Raises:
        OSError: it cannot be made.
    """
    _clear(where)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
    try:
        # Locked before it has its name: a lock that can be had always says that its owner is gone.
        descriptor, unnamed = tempfile.mkstemp(dir=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            Path(unnamed).rename(folder / OWNER)
            yield folder
        finally:
            os.close(descriptor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear(where: Path) -> None:
    """Removes the folders of dead owners; what cannot be looked at is somebody else's, and stays."""
    for folder in where.glob(f"{PREFIX}*"):
        try:
            if not folder.is_symlink() and folder.stat().st_uid == os.getuid() and _is_dead(folder / OWNER):
                shutil.rmtree(folder)
                _log.info("the folder of a process that was killed is removed", folder=str(folder))
        except OSError as error:
            _log.debug("a folder is not looked at", folder=str(folder), reason=error.strerror)


def _is_dead(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
