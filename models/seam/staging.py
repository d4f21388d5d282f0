"""Folders that appear whole or not at all: written under a hidden name beside their place, then renamed into it.

    .writing-<host>-<pid>-<random>/  ──rename──>  <name>/

A writer that is killed leaves its hidden folder behind; the next writer removes it. What is in a folder is not known here.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LEFT_BEHIND_S = 3600.0
"""Age after which a hidden folder is nobody's any more; writers touch theirs with every file."""

_ATTEMPTS = 16
_OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
_NAME = re.compile(r"\.writing-([0-9a-f]{8})-([0-9]+)-.*")


@contextmanager
def staging_folder(root: Path) -> Iterator[Path]:
    """Gives a fresh hidden folder below `root`, which is made if absent; it is removed at the end unless it was put in place."""
    root.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".writing-{_host()}-{os.getpid()}-", dir=root))
    try:
        _remove_left_behind(root, staging)
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_in_place(staging: Path, final: Path, is_whole: Callable[[Path], bool]) -> None:
    """Renames `staging` to `final`, unless an equal folder is there already; one that is not whole is replaced.

    Args:
        staging: from `staging_folder`, in the folder of `final`.
        final: a name that stands for its contents, so that whatever is whole there is equal.
        is_whole: whether the folder that is there is undamaged.

    Raises:
        OSError: the rename failed for another reason than that something is there.
    """
    for attempt in range(_ATTEMPTS):
        try:
            staging.rename(final)
        except OSError as error:
            # It was there, or another writer of the same was first; and it may be gone again by now, being replaced.
            if error.errno not in _OCCUPIED or attempt == _ATTEMPTS - 1:
                raise
        else:
            return
        if is_whole(final):
            return
        with staging_folder(final.parent) as aside:
            try:
                final.rename(aside / "damaged")
            except FileNotFoundError:  # another writer was faster at this too
                continue


def _host() -> str:
    # Process ids are of one machine; a volume may have several.
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _remove_left_behind(root: Path, mine: Path) -> None:
    now_s = mine.stat().st_mtime  # by the file system's clock, as the others
    for other in root.iterdir():
        name = _NAME.fullmatch(other.name)
        if other == mine or not other.name.startswith(".writing-"):
            continue
        try:
            age_s = now_s - other.stat().st_mtime
        except FileNotFoundError:
            continue
        dead = name is not None and name[1] == _host() and not _runs(int(name[2]))
        if dead or age_s > LEFT_BEHIND_S:
            shutil.rmtree(other, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
