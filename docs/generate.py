"""Writes the pages of `docs/reference/` that follow from the code: settings, commands, HTTP routes, and the tree of modules.

    python docs/generate.py            write them
    python docs/generate.py --check    say which are not what the code says now, and exit with 1

Nothing here is read by the service. A page is a pure function of the repository, so a difference is a change that nobody wrote down.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by docs/generate.py: `make reference`. Change what it reads, not this page. -->\n\n"

_PROGRAMS = (
    "The same for programs: `GET /openapi.json`, valid OpenAPI 3.1. Types for TypeScript: "
    "`npx openapi-typescript http://localhost:8000/openapi.json --default-non-nullable=false -o attune.ts`; the result compiles under "
    "`tsc --strict`. Without that option the generator has requests name every field that has a default.\n\n"
    "A limit such as `max_candidates` is the setting `ATTUNE_MAX_CANDIDATES` ([settings](settings.md)); what each status and code means "
    "is in [errors](errors-and-exit-codes.md)."
)

PLACES = {
    ".ci": "what a machine that has never seen the project runs",
    "demo": "the tutorial: invented people, texts and small language models, made with the library's public commands; not in the wheel",
    "demo/artefacts": "what the demo's training left: heads, base model, adapters, portfolio; the one part that is in the wheel",
    "deploy": "Kubernetes manifests, Helm chart, Prometheus rules and their tests, Grafana dashboard",
    "docker": "Dockerfile (cpu and gpu), compose with Redis and Prometheus",
    "docs": "these pages; `make docs` builds them",
    "examples": "programs and files to start from",
    "loadtest": "what measures speed, size and behaviour under failure; `make bench` runs it",
    "models": "the offline half, imported as attune.models: data, training, alignment, portfolios, export, measuring, and the seam",
    "service": "the online half, imported as attune.service",
    "src": "the import package `attune`: its version, the client, and links to the two halves",
    "studies": "measurements of papers and of the demo, one folder each; not in the wheel",
    "tests": "mirrors the folders; `make fast` runs the quick ones",
}


def settings_page() -> str:
    """Returns the page of all settings."""
    from attune.service.setting_rows import settings_table  # noqa: PLC0415  the tree needs no pydantic

    return (
        f"# Settings\n\n{NOTE}Environment variables, or the same names in lower case without the prefix in the TOML file that\n"
        "`ATTUNE_CONFIG` names. "
        "An unknown or malformed setting stops the start with its name. `attune settings` prints this table, and"
        " `attune settings --in-force` what is set where it is run, with its source.\n\n"
        f"{settings_table()}\n"
    )


def commands_page() -> str:
    """Returns the page of all commands, with the names of their options."""
    from typer.main import get_command  # noqa: PLC0415  the tree needs no typer

    from attune.service.__main__ import app  # noqa: PLC0415  the same

    rows = "\n".join(sorted(_command_rows(get_command(app), "attune")))
    return (
        f"# Commands\n\n{NOTE}`attune COMMAND --help` says what each argument and option means, and what holds where it is left out.\n\n"
        f"| command | what it does | options |\n|---|---|---|\n{rows}\n"
    )


def _command_rows(command: Any, path: str) -> Iterator[str]:
    if command.hidden:
        return
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from _command_rows(command.get_command(None, name), f"{path} {name}")
        return
    usage = " ".join([path, *(one.name.upper() for one in command.params if one.param_type_name == "argument")])
    options = ", ".join(f"`{one.opts[0]}`" for one in command.params if one.param_type_name == "option" and not one.hidden)
    first = " ".join(command.help.split("\n\n")[0].split()).replace("|", "\\|")
    yield f"| `{usage}` | {first} | {options} |"


def tree_page() -> str:
    """Returns the page of folders and modules, each with the first sentence of its docstring."""
    lines = ["# The tree", "", NOTE.strip(), ""]
    tracked = _tracked()
    for folder in sorted({path.split("/")[0] for path in tracked if "/" in path}):
        lines += [f"## {folder}/", "", PLACES.get(folder, ""), ""]
        rows = []
        for path in (path for path in tracked if path.startswith(f"{folder}/")):
            said = _first_sentence(path)
            if said:
                rows.append(f"| `{path}` | {said.replace('|', chr(92) + '|')} |")
        if rows and folder != "tests":
            lines += ["| file | what lives there |", "|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def http_page() -> str:
    """Returns the page of all routes, with their fields, from the OpenAPI document."""
    from attune.service.app import create_app  # noqa: PLC0415  the tree needs no FastAPI
    from attune.service.settings import Settings  # noqa: PLC0415  the same

    document = create_app(Settings()).openapi()
    schemas = document["components"]["schemas"]
    lines = ["# HTTP reference", "", NOTE.strip(), "", _PROGRAMS, ""]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lines += [f"## {method.upper()} {path}", "", operation.get("description") or operation.get("summary", ""), ""]
            lines += _parameters(operation) + _body(operation, schemas) + _answers(operation, schemas)
    lines += ["## Types", "", "What fields of the requests and answers above hold.", ""]
    for name in sorted(set(re.findall(r"`([A-Z][A-Za-z]+)`", "\n".join(lines))) & set(schemas) | _within(schemas)):
        lines += [f"### {name}", "", schemas[name]["description"], "", *_fields("", schemas[name], schemas)]
    return "\n".join(lines).rstrip() + "\n"


PAGES = {"settings.md": settings_page, "commands.md": commands_page, "tree.md": tree_page, "http.md": http_page}


def _tracked() -> list[str]:
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607  git of the PATH
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted(
        path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file() and not path.startswith("src/attune/service")
    )


def _first_sentence(path: str) -> str:
    if PurePosixPath(path).suffix == ".py":
        return (
            (ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or "").split("\n\n")[0].replace("\n", " ").rstrip(".")
        )
    if PurePosixPath(path).suffix == ".lua":
        first = (ROOT / path).read_text(encoding="utf-8").splitlines()[:1]
        return first[0].lstrip("- ").rstrip(".") if first else ""
    return PLACES.get(path, "")


def _parameters(operation: dict[str, Any]) -> list[str]:
    rows = [
        f"| `{one['name']}` | {one['in']} | {_kind(one.get('schema', {}))} | {_cell(one.get('description', ''))} |"
        for one in operation.get("parameters", [])
    ]
    return ["| parameter | in | type | meaning |", "|---|---|---|---|", *rows, ""] if rows else []


def _body(operation: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for media in operation.get("requestBody", {}).get("content", {}).values():
        lines += _fields("Request", media.get("schema", {}), schemas)
        for title, example in media.get("examples", {}).items():
            lines += [f"Example, {title}:", "", *_shown(example["value"])]
    return lines


def _answers(operation: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    others = []
    for status, answer in operation.get("responses", {}).items():
        for kind, media in answer.get("content", {}).items() if status.startswith("2") else ():
            schema = media.get("schema", {})
            for one in schema.get("anyOf", [schema]):
                title = f"Answer {status}, a list of" if one.get("type") == "array" else f"Answer {status}"
                lines += _fields(title, one.get("items", one), schemas)
            lines += [f"Example, `{kind}`:", "", *_shown(media["example"])] if "example" in media else []
        if not status.startswith("2"):
            others.append(f"{status} ({answer.get('description', '').lower()})")
    return [*lines, f"Errors: {', '.join(others)}.", ""] if others else lines


def _fields(title: str, schema: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    found = schemas.get(schema.get("$ref", "").rsplit("/", 1)[-1], schema)
    wanted = set(found.get("required", []))
    rows = []
    for name, one in found.get("properties", {}).items():
        optional = "" if name in wanted or "Request" not in title else " (optional)"
        rows.append(f"| `{name}`{optional} | {_kind(one)} | {_cell(one.get('description', ''))} |")
    head = [f"**{title}**", ""] if title else []
    return [*head, "| field | type | meaning |", "|---|---|---|", *rows, ""] if rows else []


def _shown(example: object) -> list[str]:
    if isinstance(example, str):
        return ["```text", example.rstrip("\n"), "```", ""]
    return ["```json", json.dumps(example, ensure_ascii=False, indent=1), "```", ""]


def _within(schemas: dict[str, Any]) -> set[str]:
    """Returns the names of all types that other types refer to."""
    return set(re.findall(r"#/components/schemas/(\w+)", json.dumps(schemas))) & set(schemas)


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rsplit('/', 1)[-1]}`"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(arguments: list[str]) -> int:
    """Writes the pages, or checks them; returns the exit code."""
    stale = []
    for name, page in PAGES.items():
        text, path = page(), REFERENCE / name
        if "--check" in arguments:
            stale += [name] if not path.exists() or path.read_text(encoding="utf-8") != text else []
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"not what the code says now: {', '.join(stale)}; `make reference` writes them\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
