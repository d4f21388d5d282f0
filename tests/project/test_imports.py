"""What may be imported where, asked of fresh interpreters and of the source."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.tree import ROOT, tracked

HEAVY = {"torch", "transformers", "peft"}


def loaded_by(statement: str) -> set[str]:
    """Returns the top-level modules in a fresh interpreter after a statement."""
    program = f"{statement}\nimport sys\nprint(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(run.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("module", ["attune.service.app", "attune.service.__main__", "attune.models.__main__"])
def test_starting_needs_no_torch(module):
    assert loaded_by(f"import {module}") & HEAVY == set()


@pytest.mark.slow
def test_a_table_of_ties_alone_is_refused_without_torch(tmp_path):
    row = {"user": "u", "prompt": "p", "chosen": "a", "rejected": "b", "tie": True}
    table = tmp_path / "ties.jsonl"
    table.write_text("\n".join(json.dumps(row | {"rejected": f"b{number}"}) for number in range(9)), encoding="utf-8")
    asked = ["train", "families", str(table), "--out", str(tmp_path / "made")]
    refused = f"""
from typer.testing import CliRunner
from attune.models.__main__ import app
shown = CliRunner().invoke(app, {asked!r})
assert shown.exit_code == 1, shown.output
assert "all 9 comparisons are ties: there is nothing to learn" in shown.output, shown.output
"""
    assert loaded_by(refused) & HEAVY == set()


def test_the_command_line_shows_its_help_without_the_server():
    assert loaded_by("import attune.service.__main__") & {"fastapi", "pydantic", "onnxruntime", "redis", "numpy"} == set()


@functools.cache
def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def test_the_seam_imports_numpy_tokenizers_and_the_standard_library_only():
    files = sorted((ROOT / "models" / "seam").rglob("*.py"))
    assert len(files) > 20
    allowed = {*sys.stdlib_module_names, "numpy", "tokenizers"}
    outside = [(path.name, name) for path in files for name in imports_of(path) if name.split(".")[0] not in allowed]
    assert [(path, name) for path, name in outside if not name.startswith("attune.models.seam")] == []


@pytest.mark.slow
def test_torch_is_named_only_where_local_members_are():
    files = sorted((ROOT / "service").rglob("*.py"))
    assert len(files) > 100
    others = [path for path in files if not (path.parent.name == "members" and path.name.startswith("local"))]
    assert [(str(path), name) for path in others for name in imports_of(path) if name.split(".")[0] in HEAVY] == []


@pytest.mark.slow
def test_no_file_imports_our_source_folders_by_their_own_names():
    # A module that is imported under two names has two copies of every class.
    paths = [path for path in tracked() if path.endswith(".py")]
    assert len(paths) > 500
    assert [(path, name) for path in paths for name in imports_of(ROOT / path) if name.split(".")[0] in {"service", "models"}] == []
