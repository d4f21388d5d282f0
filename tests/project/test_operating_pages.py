"""The pages for operators name what there is: every error code, every exit code, every setting that they mention."""

from __future__ import annotations

import re

from attune.service import __main__ as command_line
from attune.service.app import create_app
from attune.service.errors import AttuneError
from attune.service.settings import CONFIG_VARIABLE, Settings, variable
from tests.project.tree import ROOT

ERRORS = (ROOT / "docs" / "reference" / "errors-and-exit-codes.md").read_text(encoding="utf-8")
PRODUCTION = (ROOT / "docs" / "howto" / "production.md").read_text(encoding="utf-8")


def kinds(kind: type[AttuneError]) -> list[type[AttuneError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in kinds(child))]


def test_every_error_has_its_row_with_its_status():
    create_app(Settings())  # whatever it answers with is imported then, wherever it is declared
    rows = {code for _status, code in re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", ERRORS, re.MULTILINE)}
    ours = {kind.code: kind.status for kind in kinds(AttuneError) if kind.__module__.startswith("attune.service.")}
    assert ours.keys() - rows == set()
    assert [code for code, status in ours.items() if f"| {status} | `{code}` |" not in ERRORS and code != "not-ready"] == []


def test_every_exit_code_has_its_row():
    rows = {int(code) for code in re.findall(r"^\| (\d) \|", ERRORS, re.MULTILINE)}
    assert {0, command_line.EXIT_FAILED, command_line.EXIT_SETTINGS, 3, command_line.EXIT_ADDRESS} <= rows


def test_every_setting_that_is_mentioned_exists():
    known = {CONFIG_VARIABLE, *map(variable, Settings.model_fields)}
    assert set(re.findall(r"ATTUNE_[A-Z_]+", ERRORS + PRODUCTION)) <= known
