"""What settings there are, and which are in force here: the tables of `attune settings`.

Secrets are named and never shown.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from attune.service.settings import CONFIG_VARIABLE, Settings, read_settings, source_of, variable

HIDDEN = "(hidden)"
_PASSWORD = re.compile(r"(password=)[^&#]*", re.IGNORECASE)
"""Sentinel takes its password in the query, and so does a server behind a socket."""
_LOGIN = re.compile(r"//.*@")
"""To the last `@`: a password that should have been quoted is one all the same."""


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of `attune settings`."""

    variable: str
    default: str
    allowed: str
    description: str


@dataclass(frozen=True, slots=True)
class SettingInForce:
    """One line of `attune settings --in-force`.

    Attributes:
        source: environment, default, or the path of the TOML file.
    """

    variable: str
    value: str
    source: str


def describe_settings() -> list[SettingRow]:
    """Returns one row per setting, in the order of the class, after the one for the TOML file."""
    rows = [SettingRow(CONFIG_VARIABLE, "", "", "TOML file with settings by their lower-case names; the environment goes before it")]
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        rows.append(SettingRow(variable(name), _as_written(default), _allowed(field), field.description or ""))
    return rows


def settings_in_force() -> list[SettingInForce]:
    """Returns every setting as `attune serve` would read it here, after the TOML file.

    Raises:
        SettingsError: it would refuse them.
    """
    settings, file = read_settings(), os.environ.get(CONFIG_VARIABLE, "").strip()
    rows = [SettingInForce(CONFIG_VARIABLE, file, "environment" if file else "default")]
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = HIDDEN if value.get_secret_value() else ""
        elif name == "redis_url":
            value = _LOGIN.sub(f"//{HIDDEN}@", _PASSWORD.sub(rf"\1{HIDDEN}", value))
        rows.append(SettingInForce(variable(name), _as_written(value), source_of(name)))
    return rows


def settings_table() -> str:
    """Returns the rows as a Markdown table."""
    lines = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    for row in describe_settings():
        cells = (f"`{row.variable}`", f"`{row.default}`" if row.default else "", row.allowed.replace("|", "\\|"), row.description)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def in_force_table() -> str:
    """Returns what somebody has set, one setting a line with its value and source, as plain text.

    Raises:
        SettingsError: see `settings_in_force`.
    """
    rows = [row for row in settings_in_force() if row.source != "default"]
    if not rows:
        return "nothing is set: every setting has its default (`attune settings` lists them)"
    width = max(len(row.variable) for row in rows)
    return "\n".join([f"{row.variable:{width}}  {row.value}  ({row.source})" for row in rows] + ["the others have their defaults"])


def _as_written(value: object) -> str:
    """Returns a value as it is written in the environment."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _allowed(field: FieldInfo) -> str:
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return " | ".join(choices)
    bounds = {side: getattr(rule, side) for rule in field.metadata for side in ("ge", "le") if hasattr(rule, side)}
    return f"{bounds['ge']:,.15g} to {bounds['le']:,.15g}".replace(",", " ") if len(bounds) == 2 else ""
