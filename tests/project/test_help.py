"""The help of every command: sentences that stand alone, and the meaning of an option that is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from attune.models.__main__ import app as offline
from attune.service.__main__ import app as serving
from demo.__main__ import app as demo
from studies.__main__ import app as studies

APPS = {"attune (service)": serving, "attune (models)": offline, "python -m demo": demo, "python -m studies": studies}

FRAGMENTS = ("Of", "That", "Also", "Over", "To", "For", "With", "By", "In", "Whose", "Most", "Keeps")
"""How a text begins that is no sentence without the option's name before it."""

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


@pytest.mark.parametrize("path", ALL)
def test_an_option_that_may_be_left_out_says_what_holds_then(path):
    for one in ALL[path].params:
        if one.param_type_name != "option" or one.required or one.is_flag or getattr(one, "hidden", False) or one.name in SHELLS:
            continue
        if one.default in (None, "", []):
            words = ("if not given", "without it", "may be given several times", "not needed", "goes before", "or --")
            assert any(word in (one.help or "").lower() for word in words), f"{path} {one.name}: {one.help!r}"
