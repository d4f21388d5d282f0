"""The directory in which an embedded Redis keeps its files: who may use it, where its socket is, and what an earlier owner left.

Two locks, both released by the kernel however their holder ends. `attune.lock` is held by the Attune that uses the directory.
`server.lock` is handed down to the server as an open file, so it is free only when neither an Attune nor any server of this directory
is alive: that is how a server that outlived a killed Attune is noticed before a second one writes to the same append-only file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import threading
from pathlib import Path

MAX_SOCKET_PATH_BYTES = 100
"""`sun_path` has 108 bytes on Linux and 104 on macOS, with the final zero."""


class EmbeddedRedisError(Exception):
    """The embedded Redis cannot start; the message says why and what to change."""


class DataDirInUse(EmbeddedRedisError):
    """Another process uses the data directory."""


def prepare(data_dir: Path) -> Path:
    """Returns the directory of the embedded Redis under `data_dir`, made if need be, readable by its owner only.

    Raises:
        EmbeddedRedisError: it cannot be made or is not writable.
    """
    directory = directory_of(data_dir)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise EmbeddedRedisError(f"the data directory {directory} cannot be used: {error.strerror}") from error
    return directory


def check_unused(data_dir: Path) -> None:
    """Returns if this process may write to the data directory and no other Attune has it at this moment; keeps nothing for later.

    Raises:
        DataDirInUse: another one has it.
        EmbeddedRedisError: it cannot be made or written to.
    """
    lock = Lock(prepare(data_dir) / "attune.lock")
    try:
        take(lock, data_dir)
    finally:
        lock.close()


def take(lock: Lock, data_dir: Path) -> None:
    """Takes the lock that the one Attune of a data directory holds.

    Raises:
        DataDirInUse: another one has it.
    """
    if not lock.take():
        raise DataDirInUse(
            f"the data directory {data_dir} is used by the Attune with process id {lock.noted()}; stop it or set ATTUNE_DATA_DIR"
        )


def directory_of(data_dir: Path) -> Path:
    """Returns where the embedded Redis of a data directory keeps its files, whether that is there or not."""
    return data_dir.absolute() / "redis"


def is_url_of(data_dir: Path, url: str) -> bool:
    """Returns whether a store's URL is that of the embedded Redis of a data directory, which another process may run.

    Raises:
        EmbeddedRedisError: see `socket_path`.
    """
    directory = directory_of(data_dir)
    return url.startswith("unix://") and directory.is_dir() and url == f"unix://{socket_path(directory)}"


def socket_path(directory: Path) -> Path:
    """Returns where the server of this directory listens.

    That is inside it, or, if that name is too long for a socket, in a private directory of the run-time folder whose name is computed
    from the directory's, so that every later Attune finds the same. Nothing is made: see `make_socket_place`.

    Raises:
        EmbeddedRedisError: no place has a name that is short enough.
    """
    inside = directory / "redis.sock"
    if len(os.fsencode(inside)) <= MAX_SOCKET_PATH_BYTES:
        return inside
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    for root in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - checked for its owner below
        private = Path(root, f"attune-{os.getuid()}-{name}") if root and os.access(root, os.W_OK) else None
        if private is not None and len(os.fsencode(private / "redis.sock")) <= MAX_SOCKET_PATH_BYTES:
            return private / "redis.sock"
    raise EmbeddedRedisError(
        f"the data directory {directory} is too long a name for a socket, and there is no shorter place; set ATTUNE_REDIS_URL"
    )


def make_socket_place(socket: Path) -> None:
    """Makes the directory that a socket lies in, if need be.

    Raises:
        EmbeddedRedisError: it exists and others can read it, or it belongs to somebody else.
    """
    private = socket.parent
    private.mkdir(mode=0o700, exist_ok=True)
    found = private.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EmbeddedRedisError(f"{private} is not a directory that only this user can read; remove it")


def leave_socket_place(socket: Path, directory: Path) -> None:
    """Removes the private directory of a socket that could not lie in `directory`, unless a server still listens there."""
    if socket.parent != directory:
        with contextlib.suppress(OSError):
            socket.parent.rmdir()


def sync_files(directory: Path) -> int:
    """Returns how many parts of the append-only file are on the disk now: all that were there.

    The server is run with `appendfsync no`, so that every write is in the kernel before its answer: with `everysec` it answers while its
    own sync runs, before it has handed over what it answered. The sync that guards against a power cut is therefore made here.

    Raises:
        OSError: the disk failed.
    """
    synced = 0
    for path in (directory / "appendonlydir").glob("*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # a rewrite replaced this part meanwhile
            continue
        try:
            os.fsync(descriptor)
            synced += 1
        finally:
            os.close(descriptor)
    return synced


class Lock:
    """An advisory lock on a file, held until closed; a child that inherits `fd` holds it too.

    Raises:
        EmbeddedRedisError: the file cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedRedisError(f"the data directory {path.parent} cannot be used: {error.strerror}") from error

    def take(self) -> bool:
        """Returns whether the lock is now held; does not wait."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def wait(self, timeout_s: float) -> bool:
        """Returns whether the lock was won within `timeout_s`; the kernel wakes a thread that waits for it."""
        loop = asyncio.get_running_loop()
        won: asyncio.Future[bool] = loop.create_future()

        def settle() -> None:
            if not won.done():
                won.set_result(True)

        def block() -> None:
            fcntl.flock(duplicate, fcntl.LOCK_EX)
            os.close(duplicate)
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle)

        # A duplicate shares the lock, and stays valid should `close` come first; a daemon thread does not keep the process alive.
        duplicate = os.dup(self.fd)
        threading.Thread(target=block, name=f"wait for {self.path.name}", daemon=True).start()
        try:
            async with asyncio.timeout(timeout_s):
                return await won
        except TimeoutError:
            return False

    def note(self, text: str) -> None:
        """Writes who holds the lock, for the message of whoever does not get it."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode("ascii"), 0)

    def noted(self) -> str:
        return os.pread(self.fd, 64, 0).decode("ascii", "replace").strip()

    def close(self) -> None:
        os.close(self.fd)
