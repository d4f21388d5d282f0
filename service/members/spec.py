"""What a roster may say of a member: one pydantic model a kind, told apart by `kind`.

    {"concise": {"kind": "local", "base": "language_model/base", "adapter": "language_model/adapters/concise"},
     "gpt": {"kind": "openai", "base_url": "https://…/v1", "model": "…", "api_key_env": "OPENAI_API_KEY", "temperature": 0.7}}

Every field stands in docs/howto/roster.md. Reading files and turning mistakes into sentences is `roster_file`. Nothing is
opened here and no secret is read: a description holds the name of an environment variable, not a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from attune.models.seam.printable import printable
from attune.service.members.answer_text import Thoughts
from attune.service.members.member import Defaults
from attune.service.members.passing import ALL, PASSES

Device = Literal["cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

# What the client sets itself, and what would change how a request is framed.
OWN_HEADERS = frozenset({"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"})
# What the request or another field of the description says already.
OWN_FIELDS: Mapping[str, str] = {
    "model": "model",
    "messages": "system",
    "stream": "streaming",
    "stream_options": "include_usage",
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_tokens_field",
    "max_completion_tokens": "max_tokens_field",
    "stop": "send_stop",
    "seed": "send_seed",
    "reasoning_effort": "reasoning_effort",
    "n": "nothing: one answer is asked for",
    "tools": "passes",
}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
# How shells, compose files and gateways refer to a variable: ${KEY}, $(KEY), {{ KEY }}, os.environ/KEY, and $KEY alone.
_REFERENCE = re.compile(r"\$\{.*?\}|\$\([A-Za-z_]\w*\)|\{\{.*?\}\}|\bos\.environ\b|(?:^|[\s/=:@])\$[A-Za-z_]\w*(?:$|[\s/:])")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """A value that stands in an environment variable: `{"env": "NAME"}`."""

    name: str


def _read_value(value: object) -> str | FromEnvironment:
    if isinstance(value, FromEnvironment):
        return value
    if isinstance(value, str):
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise ValueError("cannot be sent: it has spaces around it, or signs other than printable ASCII")
        if _REFERENCE.search(value):
            raise ValueError(
                'would be sent as it stands: variables are not put into strings. {"env": "NAME"} is sent as the whole value of a variable, '
                "and api_key_env names the one that is sent after `Authorization: Bearer`"
            )
        return value
    if isinstance(value, Mapping) and set(value) == {"env"} and isinstance(value["env"], str):
        return FromEnvironment(_check_variable(value["env"]))
    raise ValueError('is neither a string nor {"env": "NAME"}')


def _read_tags(value: object) -> object:
    if value is None:
        return ()
    if not isinstance(value, str | list | tuple):
        raise ValueError("is neither a name, a list of names nor null")  # noqa: TRY004 - pydantic turns these into its own errors
    return (value,) if isinstance(value, str) else tuple(value)


def _check_headers(headers: dict[str, str | FromEnvironment]) -> dict[str, str | FromEnvironment]:
    for name in headers:
        if not _HEADER.fullmatch(name):
            raise ValueError("holds a name that is no header's: letters, digits and '-', 1 to 100 of them")
        if name.lower() in OWN_HEADERS:
            raise ValueError(f"holds {name}, which the client sets itself")
    twice = len(headers) - len({name.lower() for name in headers})
    if twice:
        raise ValueError(f"holds {twice} name(s) twice; headers do not know upper and lower case")
    return headers


def _check_body(body: dict[str, Any]) -> dict[str, Any]:
    for name in body:
        if name in OWN_FIELDS:
            raise ValueError(f"holds {name}, which is said by {OWN_FIELDS[name]}")
    try:
        orjson.dumps(body)
    except TypeError as error:
        raise ValueError("cannot be sent as JSON: too deep, or texts that are no sound Unicode") from error
    return body


def _read_passes(value: object) -> frozenset[str]:
    if isinstance(value, frozenset):
        return value
    if value == "all":
        return ALL
    if value is None:
        return frozenset()
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError("is neither a list of fields, nor `all`, nor null")
    unknown = [name for name in value if name not in PASSES]
    if unknown:
        raise ValueError(f"holds {printable(unknown[0], 64)!r}, which is not passed on; there are {', '.join(PASSES)}")
    return frozenset(value)


def _check_literal(value: str) -> str:
    if _REFERENCE.search(value):
        raise ValueError("would be taken as it stands: variables are not put into strings of a roster; write the value itself")
    return value


def _check_url(url: str) -> str:
    _check_literal(url)
    try:
        parts = urlsplit(url)
        port = parts.port  # raises where it is no number
    except ValueError as error:
        raise ValueError("is no URL that can be read; an http or https URL is needed") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or not url.isprintable() or " " in url:
        raise ValueError("is no http or https URL; it begins with http:// or https:// and ends before /chat/completions")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("holds a user, a password, a query or a fragment; keys belong into api_key_env or headers, a query into query")
    url = url.rstrip("/")
    if url.lower().endswith(("/chat/completions", "/completions", "/responses")):
        raise ValueError("ends in the path of a request, which the client adds itself; it ends before /chat/completions, often in /v1")
    return url


def _check_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("is no name of an environment variable: letters, digits and _; a key itself has no place in a roster")
    return name


Text = Annotated[str, Field(min_length=1, max_length=4096)]
Variable = Annotated[str, AfterValidator(_check_variable)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Value = Annotated[str | FromEnvironment, PlainValidator(_read_value)]
Passes = Annotated[frozenset[str], PlainValidator(_read_passes)]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_:-]{0,31}$")]
System = Annotated[str, Field(max_length=1_048_576)]


class _Spec(BaseModel):
    """What members of every kind have.

    Attributes:
        price: of a token, in any currency, the same for all members; routing weighs it where the deployment asks for it.
        latency_s: typical seconds of an answer, likewise.
        system: prompt in front of every conversation.
        think_tag: thoughts inside the text stand between `<tag>` and `</tag>`, and are left out; one name or several, and null leaves
            the text as it is.
        starts_in_thought: whether the chat template has opened the tag already.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    price: Cost = 0.0
    latency_s: Cost = 0.0
    system: System | None = None
    think_tag: Annotated[tuple[Tag, ...], BeforeValidator(_read_tags)] = ("think", "thinking")
    starts_in_thought: bool = False

    @property
    def thoughts(self) -> Thoughts:
        """How thoughts are told from the text."""
        return Thoughts(self.think_tag, self.starts_in_thought)


