"""The repository keeps its own rules: short files, no traces of a machine, pages whose links and tables are true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import PurePosixPath

from tests.project.tree import ROOT, tracked

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


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_every_file_is_short_enough_to_be_read():
    lines = {path: text_of(path).count("\n") for path in tracked() if PurePosixPath(path).suffix in CODE}
    assert len(lines) > 500
    assert {path: count for path, count in lines.items() if count > LONGEST_FILE} == {}


def test_no_file_carries_a_trace_of_a_machine_or_anything_unfinished():
    texts = {path: text_of(path) for path in tracked() if PurePosixPath(path).suffix in TEXT}
    assert len(texts) > 500
    assert [place for path, text in texts.items() for place in traces_in(path, text)] == []


def traces_in(path: str, text: str) -> list[str]:
    """Returns where a text has what it must not have, with what it is."""
    return [
        f"{path} line {text[: match.start()].count(chr(10)) + 1}: {match.group()}" for trace in TRACES for match in trace.finditer(text)
    ]


def test_no_module_is_named_for_everything():
    forbidden = {"utils", "common", "helpers", "core", "managers", "misc", "util"}
    assert [path for path in tracked() if forbidden & set(PurePosixPath(path).with_suffix("").parts)] == []


# --- README and the pages that follow from the code -------------------------------------------------------------------


def test_the_readme_is_short_enough_to_be_read_before_anything_is_tried():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 2000


def test_every_relative_link_of_a_page_leads_to_a_file():
    pages = [path for path in tracked() if path.endswith(".md") and not path.startswith("tests/")]
    local = [(path, link) for path in pages for link in links_of(path) if not re.match(r"[a-z]+:", link)]
    assert len(local) > 20
    assert [(path, link) for path, link in local if not (ROOT / path).parent.joinpath(link).exists()] == []


def links_of(path: str) -> list[str]:
    """Returns where the links of a page lead, without those of its code blocks and without anchors."""
    text = re.sub(r"^```.*?^```", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\[[^\]]*\]\(([^)\s#]+)(?:#[^)\s]*)?\)", text)


def test_decimals_are_written_with_their_zero():
    # `.72` is read as 72 by some and overlooked by others.
    pages = [path for path in tracked() if path.endswith(".md") and not path.startswith(("models/LOG.md", "studies/", "tests/"))]
    bare = {path: re.findall(r"(?<![\w.\d/`*])\.\d{2,}\b", (ROOT / path).read_text(encoding="utf-8")) for path in pages}
    assert {path: found for path, found in bare.items() if found} == {}


def test_the_generated_pages_are_what_the_code_says_now():
    run = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_setting_stands_in_the_reference_with_its_default():
    from attune.service.setting_rows import describe_settings

    rows = {}
    for line in (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if len(cells) >= 2 and re.fullmatch(r"`ATTUNE_[A-Z_]+`", cells[0]):
            rows[cells[0].strip("`")] = cells[1].strip("`")
    assert rows == {row.variable: row.default for row in describe_settings()}


def test_every_page_of_the_documentation_is_in_its_navigation():
    pages = {path.removeprefix("docs/") for path in tracked() if path.startswith("docs/") and path.endswith(".md")}
    named = set(re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert pages == named


def test_every_make_target_is_explained_by_make_help():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony
    shown = subprocess.run(["make", "-C", str(ROOT), "--no-print-directory", "help"], check=True, capture_output=True, text=True).stdout
    assert {line.split()[1] for line in shown.splitlines()} == set(phony.group(1).split())
    assert all(len(line.split()) > 4 for line in shown.splitlines())
