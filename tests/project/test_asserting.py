"""Every test asserts something: by itself, or through a helper of the tests that does."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.project.tree import ROOT, tracked

EXPECTING = {"raises", "warns", "fail", "validate_response"}
"""Of pytest and schemathesis: they assert as `assert` does."""
WAITING = {"until", "says", "wait", "wait_for"}
"""What fails by not coming to its end in time."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(*folders: str) -> Iterator[tuple[str, Function]]:
    for path in tracked():
        if path.endswith(".py") and path.startswith(folders):
            for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
                if isinstance(node, Function):
                    yield path, node


def called(function: Function) -> tuple[set[str], set[str]]:
    """Returns the names of functions and of methods that are called."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {one.id for one in calls if isinstance(one, ast.Name)}, {one.attr for one in calls if isinstance(one, ast.Attribute)}


def asserts(function: Function) -> bool:
    names = set.union(*called(function))
    words = any(isinstance(node, ast.Assert) for node in ast.walk(function))
    return words or bool(names & (EXPECTING | WAITING)) or any(name.startswith("assert_") for name in names)


def test_every_test_asserts_something():
    ours = list(functions("tests/"))
    # A method that the product has as well says nothing of who was called.
    elsewhere = {function.name for _, function in functions("service/", "models/", "src/")}
    helpers = {function.name for _, function in ours if not function.name.startswith("test_") and asserts(function)}
    known = 0
    while len(helpers) > known:
        known = len(helpers)
        for _, function in ours:
            names, methods = called(function)
            if not function.name.startswith("test_") and (names & helpers or methods & helpers - elsewhere):
                helpers.add(function.name)
    silent = []
    for path, function in ours:
        names, methods = called(function)
        if function.name.startswith("test_") and not (asserts(function) or names & helpers or methods & helpers - elsewhere):
            silent.append(f"{path}:{function.lineno} {function.name}")
    assert len(ours) > 1000
    assert silent == [], "\n".join(silent)
