"""What may be imported where, asked of fresh interpreters and of the source."""

from __future__ import annotations

import ast
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


def test_the_command_line_shows_its_help_without_the_server():
    assert loaded_by("import attune.service.__main__") & {"fastapi", "pydantic", "onnxruntime", "redis", "numpy"} == set()


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "models" / "seam").rglob("*.py")), ids=lambda path: path.name)
def test_the_seam_imports_numpy_tokenizers_and_the_standard_library_only(path):
    outside = {name for name in imports_of(path) if name.split(".")[0] not in {*sys.stdlib_module_names, "numpy", "tokenizers"}}
    assert {name for name in outside if not name.startswith("attune.models.seam")} == set()


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "service").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_is_named_only_where_local_members_are(path):
    if path.parent.name == "members" and path.name.startswith("local"):
        return
    assert {name.split(".")[0] for name in imports_of(path)} & HEAVY == set()


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in tracked() if path.endswith(".py")])
def test_no_file_imports_our_source_folders_by_their_own_names(path):
    # A module that is imported under two names has two copies of every class.
    assert {name for name in imports_of(ROOT / path) if name.split(".")[0] in {"service", "models"}} == set()
