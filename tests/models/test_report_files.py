"""How reports are written, and what they say they were made by."""

from __future__ import annotations

import json
import subprocess

from attune import __version__
from attune.models.measuring.report_files import bar, commit_of, interval, made_by, table, write_report


def git(folder, *words):
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def test_numbers_have_a_leading_zero_and_an_interval_its_ends():
    assert interval({"mean": 0.5, "low": 0.25, "high": 0.7512}) == "0.500 [0.250, 0.751]"
    assert interval({"mean": 0.5, "low": -0.25, "high": 0.75}, digits=1, sign="+") == "+0.5 [-0.2, +0.8]"
    assert interval({"mean": -0.01, "low": -0.04, "high": 0.0}, digits=1, sign="+") == "+0.0 [+0.0, +0.0]"
    assert interval({"mean": -0.0004, "low": -0.1, "high": 0.0}) == "0.000 [-0.100, 0.000]"
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]
    assert bar("it holds", "0.9", kept=False) == "- NOT MET: it holds: 0.9"


def test_a_report_and_its_figures_lie_side_by_side_and_nothing_else_does(tmp_path):
    write_report(tmp_path / "new", {"b": 1, "a": [2], "c": float("inf"), "d": [float("nan")]}, "# It\n")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.md", "results.json"]
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == {"a": [2], "b": 1, "c": None, "d": [None]}


def test_a_commit_is_named_only_for_a_checkout_of_attune_and_says_where_files_differ(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "somebody-elses"\n')
    git(tmp_path, "add", "-A")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one")
    assert commit_of(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "attune-serve"\n')
    assert str(commit_of(tmp_path)).endswith(", changed since")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "two")
    assert str(commit_of(tmp_path)).startswith("commit ")
    assert "changed" not in str(commit_of(tmp_path))
    assert commit_of(tmp_path / "none") is None
    assert made_by().startswith(__version__)
