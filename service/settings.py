"""Every setting of the service, read once by each process, before it builds anything.

    arguments of `attune serve`  >  environment (ATTUNE_*)  >  TOML file (ATTUNE_CONFIG)  >  defaults

`read_settings` is the one way in: a name that is not known, a malformed value or a combination that cannot work stops the start and is
named with its source. `Settings` is not passed on; each part takes a small dataclass of the numbers it needs (`numbers_for`). What
depends on the machine as well (keyring, user secret, bundle folder) is settled in `service.machine`.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from attune.service.auth import parse_keys
from attune.service.setting_values import as_meant, check_hosts, check_origins, read_toml, said_of

PREFIX = "ATTUNE_"
LARGEST_BODY = 104_857_600
"""Bytes that no body may go beyond, and that any process has room for."""
CONFIG_VARIABLE = "ATTUNE_CONFIG"


class _HasFields(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Numbers = TypeVar("Numbers", bound=_HasFields)


class Settings(BaseSettings):
    """All settings; the environment variable of a field is `ATTUNE_` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, hide_input_in_errors=True)

    # where it listens and who may call
    host: str = Field("127.0.0.1", description="address to listen on; any other than loopback needs API keys")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="`key:tenant`, comma-separated; `key:tenant:admin` may list users, reload and replay; empty: no keys, loopback only",
    )
    api_keys_file: str = Field("", description="file with one `key:tenant` a line, added to the above")
    user_secret: SecretStr = Field(
        SecretStr(""), description="secret that hashes user ids; the same on every replica; empty: made once in the data directory"
    )
    rate_limit_per_s: float = Field(0.0, ge=0, le=1e6, description="requests per second and API key; 0: no limit")

    keep_alive_s: int = Field(75, ge=1, le=3600, description="how long an idle connection is kept; longer than the load balancer keeps it")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, AfterValidator(check_hosts)] = Field(
        (),
        description="names of `Host` and, without keys, of pages, comma-separated; empty: any with keys, else this machine's; `*`: any",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, AfterValidator(check_origins)] = Field(
        (), description="origins whose pages may call, comma-separated, such as https://app.example; needs API keys"
    )
    user_header: str = Field(
        "",
        pattern=r"^[A-Za-z0-9-]{0,64}$",
        description="header that names the user of a compatible request without `user` or `safety_identifier`, such as x-user-id",
    )
    root_path: str = Field(
        "", pattern=r"^(/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-])?$", description="path that a proxy puts in front, such as /attune"
    )
    max_connections: int = Field(
        16_384, ge=32, le=1_048_576, description="open connections at once, within what the limit on descriptors leaves"
    )

    workers: int = Field(1, ge=1, le=256, description="processes that take requests; above 1 others own the scorer and local members")
    scorers: int = Field(1, ge=1, le=64, description="processes that own a scorer, each on a GPU of its own; above 1 with workers above 1")

    # where things are kept
    data_dir: Path = Field(Path(".attune"), description="folder for the embedded store, bundles and the user secret")
    redis_url: str = Field(
        "",
        repr=False,
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://; empty: an embedded server in the data directory",
    )
    redis_pool_size: int = Field(32, ge=1, le=4096, description="commands to Redis at one time; a call waits for a place")
    redis_timeout_ms: int = Field(1000, ge=10, le=60_000, description="longest wait for Redis, connecting included")
    decision_ttl_s: int = Field(86_400, ge=60, le=2_592_000, description="how long a decision is kept and can be learned from")
    user_ttl_s: int = Field(31_536_000, ge=3600, le=315_360_000, description="how long a user's state is kept after the last comparison")
    max_log_entries: int = Field(10_000, ge=0, le=1_000_000, description="comparisons kept a user for export, replay and taking back")
    keep_text: bool = Field(default=True, description="keep prompts and answers in decisions and the log; false: only features are kept")
    score_later_share: float = Field(
        0.1, ge=0, le=1, description="share of unscored answers that are scored afterwards once members are known; the others by feedback"
    )
    score_later_until: int = Field(200, ge=0, le=1_000_000, description="answers of each member up to which the share does not hold")
    score_later_per_s: float = Field(4.0, ge=0, le=1e6, description="most decisions so scored a second, by tenant and process; 0: no bound")

    # what is served
    bundle: str = Field("", description="bundle folder; empty: the newest bundle-* in the data directory's bundles/")
    bundle_poll_s: float = Field(
        0.0, ge=0, le=3600, description="how often to look for a newer bundle where the present one lies; 0: only at a reload"
    )
    roster: str = Field("", description="members file; empty: the bundle's own")
    family: str = Field("", max_length=64, description="family that serves where a request names none; empty: the bundle's own")
    shadow_families: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="families that learn without serving, comma-separated; empty: all others of the bundle"
    )
    half_life_days: float = Field(0.0, ge=0, le=3650, description="half-life of evidence; 0: nothing fades; a new value starts users anew")
    routing_epsilon: float = Field(0.05, ge=0, le=1, description="share of decisions drawn uniformly over the members")
    routing_hysteresis: float = Field(
        0.0, ge=0, le=1e6, description="with policy `best`, keep the user's last member unless another is better by more; 0: off"
    )
    routing_cost_weight: float = Field(
        0.0, ge=0, le=1e6, description="reward that the dearest member's cost (roster: price, latency_s) takes off; 0: costs do not count"
    )
    routing_price_share: float = Field(0.5, ge=0, le=1, description="share of the price in a member's cost; the rest is its latency")
    posterior_samples: int = Field(
        256, ge=16, le=8192, description="posterior samples for one decision; fewer where samples times members exceeds 65,536"
    )

    # scoring
    require_gpu: bool = Field(default=False, description="refuse to start unless the scorer runs on CUDA")
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8"] = Field(
        "auto", description="the scorer's; fp16 and int8 need a bundle with them, tf32 a GPU, bf16 the extra `openvino`; auto: fp32"
    )
    threads: int = Field(0, ge=0, le=256, description="threads of the scorer, and of a local base; 0: what the cgroup grants")
    batch_budget_tokens: int = Field(0, ge=0, le=1_048_576, description="padded tokens a batch; 0: measured at start")
    queue_max_items: int = Field(4096, ge=1, le=1_048_576, description="texts that may wait for the scorer; more: 429")
    queue_max_tokens: int = Field(1_048_576, ge=512, le=1_073_741_824, description="tokens that may wait for the scorer; more: 429")

    # members
    local_max_batch: int = Field(16, ge=1, le=256, description="generations that a local base runs at once, all its members together")
    local_max_waiting: int = Field(64, ge=1, le=65_536, description="generations that may wait for a local base; more: 429")

    # limits of a request
    max_body_bytes: int = Field(
        0,
        ge=0,
        le=LARGEST_BODY,
        description="largest request body; more: 413; 0: 2 MiB, of chats 50 MiB if a member passes pictures or files",
    )
    large_bodies_bytes: int = Field(
        268_435_456, ge=LARGEST_BODY, le=17_179_869_184, description="what all bodies hold beyond 2 MiB each, until answered; more: 429"
    )
    max_candidates: int = Field(64, ge=1, le=1024, description="most responses in one `/score`")
    max_prompt_chars: int = Field(
        32_768, ge=1, le=1_048_576, description="longest prompt; of a chat, the end that is scored and kept: members read all of it"
    )
    max_response_chars: int = Field(32_768, ge=1, le=1_048_576, description="longest response")
    max_new_tokens: int = Field(4096, ge=1, le=131_072, description="most tokens that one answer may have")
    max_generate_candidates: int = Field(8, ge=1, le=63, description="most candidates in one `/generate`")
    max_in_flight: int = Field(256, ge=1, le=65_536, description="requests admitted at once; more: 429")
    request_deadline_ms: int = Field(30_000, ge=10, le=600_000, description="deadline of a request that generates nothing; after it: 504")
    generate_deadline_ms: int = Field(120_000, ge=10, le=3_600_000, description="deadline of a request that generates; after it: 504")

    body_deadline_ms: int = Field(5_000, ge=10, le=600_000, description="how long a request's body may take to arrive; after it: 408")

    # running it
    ready_needs_store: bool = Field(
        default=True, description="`/readyz` is 503 while the store refuses writes; false: it stays 200 and reports it"
    )
    slow_request_ms: int = Field(10_000, ge=1, le=3_600_000, description="a request that takes longer is logged as a warning")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line that is written")
    tracing: bool = Field(default=False, description="export spans over OTLP, as the OTEL_* variables say; needs the extra `otlp`")
    log_format: Literal["json", "console"] = Field("json", description="one JSON object a line, or coloured text")
    drain_notice_s: int = Field(
        3, ge=0, le=600, description="on SIGTERM, how long `/readyz` is 503 and requests are taken; Ctrl-C skips it"
    )
    drain_s: int = Field(15, ge=1, le=600, description="time that requests in flight have to finish once the port is closed")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Returns the sources, strongest first; .env files and secret folders are left out on purpose: two ways in are enough."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, _read_toml(os.environ))

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: object, info: ValidationInfo) -> object:
        name = info.field_name or ""
        return as_meant(name, value, cls.model_fields[name].annotation) if isinstance(value, str) else value

    @field_validator("max_body_bytes")
    @classmethod
    def _has_room(cls, value: int) -> int:
        if 0 < value < 1024:
            raise ValueError(f"needs at least 1,024 bytes, or 0, which goes by the roster; is {value}")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and "://" not in value:
            raise ValueError("expected a URL such as redis://host:6379/0 or unix:///run/redis.sock")
        return value

    @field_validator("api_keys")
    @classmethod
    def _keys_parse(cls, value: SecretStr) -> SecretStr:
        parse_keys(value.get_secret_value())
        return value

    @field_validator("user_secret")
    @classmethod
    def _secret_is_long(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < 16:
            raise ValueError(f"needs at least 16 characters, has {len(value.get_secret_value())}")
        return value

    @model_validator(mode="after")
    def _works_together(self) -> Self:
        if not self.is_loopback and not self.api_keys.get_secret_value().strip() and not self.api_keys_file:
            raise ValueError(f"host {self.host} can be reached from outside, so ATTUNE_API_KEYS or ATTUNE_API_KEYS_FILE must name keys")
        if self.cors_origins and not self.api_keys.get_secret_value().strip() and not self.api_keys_file:
            raise ValueError("ATTUNE_CORS_ORIGINS lets other sites' pages call, so ATTUNE_API_KEYS or ATTUNE_API_KEYS_FILE must name keys")
        if self.scorers > 1 and self.workers == 1:
            raise ValueError(f"scorers is {self.scorers}, and one process that takes requests has one scorer: set ATTUNE_WORKERS, too")
        if self.user_ttl_s < self.decision_ttl_s:
            raise ValueError(
                f"user_ttl_s {self.user_ttl_s} is shorter than decision_ttl_s {self.decision_ttl_s}: feedback would find no user"
            )
        if self.queue_max_tokens < self.batch_budget_tokens:
            raise ValueError(f"queue_max_tokens {self.queue_max_tokens} cannot hold one batch of {self.batch_budget_tokens} tokens")
        return self

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can reach the host."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BadSetting:
    """One reason not to start."""

    name: str
    source: str
    message: str

    def __str__(self) -> str:
        return f"{self.name} ({self.source}): {self.message}"


class SettingsError(Exception):
    """The settings cannot be used; `problems` has every reason that was found, not only the first."""

    def __init__(self, *problems: BadSetting) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def read_settings(**arguments: object) -> Settings:
    """Returns the settings from arguments, environment, TOML file and defaults, in this order.

    Args:
        **arguments: values by field name that go before all other sources; None stands for "not given".

    Raises:
        SettingsError: with every unknown name, malformed value and impossible combination, each with its source.
    """
    given = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items() if value is not None}
    known = [*map(variable, Settings.model_fields), CONFIG_VARIABLE]
    unknown = [name for name in sorted(os.environ) if name.upper().startswith(PREFIX) and name.upper() not in known]
    # Settings may be in any case; the file is looked for under its name as it is written, and would be passed over.
    unknown += [name for name in os.environ if name != CONFIG_VARIABLE == name.upper()]
    problems = [BadSetting(name, "environment", f"no such setting{_did_you_mean(name, known)}") for name in unknown]
    try:
        settings = Settings(**given)  # type: ignore[arg-type]  # values are checked by the model itself
    except ValidationError as error:
        problems += [_problem(str(item["loc"][0]) if item["loc"] else "", said_of(item), given) for item in error.errors()]
        raise SettingsError(*problems) from None
    if problems:
        raise SettingsError(*problems)
    return settings


