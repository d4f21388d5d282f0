"""Nothing is kept alive by its own tests, or by a word in a comment, alone."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

from tests.project.tree import ROOT, tracked

SOURCES = ("service/", "models/", "demo/", "studies/", "loadtest/", "src/attune/client/")
READ_AS_WORDS = (".sh", ".toml", "Makefile", ".yaml")
CALLED_BY_OTHERS = {
    "data_received eof_received": "asyncio, of protocols",
    "wait_closed": "uvicorn, of what listens for it",
    "convert to_string": "Starlette, of a convertor of paths",
    "generate_trace_id": "OpenTelemetry's tracer",
    "settings_customise_sources _as_meant _is_url _keys_parse _secret_is_long _works_together _has_room _is_named_and_counted": "pydantic",
    "_prepare_dataset on_log on_save on_step_end on_train_begin": "trl and transformers, of a trainer",
    "setup decode_request unbatch encode_response": "LitServe",
    "prefer_text": "users of the client",
    "all_left": "tests, of an upstream that they share with the load tests",
    "running_items": "tests, which see by it that a batch is under way",
}
"""Names that nothing in the repository but a test reads, with who does."""


def reads(tree: ast.AST) -> Iterator[str]:
    """Yields the names that code reads: variables, attributes, arguments by name, and names within strings such as `module:name`."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.Constant(value=str(text)) if re.fullmatch(r"[\w.:]+", text):
                yield from re.findall(r"\w+", text)
            case _:
                pass


def defined_in(tree: ast.Module) -> Iterator[str]:
    """Yields functions, classes, methods and constants of a module, but for those that a decorator hands to a framework."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() if not any(map(_registers, node.decorator_list)):
                yield node.name
                if isinstance(node, ast.ClassDef):
                    waiting += [member for member in node.body if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)]
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case _:
                pass


def _registers(decorator: ast.expr) -> bool:
    """Whether a decorator is a method of an object, as `@router.get(...)` and `@app.command(...)` are."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(target, ast.Attribute)


def test_every_name_is_read_by_something_that_is_no_test():
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in tracked() if path.endswith((".py", *READ_AS_WORDS))}
    trees = {path: ast.parse(text) for path, text in texts.items() if path.endswith(".py")}
    used: Counter[str] = Counter()
    for path, text in texts.items():
        if not path.startswith("tests/"):
            used.update(reads(trees[path]) if path in trees else re.findall(r"\w+", text))
    others = {name for names in CALLED_BY_OTHERS for name in names.split()}
    unused = {
        path: sorted(name for name in defined_in(tree) if not name.startswith("__") and not used[name] and name not in others)
        for path, tree in trees.items()
        if path.startswith(SOURCES)
    }
    assert {path: names for path, names in unused.items() if names} == {}
