"""How every report is written: tables, intervals and bars in Markdown, figures in JSON, and what made them.

    results ─> table, interval, bar ─> report.md        results ─> results.json        made_by ─> version and commit

Nothing here knows what is measured. Decimals have a leading zero; an interval is the mean and its two ends.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attune
from attune.command_line import finite

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, if this file lies in one."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    return [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(row)} |" for row in rows)]


def interval(value: Mapping[str, float | None] | Mapping[str, float] | None, digits: int = 3, sign: str = "") -> str:
    """Returns a mean with its interval, `0.903 [0.890, 0.915]`; `-` for None."""
    if value is None or value["mean"] is None:
        return "-"
    mean, low, high = (f"{value[key]:{sign}z.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def bar(what: str, found: str, *, kept: bool) -> str:
    """Returns one line that says whether a bar is met."""
    return f"- {'met' if kept else 'NOT MET'}: {what}: {found}"


def write_json(path: Path, document: Any) -> None:
    """Writes a document with sorted keys, one value a line, in one step; folders are made if absent."""
    write_text(path, json.dumps(document, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text in one step: whoever reads sees the old file or the new one. Folders are made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def write_report(out: Path, results: Any, report: str, *, names: tuple[str, str] = ("results.json", "report.md")) -> None:
    """Writes the figures and the report of one study into `out`; `names` are those of the two files."""
    write_json(out / names[0], finite(results))
    write_text(out / names[1], report)


def made_by() -> str:
    """Returns what made a result: this package's version and, from a checkout of Attune, its commit and whether files differ from it.

    Installed inside somebody else's repository it does not name their commit.
    """
    commit = commit_of(ROOT)
    return f"{attune.__version__}, {commit}" if commit else attune.__version__


def commit_of(root: Path) -> str | None:
    """Returns the commit of the checkout of Attune at `root`, with a word where files differ; None for any other folder."""
    try:
        if tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"] != "attune-serve":
            return None
        if not (root / ".git").exists():
            return None
        commit = _git(root, "rev-parse", "HEAD")
        return f"commit {commit}, changed since" if _git(root, "status", "--porcelain", "--untracked-files=no") else f"commit {commit}"
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(  # noqa: S603 - fixed words
        ["git", "-C", str(root), *words],  # noqa: S607 - whichever git the user has
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
