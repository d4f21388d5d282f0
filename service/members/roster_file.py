"""Reads the file in which an operator says where each member of the portfolio lives: JSON or TOML, every mistake in a sentence.

    file ── read_roster ──> names stand once, objects ── parse_member ──> MemberSpec a name, in the order of the file

A mistake names member, field and limit; values are not repeated, they may be keys. Needs nothing that is started, and
opens nothing but the file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from attune.models.seam.artefacts import ROSTER, it_is
from attune.service.members.member import UnusableMember
from attune.service.members.spec import KINDS, LocalSpec, MemberSpec

MAX_FILE_BYTES = 4 << 20
MAX_TOLD = 5
ROUTED = "auto"
"""As a model of `/v1`, no member but the routing among them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
_READER: TypeAdapter[MemberSpec] = TypeAdapter(Annotated[MemberSpec, Field(discriminator="kind")])
_NEEDED = {
    "string_type": "a string",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if len(content) > MAX_FILE_BYTES:
        raise _unreadable(path, f"has {len(content)} bytes; a roster has at most {MAX_FILE_BYTES}")
    return content


def _unreadable(path: Path, why: str) -> UnusableMember:
    return UnusableMember("", f"roster {path}", why)


class _Object(dict[str, Any]):
    """A JSON object that remembers a name which stands in it twice."""

    twice: str | None = None


def read_roster(path: Path) -> Mapping[str, MemberSpec]:
    """Returns the members that a `.json` or `.toml` file describes.

    Raises:
        UnusableMember: the file cannot be read, or a description is wrong.
    """
    return _read(path)[1]


def copy_roster(path: Path, copy: Path) -> Mapping[str, MemberSpec]:
    """Returns the members that a file describes, having written another file that says the same wherever it lies.

    Raises:
        UnusableMember: as `read_roster`; nothing was written.
    """
    described, specs = _read(path)
    root = path.parent.absolute()
    told = {name: {**described[name], **_folders(spec, root)} for name, spec in specs.items()}
    copy.write_text(json.dumps(told, default=lambda time: time.isoformat()), encoding="ascii")  # TOML has times, which are sent so
    return specs


def _folders(spec: MemberSpec, root: Path) -> Mapping[str, str]:
    """Returns the folders of a member, absolute."""
    if not isinstance(spec, LocalSpec):
        return {}
    adapter = {} if spec.adapter is None else {"adapter": str(root / spec.adapter)}
    return {"base": str(root / spec.base), **adapter}


def _read(path: Path) -> tuple[Any, Mapping[str, MemberSpec]]:
    """Returns what stands in the file, and the members that it describes."""
    if path.suffix.lower() in {".yaml", ".yml"}:
        raise _unreadable(path, "is YAML by its name, which is not read; write it as JSON, or as TOML with the ending .toml")
    try:
        text = _content(path).decode("utf-8-sig")
        described = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text, object_pairs_hook=_object)
        return described, parse_roster(described)
    except UnusableMember as error:
        if error.member and (found := it_is(path)) and ROSTER not in found:
            raise _unreadable(path, f"describes no members{found}") from error
        raise
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror or type(error).__name__}{it_is(path)}") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"is not UTF-8: {error.reason} at byte {error.start}{it_is(path)}") from error
    except json.JSONDecodeError as error:
        where = f"{error.msg} in line {error.lineno}, column {error.colno}"
        raise _unreadable(path, f"is not JSON: {where}{it_is(path)}") from error
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(path, f"is not TOML: {_without_texts(str(error))}") from error
    except (RecursionError, MemoryError) as error:
        raise _unreadable(path, "is nested too deeply to be read; a roster has about five levels") from error
    except ValueError as error:  # a number with more digits than Python reads, a path that cannot be one
        raise _unreadable(path, "holds a value that cannot be read, or is no path") from error


def parse_roster(described: object) -> Mapping[str, MemberSpec]:
    """Returns the description of each member, in the order given.

    Raises:
        UnusableMember: a description is wrong; the message names the member and the field.
    """
    if not isinstance(described, Mapping):
        raise UnusableMember("", "roster", f"is {_kind_of(described)}; a table of name to description is needed")
    _names_stand_once(described, None, ())
    return {_checked_name(name): parse_member(name, entry) for name, entry in described.items()}


