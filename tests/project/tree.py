"""What git tracks, for the tests that hold the repository to its own rules."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[str]:
    """Returns the tracked files and those that will be (neither ignored nor committed yet), as paths from the root."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"], check=True, capture_output=True, text=True
    )
    return sorted(path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file())


def readme() -> str | None:
    """Returns the text of README.md; None while there is none."""
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else None
