"""The repository keeps its own rules: short files, no traces of a machine, a README tree that equals the disk."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from tests.project.tree import ROOT, readme, tracked

LONGEST_FILE = 350
CODE = {".py", ".lua", ".js", ".html", ".css", ".sh"}
TEXT = CODE | {".toml", ".md", ".yaml", ".yml", ".txt", ".cfg", ".ini", ""}

# Spelled in pieces so that this file does not contain what it looks for.
TRACES = [
    re.compile(pattern)
    for pattern in (
        r"(?<![\w.])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me/\w+|Us" + r"ers/\w+)/[\w.]",
        r"(?<![\w.])/o" + r"pt/(?:wh" + r"eels|py" + r"pi)",
        r"(?:find-" + r"links|extra-index-" + r"url|index-" + r"url)\s*=",
        r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
    )
]


def code_files() -> list[str]:
    return [path for path in tracked() if PurePosixPath(path).suffix in CODE]


@pytest.mark.parametrize("path", code_files())
def test_a_file_is_short_enough_to_be_read(path):
    lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE, f"{path} has {lines} lines, the limit is {LONGEST_FILE}"


@pytest.mark.parametrize("path", [path for path in tracked() if PurePosixPath(path).suffix in TEXT])
def test_a_file_carries_no_trace_of_a_machine_and_nothing_unfinished(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    found = [f"line {text[: match.start()].count(chr(10)) + 1}: {match.group()}" for trace in TRACES for match in trace.finditer(text)]
    assert found == []


def test_no_module_is_named_for_everything():
    forbidden = {"utils", "common", "helpers", "core", "managers", "misc", "util"}
    assert [path for path in tracked() if forbidden & set(PurePosixPath(path).with_suffix("").parts)] == []


# --- README ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def described() -> str:
    """Returns README.md."""
    text = readme()
    if text is None:
        pytest.skip("README.md is not written yet")
    return text


def listed_in(text: str) -> list[str]:
    """Returns the paths of the block fenced with ```tree: one a line, full from the root, then two spaces and a description."""
    block = re.search(r"^```tree\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, "README.md has no block that starts with ```tree"
    lines = [line for line in block.group(1).splitlines() if line.strip()]
    bare = [line for line in lines if not re.fullmatch(r"\s*\S+\s{2,}\S.*", line)]
    assert bare == [], "each line is a path, two spaces and a description"
    return [line.split()[0].rstrip("/") for line in lines]


def test_every_path_of_the_readme_tree_exists(described):
    paths = tracked()
    known = set(paths) | {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    assert [path for path in listed_in(described) if path not in known] == []


def test_the_readme_tree_lists_every_top_level_folder_and_every_module(described):
    paths = tracked()
    folders = {path.split("/")[0] for path in paths if "/" in path}
    modules = {
        path.removesuffix("/__init__.py") for path in paths if path.startswith(("service/", "models/")) and path.endswith((".py", ".lua"))
    } - {"service", "models"}
    listed = set(listed_in(described))
    # A package of several small files may be listed as one folder.
    missing = sorted(
        path for path in folders | modules if path not in listed and str(PurePosixPath(path).parent) not in listed - {"service", "models"}
    )
    assert missing == []


def test_every_setting_stands_in_the_readme_table_with_its_default(described):
    from attune.service.settings import describe_settings

    rows = {}
    for line in described.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if len(cells) >= 2 and re.fullmatch(r"`ATTUNE_[A-Z_]+`", cells[0]):
            rows[cells[0].strip("`")] = cells[1].strip("`")
    assert rows == {row.variable: row.default for row in describe_settings()}


def test_every_make_target_is_explained_by_make_help():
    import subprocess

    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony
    shown = subprocess.run(["make", "-C", str(ROOT), "--no-print-directory", "help"], check=True, capture_output=True, text=True).stdout
    assert {line.split()[1] for line in shown.splitlines()} == set(phony.group(1).split())
    assert all(len(line.split()) > 4 for line in shown.splitlines())
