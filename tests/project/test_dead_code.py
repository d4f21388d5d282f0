"""Nothing public is kept alive by its own tests alone."""

from __future__ import annotations

import ast
import re
from collections import Counter

from tests.project.tree import ROOT, tracked

SOURCES = ("service/", "models/", "demo/", "studies/", "loadtest/", "src/attune/client/")
CALLED_BY_OTHERS = {
    "main": "entry points and scripts",
}
"""Names that something outside of the repository calls, with who does."""


def words_of(path: str) -> Counter[str]:
    return Counter(re.findall(r"[A-Za-z_]\w*", (ROOT / path).read_text(encoding="utf-8")))


def defined_in(path: str) -> set[str]:
    """Returns the public functions and classes of a module, but for those that a decorator hands to a framework."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    plain = [node for node in body if isinstance(node, kinds) and not node.name.startswith("_")]
    return {node.name for node in plain if not any(_registers(decorator) for decorator in node.decorator_list)}


def _registers(decorator: ast.expr) -> bool:
    """Whether a decorator is a method of an object, as `@router.get(...)` and `@app.command(...)` are."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(target, ast.Attribute)


def test_every_public_name_is_used_by_something_that_is_no_test():
    paths = [path for path in tracked() if path.endswith(".py") and path.startswith(SOURCES)]
    readers = [path for path in tracked() if path.endswith((".py", ".sh", ".toml", "Makefile", ".yaml")) and not path.startswith("tests/")]
    used: Counter[str] = Counter()
    for path in readers:
        used.update(words_of(path))
    unused = {path: sorted(name for name in defined_in(path) - CALLED_BY_OTHERS.keys() if used[name] < 2) for path in paths}
    assert {path: names for path, names in unused.items() if names} == {}
