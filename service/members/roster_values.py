"""Values that a roster names and does not hold: each stands in an environment variable, and is read once, when its member is made."""

from __future__ import annotations

from collections.abc import Mapping

from attune.service.members.member import UnusableMember
from attune.service.members.spec import FromEnvironment, OpenAISpec


def values_of(member_id: str, spec: OpenAISpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the value of each environment variable that a description names.

    Raises:
        UnusableMember: one is not set, or cannot stand in a header.
    """
    values = {}
    for field, name in spec.variables:
        value = environ.get(name, "")
        if not value:
            raise UnusableMember(member_id, field, f"the environment variable {name} is not set")
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise UnusableMember(member_id, field, f"the value of {name} cannot stand in a header: spaces or other signs")
        values[name] = value
    return values


def filled(described: Mapping[str, str | FromEnvironment], values: Mapping[str, str]) -> dict[str, str]:
    """Returns headers or parameters as they are sent."""
    return {name: values[value.name] if isinstance(value, FromEnvironment) else value for name, value in described.items()}