def parse_member(name: str, described: object) -> MemberSpec:
    """Returns one member's description.

    Raises:
        UnusableMember: a field is unknown, missing, of the wrong type or out of its range; up to five of them are told.
    """
    if not isinstance(described, Mapping):
        raise UnusableMember(name, "description", f"is {_kind_of(described)}; a table is needed")
    kind = described.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        found = f"is {_kind_of(kind)}{' that is not known' if isinstance(kind, str) else ''}" if "kind" in described else "is missing"
        raise UnusableMember(name, "kind", f"{found}; {' or '.join(map(repr, KINDS))} is needed")
    try:
        return _READER.validate_python(dict(described))
    except ValidationError as error:
        mistakes = [_told(kind, dict(mistake)) for mistake in error.errors(include_url=False)]
    (field, message), *more = mistakes
    further = "".join(f"; {other}: {what}" for other, what in more[: MAX_TOLD - 1])
    hidden = f"; and {len(mistakes) - MAX_TOLD} more" if len(mistakes) > MAX_TOLD else ""
    raise UnusableMember(name, field, message + further + hidden)


def _told(kind: str, mistake: Mapping[str, Any]) -> tuple[str, str]:
    """Returns field and sentence of one of pydantic's mistakes."""
    field = ".".join(str(part) for part in mistake["loc"][1:])[:80] or "description"
    what, value, context = mistake["type"], mistake.get("input"), mistake.get("ctx", {})
    or_null = " or null" if _may_be_null(kind, mistake["loc"][1:2]) else ""
    if what in _NEEDED:
        return field, f"is {_kind_of(value)}; {_NEEDED[what]}{or_null} is needed"
    if what in _BOUNDS:
        word, key = _BOUNDS[what]
        return field, f"is {value}; it is {word} {context[key]:g}"
    sentences = {
        "missing": "is missing",
        "extra_forbidden": f"is unknown; a member of kind {kind} has {', '.join(KINDS[kind].model_fields)}",
        "literal_error": f"is {_kind_of(value)} that is not known; {context.get('expected')}{or_null} is needed",
        "string_too_short": "is empty",
        "string_too_long": f"has more than {context.get('max_length')} characters",
        "string_pattern_mismatch": f"does not match {context.get('pattern')}",
        "value_error": str(context.get("error")),
    }
    return field, sentences.get(what, f"is {_kind_of(value)}, which is not allowed")


def _may_be_null(kind: str, name: Sequence[Any]) -> bool:
    field = KINDS[kind].model_fields.get(str(name[0])) if name else None
    return field is not None and type(None) in getattr(field.annotation, "__args__", ())


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        found.twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    return found


def _names_stand_once(value: object, member: str | None, path: tuple[str, ...]) -> None:
    """Raises `UnusableMember` for the first name that stands twice in one object."""
    if isinstance(value, _Object) and value.twice is not None:
        if member is None:
            raise UnusableMember(value.twice, "name", "stands twice in the roster; only one of the two could be taken")
        raise UnusableMember(member, ".".join((*path, value.twice)), "stands twice; only one of the two could be taken")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _names_stand_once(inner, member or str(name), path if member is None else (*path, str(name)))
    elif isinstance(value, list):
        for inner in value:
            _names_stand_once(inner, member, path)


def _checked_name(name: object) -> str:
    """Returns the member's id if it can stand in a header, a metric's label and a URL."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UnusableMember(
            str(name)[:80],
            "name",
            "is not 1 to 64 of A to Z, a to z, 0 to 9, '.', '_', '-', '/' and ':', beginning with a letter or digit",
        )
    if name.lower() == ROUTED:
        raise UnusableMember(name, "name", "is the model of /v1 that routes; a member of this name could never be asked for")
    return name


def _kind_of(value: object) -> str:
    """Returns what a value is, in the words of JSON; strings are not repeated, they may be keys."""
    if isinstance(value, Mapping):
        return "a table"
    names = {type(None): "null", bool: "true or false", str: "a string", list: "a list"}
    return names.get(type(value), str(value)[:40])


def _without_texts(message: str) -> str:
    """Returns a parser's message without what it quotes of the file."""
    return re.sub(r"(['\"]).*?\1", "a text", message)[:200]
