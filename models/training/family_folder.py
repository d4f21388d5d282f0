"""A folder of families is replaced as a whole: written under a hidden name inside of it, then moved file by file, `heads.json` last.

    expect_writable(out)  ─ hours of training ─  with family_folder(out) as staging: …  ─> out/heads.json, …

A writer that fails or is killed leaves the families that were there before. What is in the files is not known here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attune.models.seam.staging import staging_folder

FILES = (
    "heads.safetensors",
    "trunk.json",
    "probes.jsonl",
    "cards.json",
    "people.json",
    "provenance.json",
    "report.md",
    "results.json",
    "heads.json",
)
"""What one training writes; a file that it does not write is an older training's, and goes."""


def expect_writable(folder: Path) -> None:
    """Does nothing where a folder can be made and written to; to be asked before the work, not after it.

    Raises:
        OSError: it cannot, with the name of what stands in its place or above it. Nothing is left behind either way.
    """
    found = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=found) as probe:
            probe.write(b"probe")
    except OSError as error:
        raise _named(error, found) from error


@contextmanager
def family_folder(out: Path) -> Iterator[Path]:
    """Gives a hidden folder to write into; its files are in `out` at the end, and those of an older training are gone.

    Raises:
        OSError: something could not be written, with the folder's name; the older files are as they were.
    """
    with staging_folder(out) as staging:
        try:
            yield staging
        except OSError as error:
            raise _named(error, out) from error
        (out / FILES[-1]).unlink(missing_ok=True)
        for name in FILES:
            if (staging / name).exists():
                (staging / name).replace(out / name)
            else:
                (out / name).unlink(missing_ok=True)


def _named(error: OSError, folder: Path) -> OSError:
    """Returns the error with a file name; what a full disk refuses names none, and a hidden folder's name says nothing to anybody."""
    return OSError(error.errno, error.strerror or str(error), str(folder))
