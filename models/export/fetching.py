"""A bundle brought from where it is kept into a folder of bundles, whole or not at all.

    manifest.json of the source ─> its files, one by one, into a folder aside ─> every hash checked ─> renamed into place ─> the link moved

Nothing has to be listed, since the manifest names every file; so a folder, a web server and an object store are read alike. Folders and
web servers need nothing more; `s3://`, `gs://` and `az://` go through obstore (extra `store`), which takes its keys from the usual
variables.
"""

from __future__ import annotations

import http.client
import os
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from attune.models.seam.artefacts import it_is
from attune.models.seam.bundle import MANIFEST, BundleInvalid, read_bundle
from attune.models.seam.json_lines import parse_json
from attune.models.seam.staging import put_in_place, staging_folder

STORES = ("s3", "gs", "az")
TIMEOUT_S = 60.0
PIECE = 1 << 20
MOST_MANIFEST = 1 << 24
"""Bytes of a manifest."""

Read = Callable[[str], Iterator[bytes]]


class NotFetched(Exception):
    """A source cannot be read; what was there before is untouched."""


def fetch_bundle(source: str, out: Path, link: str = "", told: Callable[[str], None] = lambda _: None) -> Path:
    """Returns the folder of the bundle in `out`, which has every file that its manifest names, with the right hashes.

    Args:
        source: a folder, or a `file://`, `http(s)://`, `s3://`, `gs://` or `az://` address of one that holds `manifest.json`.
        out: folder of bundles; made if absent. One that is there already and whole is not fetched again.
        link: name in `out` of a symbolic link that is moved to the bundle in one step; none if empty.
        told: what is being fetched, a line for each file.

    Raises:
        NotFetched: the source cannot be read.
        BundleInvalid: what was read is not the bundle that its manifest names; nothing was put in place, the link stands as it was.
    """
    read = _reader(source)
    written = b"".join(_at_most(read(MANIFEST), MOST_MANIFEST, f"{source}: {MANIFEST}"))
    try:
        manifest = parse_json(written)
        name, files = f"bundle-{_plain(manifest['id'])}", {str(file): int(entry["bytes"]) for file, entry in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleInvalid(f"{source}: {MANIFEST} is none of a bundle: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    final = out / name
    if _is_whole(final):
        told(f"{name} is there already")
    else:
        with staging_folder(out) as staging:
            for number, (file, size) in enumerate(files.items(), start=1):
                told(f"{number} of {len(files)}: {file}, {size / 1e6:,.1f} MB")
                _copy(read, _relative(file), staging, size, source)
            (staging / MANIFEST).write_bytes(written)
            read_bundle(staging)
            staging.chmod(0o755)
            put_in_place(staging, final, _is_whole)
    if link:
        _point(out / _plain(link), final.name)
    return final


def _copy(read: Read, file: PurePosixPath, into: Path, size: int, source: str) -> None:
    target = into / file
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as written:
        written.writelines(_at_most(read(str(file)), size, f"{source}: {file}"))
    if (found := target.stat().st_size) < size:
        raise BundleInvalid(f"{source}: {file} ended after {found:,} bytes; {MANIFEST} says {size:,}")


def _at_most(pieces: Iterator[bytes], size: int, name: str) -> Iterator[bytes]:
    """Yields pieces, and does not let a source fill the disk that goes on for ever."""
    left = size
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise BundleInvalid(f"{name} goes on after {size:,} bytes, which are all that it may have")
        yield piece


def _point(link: Path, name: str) -> None:
    """Lets a link name a folder beside it, in one step: who reads it meanwhile has the old or the new one."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(name)
    aside.replace(link)


def _is_whole(path: Path) -> bool:
    try:
        read_bundle(path)
    except BundleInvalid:
        return False
    return True


def _plain(name: Any) -> str:
    if not isinstance(name, str) or not name or name in {".", ".."} or set(name) & set("/\\\0"):
        raise BundleInvalid(f"{name!r} is no name of a folder")
    return name


def _relative(file: str) -> PurePosixPath:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file:
        raise BundleInvalid(f"{MANIFEST} names {file!r}, which lies outside of the bundle")
    return path


def _reader(source: str) -> Read:
    """Returns what reads a file of the source by its name, in pieces."""
    kind = urllib.parse.urlsplit(source).scheme
    if kind in STORES:
        return _object_reader(source)
    base = source if kind in {"file", "http", "https"} else Path(source).resolve().as_uri()
    told = "" if base == source else it_is(source)  # of an address it says to fetch it

    def read(file: str) -> Iterator[bytes]:
        address = f"{base.rstrip('/')}/{urllib.parse.quote(file)}"
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310  the schemes are checked above
                while piece := answer.read(PIECE):
                    yield piece
        except (OSError, http.client.HTTPException) as error:  # the latter where an answer ends too early, or is none
            why = getattr(error, "reason", error)
            said = why.strerror if isinstance(why, OSError) and why.strerror else str(why).strip() or type(why).__name__
            raise NotFetched(f"{address} cannot be read: {said}{told}") from error

    return read


def _object_reader(source: str) -> Read:
    try:
        import obstore  # noqa: PLC0415  the extra `store`
        from obstore.exceptions import BaseError  # noqa: PLC0415  the same
        from obstore.store import from_url  # noqa: PLC0415  the same
    except ModuleNotFoundError as error:
        raise NotFetched(f"{source} needs the extra `store`: pip install '.[store]' in a checkout") from error
    try:
        store = from_url(source)
    except (BaseError, ValueError) as error:  # a machine without certificates, a name that is none
        raise NotFetched(f"{source} cannot be read: {error}") from error

    def read(file: str) -> Iterator[bytes]:
        try:
            for piece in obstore.get(store, file).stream(PIECE):
                yield bytes(piece)
        except (BaseError, OSError) as error:
            raise NotFetched(f"{source}/{file} cannot be read: {error}") from error

    return read
