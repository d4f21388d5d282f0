"""Where each member of the portfolio lives: the roster as an operator writes it, read into frozen values.

    {"concise": {"kind": "local", "base": "language_model/base", "adapter": "language_model/adapters/concise"},
     "gpt": {"kind": "openai", "base_url": "https://…/v1", "model": "…", "api_key_env": "OPENAI_API_KEY", "temperature": 0.7}}

The same mapping as a table of a TOML file. Every mistake is named by member and field; nothing is opened or connected
here, and no secret is read: a description holds the name of an environment variable, not a key.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from attune.service.members.member import Defaults, UnusableMember


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """A member in this process.

    Args:
        base: directory of the base model, absolute or below the roster's root; members of equal base, device and dtype
            share one copy.
        adapter: directory of a LoRA adapter in peft's format; None is the base alone.
        device: `cpu` or `cuda`.
        dtype: of the weights; `auto` is float32 on a CPU and the model's own on CUDA.
        price: of a token, in any currency, the same for all members; routing weighs it where the deployment asks for it.
        latency_s: typical seconds of an answer, likewise.
        defaults: system prompt and sampling of this member.
    """

    kind: ClassVar[Literal["local"]] = "local"
    base: str
    adapter: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    price: float = 0.0
    latency_s: float = 0.0
    defaults: Defaults = field(default_factory=Defaults)


@dataclass(frozen=True, slots=True)
class OpenAISpec:
    """A member on a server that speaks the OpenAI API.

    Args:
        base_url: up to and with `/v1`.
        model: the name that the server knows; a LoRA module's name on vLLM.
        api_key_env: environment variable that holds the key; None sends none.
        max_tokens_field: what the server calls the limit; OpenAI's newer models refuse `max_tokens`.
        include_usage: whether to ask for token counts at the end of a stream; a few servers refuse the question.
        connect_s: limit for a connection, seconds.
        first_token_s: limit from the request to the first characters, seconds.
        between_tokens_s: limit between pieces, seconds.
        failures_to_open: failures in a row after which the member is not tried for `open_s`.
        open_s: how long, seconds.
        price: see `LocalSpec`.
        latency_s: see `LocalSpec`.
        defaults: system prompt and sampling of this member.
    """

    kind: ClassVar[Literal["openai"]] = "openai"
    base_url: str
    model: str
    api_key_env: str | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    include_usage: bool = True
    connect_s: float = 2.0
    first_token_s: float = 30.0
    between_tokens_s: float = 10.0
    failures_to_open: int = 5
    open_s: float = 10.0
    price: float = 0.0
    latency_s: float = 0.0
    defaults: Defaults = field(default_factory=Defaults)


MemberSpec = LocalSpec | OpenAISpec

_KINDS: Mapping[object, type[LocalSpec | OpenAISpec]] = {"local": LocalSpec, "openai": OpenAISpec}
_POSITIVE = frozenset({"connect_s", "first_token_s", "between_tokens_s", "failures_to_open", "open_s"})
_COSTS = frozenset({"price", "latency_s"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")


def read_roster(path: Path) -> Mapping[str, MemberSpec]:
    """Returns the members that a `.json` or `.toml` file describes.

    Raises:
        UnusableMember: the file cannot be read, or a description is wrong.
    """
    try:
        content = path.read_text(encoding="utf-8")
        described = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
    except (OSError, ValueError) as error:
        raise UnusableMember("(all)", str(path), f"cannot be read: {error}") from error
    return parse_roster(described)


def parse_roster(described: object) -> Mapping[str, MemberSpec]:
    """Returns the description of each member, in the order given.

    Raises:
        UnusableMember: a description is wrong; the message names the member and the field.
    """
    if not isinstance(described, Mapping):
        raise UnusableMember("(all)", "members", f"is {_kind_of(described)}; a table of name to description is needed")
    return {_checked_name(name): parse_member(name, entry) for name, entry in described.items()}


def parse_member(name: str, described: object) -> MemberSpec:
    """Returns one member's description.

    Raises:
        UnusableMember: a field is unknown, missing, of the wrong type or out of its range.
    """
    if not isinstance(described, Mapping):
        raise UnusableMember(name, "description", f"is {_kind_of(described)}; a table is needed")
    kind = described.get("kind")
    if kind not in _KINDS:
        raise UnusableMember(name, "kind", f"is {kind!r}; one of {[*_KINDS]} is needed")
    known, sampling = _fields(_KINDS[kind]), _fields(Defaults)
    for key in described:
        if key != "kind" and key not in known and key not in sampling:
            raise UnusableMember(name, str(key), f"is unknown; a member of kind {kind} has {', '.join(['kind', *known, *sampling])}")
    for item in fields(_KINDS[kind]):
        if item.name not in described and item.default is MISSING and item.default_factory is MISSING:
            raise UnusableMember(name, item.name, "is missing")
    values = {key: _checked(name, key, wanted, described[key]) for key, wanted in known.items() if key in described}
    defaults = Defaults(**{key: _checked(name, key, wanted, described[key]) for key, wanted in sampling.items() if key in described})
    _check_ranges(name, values, defaults)
    return _KINDS[kind](**values, defaults=defaults)


def _fields(described: type) -> dict[str, Any]:
    """Returns the type of every field that a description may hold by its own name."""
    hints = get_type_hints(described)
    return {item.name: hints[item.name] for item in fields(described) if item.name != "defaults"}


def _check_ranges(name: str, values: Mapping[str, Any], defaults: Defaults) -> None:
    if not 0.0 <= defaults.temperature < float("inf"):
        raise UnusableMember(name, "temperature", f"is {defaults.temperature}; it is at least 0")
    if not 0.0 < defaults.top_p <= 1.0:
        raise UnusableMember(name, "top_p", f"is {defaults.top_p}; it is above 0 and at most 1")
    for key, value in values.items():
        if key in _POSITIVE and not 0 < value < float("inf"):
            raise UnusableMember(name, key, f"is {value}; it is above 0")
        if key in _COSTS and not 0 <= value < float("inf"):
            raise UnusableMember(name, key, f"is {value}; it is at least 0")
    _check_url(name, values.get("base_url"))
    for key in ("base", "adapter", "model", "api_key_env"):
        if values.get(key) == "":
            raise UnusableMember(name, key, "is empty")


def _check_url(name: str, url: str | None) -> None:
    if url is not None and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname):
        raise UnusableMember(name, "base_url", f"is {url!r}; an http or https URL is needed")
    if url is not None and (urlsplit(url).password or urlsplit(url).query):
        raise UnusableMember(
            name, "base_url", "holds a password or a query; put the key into an environment variable and name it in api_key_env"
        )


def _checked(name: str, key: str, wanted: Any, value: object) -> Any:
    """Returns the value if it is of the annotated type: a literal's choice, a plain type, or None where that is allowed."""
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            raise UnusableMember(name, key, f"is {value!r}; one of {list(get_args(wanted))} is needed")
        return value
    types = get_args(wanted) or (wanted,)
    if float in types:
        types = (*types, int)
    # bool is an int to Python, and `threads = true` is a mistake to everybody else
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        names = " or ".join("null" if kind is NoneType else kind.__name__ for kind in get_args(wanted) or (wanted,))
        raise UnusableMember(name, key, f"is {_kind_of(value)}; {names} is needed")
    return value


def _checked_name(name: object) -> str:
    """Returns the member's id if it can stand in a header, a metric's label and a URL."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UnusableMember(
            str(name), "name", "is not 1 to 64 letters, digits, '.', '_', '-', '/' or ':', beginning with a letter or digit"
        )
    return name


def _kind_of(value: object) -> str:
    """Returns what a value is, in the words of JSON; strings are not repeated, they may be keys."""
    names = {NoneType: "null", bool: "true or false", str: "a string", dict: "a table", list: "a list"}
    return names.get(type(value), repr(value))