def numbers_for(kind: type[Numbers], settings: Settings) -> Numbers:
    """Returns what one part of the service needs of the settings: a dataclass whose fields are named like the settings they hold."""
    return kind(**{name: getattr(settings, name) for name in kind.__dataclass_fields__})


def source_of(name: str) -> str:
    """Returns where the value of a field comes from: environment, the file that `ATTUNE_CONFIG` names, or default.

    Raises:
        SettingsError: that file cannot be read.
    """
    if any(entry.upper() == variable(name) and value for entry, value in os.environ.items()):
        return "environment"
    return os.environ[CONFIG_VARIABLE].strip() if name in _read_toml(os.environ) else "default"


def variable(name: str) -> str:
    """Returns the environment variable of a field."""
    return PREFIX + name.upper()


def _problem(name: str, message: str, given: Mapping[str, object]) -> BadSetting:
    if not name:
        return BadSetting("settings", "together", message)
    if name in given:
        return BadSetting(name, "argument", message)
    in_file = os.environ.get(CONFIG_VARIABLE, "")
    if name not in Settings.model_fields:  # names of the environment were looked at before
        return BadSetting(name, in_file, f"no such setting{_did_you_mean(name, Settings.model_fields)}")
    if any(entry.upper() == variable(name) and value for entry, value in os.environ.items()):
        return BadSetting(variable(name), "environment", message)
    return BadSetting(name, in_file or "default", message)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    by_stem = {entry.upper().removeprefix(PREFIX): entry for entry in known}
    close = difflib.get_close_matches(name.upper().removeprefix(PREFIX), by_stem, n=1)
    return f"; did you mean {by_stem[close[0]]}?" if close else "; `attune settings` lists them"


def _read_toml(environ: Mapping[str, str]) -> dict[str, object]:
    path = environ.get(CONFIG_VARIABLE, "")
    if not path:
        return {}
    try:
        return read_toml(Path(path.strip()))
    except (OSError, ValueError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(BadSetting(CONFIG_VARIABLE, "environment", f"{path} cannot be read: {said}")) from error
