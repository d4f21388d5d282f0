"""The help of every command: sentences that stand alone, and the meaning of an option that is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from attune.models.__main__ import app as offline
from attune.service.__main__ import app as serving
from demo.__main__ import app as demo
from studies.__main__ import app as studies
from tests.project.tree import ROOT, tracked

APPS = {"attune (service)": serving, "attune (models)": offline, "python -m demo": demo, "python -m studies": studies}

FRAGMENTS = ("Of", "That", "Also", "Over", "To", "For", "With", "By", "In", "Whose", "Most", "Keeps")
"""How a text begins that is no sentence without the option's name before it."""

ALWAYS_JSON = "prints one JSON document in any case"
WITHOUT_JSON = {
    "attune (service) serve": "runs until a signal; what it says is a log, whose format is a setting",
    "attune (models) bundle show": ALWAYS_JSON,
    "attune (models) import reward": ALWAYS_JSON,
    "attune (models) train member": ALWAYS_JSON,
    "attune (models) train router": ALWAYS_JSON,
    "attune (models) users export": "prints JSON lines in any case, as the server does",
}
"""Commands for which no program asks by `--json`, and why; `--install-completion` and `--show-completion` are options and no commands."""

SHELLS = {"install_completion", "show_completion"}


def commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, group
    for name, command in sorted(getattr(group, "commands", {}).items()):
        yield from commands(command, f"{path} {name}")


ALL = {path: command for name, app in APPS.items() for path, command in commands(typer.main.get_command(app), name) if not command.hidden}


@pytest.mark.parametrize("path", ALL)
def test_a_command_and_every_option_are_described_in_sentences(path):
    command = ALL[path]
    assert command.help, path
    for one in command.params:
        if getattr(one, "hidden", False) or one.name in SHELLS:
            continue
        said = one.help or ""
        assert said.rstrip().endswith("."), f"{path} {one.name}: {said!r}"
        first = said.split(" ")[0]
        assert not first[0].islower(), f"{path} {one.name} begins with a small letter: {said!r}"
        assert first.strip(":,") not in FRAGMENTS, f"{path} {one.name} is no sentence without its name: {said!r}"


@pytest.mark.parametrize("path", [path for path, command in ALL.items() if path.startswith("attune") and not hasattr(command, "commands")])
def test_a_command_that_prints_a_result_prints_it_for_programs_too(path):
    """Commands of `demo` and `studies` are for this repository, and write what they find to files."""
    flags = {flag for one in ALL[path].params for flag in one.opts}
    assert ("--json" in flags) == (path not in WITHOUT_JSON), f"{path}: it has --json, or stands in WITHOUT_JSON with a reason, not both"


def test_every_command_that_is_said_to_lack_json_is_there():
    assert set(WITHOUT_JSON) <= set(ALL)


@pytest.mark.parametrize("path", ALL)
def test_an_option_that_may_be_left_out_says_what_holds_then(path):
    for one in ALL[path].params:
        if one.param_type_name != "option" or one.required or one.is_flag or getattr(one, "hidden", False) or one.name in SHELLS:
            continue
        if one.default in (None, "", []):
            words = ("if not given", "without it", "may be given several times", "not needed", "goes before", "or --")
            assert any(word in (one.help or "").lower() for word in words), f"{path} {one.name}: {one.help!r}"


CALLED = re.compile(
    r"(?:^[ >$]*|`|\| |; |&& )(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(attune|python -m demo|python -m studies) ([a-z][^`|;&#)\n]*)", re.MULTILINE
)
"""A command as a page calls it: at the start of a line of code, after variables, or between backticks."""
PAGES = [path for path in tracked() if path.endswith((".md", ".sh")) and path not in {"service/DESIGN.md", "models/LOG.md", "CHANGELOG.md"}]
ROOTS = {
    program: [typer.main.get_command(app) for app in apps]
    for program, apps in {"attune": (serving, offline), "python -m demo": (demo,), "python -m studies": (studies,)}.items()
}
LOGGED = "attune ready on"
"""The line of a server that has started, which pages quote."""


@pytest.mark.parametrize("path", PAGES)
def test_a_page_calls_commands_and_options_that_exist(path):
    text = (ROOT / path).read_text(encoding="utf-8").replace("\\\n", " ").replace(LOGGED, "")
    for program, call in CALLED.findall(text):
        found: list[Any] = ROOTS[program]
        words = [word for word in call.split() if word != "…"]
        while words and (inside := [one.commands[words[0]] for one in found if words[0] in getattr(one, "commands", {})]):
            found, words = inside, words[1:]
        assert not words or not any(hasattr(one, "commands") for one in found), f"{program} {call}: no such command"
        options = {name for one in found for option in one.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= options, f"{program} {call}"
