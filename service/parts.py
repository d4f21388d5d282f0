"""What `attune serve` and `attune check` do alike before a bundle is loaded: the checks that cost nothing, the store, and reasons.

    check_cheap(settings) ─> open_store ─> load_serving

Every refusal is an exception of its own kind; `explain` says of each which kind it is, why, and which setting changes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from attune.command_line import how_to_install
from attune.models.seam.bundle import BundleInvalid, read_manifest
from attune.service.auth import Keyring
from attune.service.errors import AttuneError, BundleRefused, StoreUnavailable
from attune.service.live.opened_scorer import RefusedForSetting
from attune.service.machine import find_bundle, load_keyring, load_user_secret, scorer_devices
from attune.service.members.build import check_members
from attune.service.members.member import UnusableMember
from attune.service.members.roster_file import read_roster
from attune.service.observe.metrics import Metrics
from attune.service.observe.tracing import Spans
from attune.service.settings import BadSetting, Settings, SettingsError, variable
from attune.service.state import store as state
from attune.service.state.connect import parse
from attune.service.state.data_dir import EmbeddedRedisError, check_unused, directory_of, is_url_of
from attune.service.state.disk_room import DiskRoom
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot start.

    Attributes:
        kind: settings, store, bundle, members, library or unexpected.
        reason: one sentence.
        setting: the environment variable that changes it; empty where none does.
    """

    kind: str
    reason: str
    setting: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" + (f" (see {self.setting})" if self.setting else "")


_KINDS: tuple[tuple[type[Exception], str, str], ...] = (
    (EmbeddedRedisError, "store", variable("data_dir")),
    (StoreUnavailable, "store", variable("redis_url")),
    (UnusableMember, "members", variable("roster")),
    (BundleRefused, "bundle", variable("bundle")),
    (AttuneError, "part", ""),
    (ImportError, "library", ""),
    (OSError, "system", ""),
)


def explain(error: Exception) -> Refusal:
    """Returns what an exception at start means for whoever starts it."""
    if isinstance(error, SettingsError):
        return Refusal("settings", "; ".join(map(str, error.problems)), error.problems[0].name if error.problems else "")
    cause = error.__cause__ if isinstance(error, BundleRefused) and isinstance(error.__cause__, UnusableMember) else error
    if isinstance(cause, RefusedForSetting):
        return Refusal("bundle", str(error), variable(cause.setting))
    for kind, name, setting in _KINDS:
        if isinstance(cause, kind):
            hint = "; the extras cpu, gpu and local bring what serving needs" if kind is ImportError else ""
            return Refusal(name, f"{error}{hint}", setting)
    return Refusal("unexpected", f"{type(error).__name__}: {error}")


def check_cheap(settings: Settings) -> Keyring:
    """Returns the keyring after all checks that cost nothing: keys, the store's URL, the roster, the bundle's manifest.

    Raises:
        SettingsError: with everything that was found, not only the first.
    """
    problems: list[BadSetting] = []
    keyring = Keyring()
    try:
        keyring = load_keyring(settings)
    except SettingsError as error:
        problems += error.problems
    if settings.redis_url:
        try:
            parse(settings.redis_url)
        except ValueError as error:
            problems.append(BadSetting(variable("redis_url"), "the URL", str(error)))
    if settings.roster:
        try:
            check_members(read_roster(Path(settings.roster)), Path(settings.roster).parent)
        except UnusableMember as error:
            problems.append(BadSetting(variable("roster"), settings.roster, str(error)))
    for find in (find_spans, scorer_devices, _find_manifest):
        try:
            find(settings)
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(*problems)
    return keyring


def _find_manifest(settings: Settings) -> None:
    try:
        read_manifest(find_bundle(settings))
    except (BundleInvalid, OSError) as error:
        raise SettingsError(BadSetting(variable("bundle"), str(settings.bundle or settings.data_dir), str(error))) from error


def check_data_dir(settings: Settings) -> None:
    """Returns if this start may have its data directory, before anything slow.

    Raises:
        SettingsError: the user secret cannot be read, or not be kept there.
        EmbeddedRedisError: another Attune has it, or the embedded store cannot be kept there.
    """
    load_user_secret(settings)  # made once, before several processes would
    if not settings.redis_url:
        check_unused(settings.data_dir)


def find_spans(settings: Settings) -> Callable[[], Spans] | None:
    """Returns what opens the exporter of spans; None where tracing is off, and then OpenTelemetry is not imported.

    Raises:
        SettingsError: the extra is missing, or the OTEL_* variables ask for what is not done here.
    """
    if not settings.tracing:
        return None
    try:
        from attune.service.observe.spans import OtlpSpans, refuse_others  # noqa: PLC0415  an extra

        refuse_others(os.environ)
    except ImportError as error:
        missing = f"spans need OpenTelemetry ({error}); install it: {how_to_install('otlp')}"
        raise SettingsError(BadSetting(variable("tracing"), "the installation", missing)) from error
    except ValueError as error:
        raise SettingsError(BadSetting(variable("tracing"), "environment", str(error))) from error
    return OtlpSpans


def store_bounds(settings: Settings) -> state.Limits:
    """Returns the bounds of what is kept."""
    return state.Limits(user_ttl_s=settings.user_ttl_s, max_log=settings.max_log_entries)


async def open_store(settings: Settings, metrics: Metrics, parts: AsyncExitStack) -> tuple[state.Store, str]:
    """Returns the store and whether it is `external` or `embedded`; it is closed with `parts`.

    Raises:
        EmbeddedRedisError: the server in the data directory does not start.
    """
    url, no_room = settings.redis_url, None
    if not url:
        embedded = await parts.enter_async_context(EmbeddedRedis(settings.data_dir))
        url, no_room = embedded.url, embedded.no_room
    elif is_url_of(settings.data_dir, url):  # of several processes, the parent runs it
        no_room = DiskRoom(directory_of(settings.data_dir)).lacks
    store = RedisStore(
        url,
        limits=store_bounds(settings),
        max_connections=settings.redis_pool_size,
        timeout_s=settings.redis_timeout_ms / 1000,
        observe=metrics.store_ran,
        confirm=True,
        must_tell=no_room is not None,  # what another server may tell is its operator's to decide
        no_room=no_room,
    )
    parts.push_async_callback(store.aclose)
    return store, "external" if no_room is None else "embedded"
