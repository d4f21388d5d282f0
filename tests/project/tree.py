"""What git tracks, for the tests that hold the repository to its own rules."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def tracked() -> tuple[str, ...]:
    """Returns the tracked files and those that will be (neither ignored nor committed yet), as paths from the root."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"], check=True, capture_output=True, text=True
    )
    return tuple(sorted(path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file()))


def exported(target: Path) -> None:
    """Writes what a fresh clone would hold below `target`: tracked files and those that will be, links as links."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"], check=True, capture_output=True, text=True
    )
    for path in filter(None, listing.stdout.split("\0")):
        source = ROOT / path
        if source.is_symlink() or source.is_file():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / path, follow_symlinks=False)