class LocalSpec(_Spec):
    """A member in this process.

    Attributes:
        base: directory of the base model, absolute or below the roster's folder; members of equal base, device and dtype share one copy.
        adapter: directory of a LoRA adapter in peft's format; None is the base alone.
        device: where the weights are.
        dtype: of the weights; `auto` is float32 on a CPU and the model's own on CUDA.
        temperature: where the request names none.
        top_p: likewise.
    """

    kind: Literal["local"] = "local"
    base: Text
    adapter: Text | None = None
    device: Device = "cpu"
    dtype: Dtype = "auto"
    temperature: Temperature = 0.8
    top_p: TopP = 0.95

    @property
    def defaults(self) -> Defaults:
        """System prompt and sampling of this member."""
        return Defaults(self.temperature, self.top_p, self.system)


class OpenAISpec(_Spec):
    """A member on a server that speaks the OpenAI API.

    Attributes:
        base_url: what stands before `/chat/completions`, so mostly up to and with `/v1`.
        model: the name that the server knows; a LoRA module's name on vLLM.
        api_key_env: environment variable whose value is sent as `Authorization: Bearer`; None sends none.
        headers: further headers; a value is a string or `{"env": "NAME"}`.
        query: parameters of the URL, likewise.
        body: further fields of the request's body, as they are.
        temperature, top_p: where the request names none; None never sends the field.
        max_tokens_field: what the server calls the limit; None never sends one. It is held on this side too.
        send_stop, send_seed: whether the server takes these fields; stop strings are held on this side too.
        include_usage: whether to ask for token counts at the end of a stream.
        streaming: `as-asked` streams where the caller does; `always` also where not.
        passes: what callers of chat completions may ask beyond text, by the names of `passing.PASSES`, and is sent as they wrote it.
        thoughts_as: `parts` where the server tells thoughts as parts of the content, and takes them back as such alone.
        reasoning_effort: sent as it is; None sends none.
        reasoning_tokens: added to the limit that is sent, for thoughts that the server counts as the answer's tokens. An answer with
            more pieces of thought than both is left; 0 leaves thoughts 2,048 pieces beside the limit.
        connect_s: limit for a connection.
        first_event_s: limit from the request to the first sign of an answer, a thought or an empty event included.
        first_text_s: limit from the request to the first characters of the answer.
        between_events_s: limit between two signs of the answer.
        total_s: limit for the whole answer; None is the request's deadline.
        failures_to_open: failures in a row after which the member is not tried for `open_s`.
        open_s: how long.
    """

    kind: Literal["openai"] = "openai"
    base_url: Annotated[Text, AfterValidator(_check_url)]
    model: Annotated[Text, AfterValidator(_check_literal)]
    api_key_env: Variable | None = None
    headers: Annotated[dict[str, Value], AfterValidator(_check_headers)] = Field({}, repr=False)
    query: dict[str, Value] = Field({}, repr=False)
    body: Annotated[dict[str, Any], AfterValidator(_check_body)] = Field({}, repr=False)
    temperature: Temperature | None = 0.8
    top_p: TopP | None = 0.95
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = "max_tokens"
    send_stop: bool = True
    send_seed: bool = True
    include_usage: bool = True
    streaming: Literal["as-asked", "always"] = "as-asked"
    passes: Passes = frozenset()
    thoughts_as: Literal["fields", "parts"] = "fields"
    reasoning_effort: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    reasoning_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    connect_s: Seconds = 2.0
    first_event_s: Seconds = Field(30.0, validation_alias=AliasChoices("first_event_s", "first_token_s"))
    first_text_s: Seconds = 120.0
    between_events_s: Seconds = Field(10.0, validation_alias=AliasChoices("between_events_s", "between_tokens_s"))
    total_s: Seconds | None = None
    failures_to_open: Annotated[int, Field(ge=1, le=1_000)] = 5
    open_s: Seconds = 10.0

    @property
    def defaults(self) -> Defaults:
        """System prompt and sampling of this member."""
        return Defaults(self.temperature, self.top_p, self.system)

    @property
    def variables(self) -> tuple[tuple[str, str], ...]:
        """The environment variables that must be set, each after the field that names it."""
        named = [("api_key_env", self.api_key_env)] if self.api_key_env else []
        for field, values in (("headers", self.headers), ("query", self.query)):
            named += [(f"{field}.{name}", value.name) for name, value in values.items() if isinstance(value, FromEnvironment)]
        return tuple(named)


MemberSpec = LocalSpec | OpenAISpec
KINDS: Mapping[str, type[LocalSpec | OpenAISpec]] = {"local": LocalSpec, "openai": OpenAISpec}
