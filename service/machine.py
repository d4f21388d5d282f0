"""What is settled from settings and the machine together, once, at start: keyring, user secret, bundle folder.

Each function takes the settings and touches the disk; what it cannot settle is a `SettingsError` that names the setting and the path.
Nothing here knows how the values are used.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from attune.models.seam.artefacts import it_is
from attune.models.seam.counts import counted
from attune.models.seam.json_lines import parse_json
from attune.service.auth import Keyring, parse_keys
from attune.service.settings import BadSetting, Settings, SettingsError, variable

VISIBLE = "CUDA_VISIBLE_DEVICES"


def scorer_devices(settings: Settings) -> list[dict[str, str]]:
    """Returns what each scorer's process has in its environment, so that each sees one GPU of its own; one alone sees all.

    Raises:
        SettingsError: CUDA_VISIBLE_DEVICES names fewer GPUs than there are to be scorers.
    """
    scorers, visible = settings.scorers, os.environ.get(VISIBLE, "")
    if scorers == 1:
        return [{}]
    named = [name.strip() for name in visible.split(",")] if visible else [str(index) for index in range(scorers)]
    if len(named) < scorers:
        raise SettingsError(BadSetting(variable("scorers"), str(scorers), f"{VISIBLE} names {counted(len(named), 'GPU')}"))
    return [{VISIBLE: name} for name in named[:scorers]]


def load_keyring(settings: Settings) -> Keyring:
    """Returns the keys of `api_keys` and `api_keys_file` together; open where neither is set.

    Raises:
        SettingsError: the file cannot be read, an entry is malformed, or the host is not loopback and the file holds no key.
    """
    text = settings.api_keys.get_secret_value()
    if settings.api_keys_file:
        try:
            text = f"{text}\n{Path(settings.api_keys_file).read_text(encoding='utf-8')}"
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(BadSetting(variable("api_keys_file"), settings.api_keys_file, f"cannot be read: {_said(error)}")) from error
    try:
        keyring = parse_keys(text)
    except ValueError as error:
        raise SettingsError(BadSetting(variable("api_keys_file"), settings.api_keys_file, str(error))) from error
    if keyring.is_open and not settings.is_loopback:
        raise SettingsError(
            BadSetting(variable("api_keys_file"), settings.api_keys_file, f"holds no key, and host {settings.host} needs one")
        )
    return keyring


def load_user_secret(settings: Settings) -> bytes:
    """Returns the secret that hashes user ids; makes `user.secret` (mode 0600) in the data directory where none is set.

    Losing the secret loses every user: their keys can no longer be computed.

    Raises:
        SettingsError: the data directory or the file cannot be made, the file cannot be read, or holds fewer than 16 bytes.
    """
    if secret := settings.user_secret.get_secret_value():
        return secret.encode()
    path = settings.data_dir / "user.secret"
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(BadSetting(variable("data_dir"), str(settings.data_dir), f"cannot be a folder: {_said(error)}")) from error
    try:
        if not path.exists():
            # Written aside and linked into place: of two processes that start at once, both read the one that was first.
            fresh = path.with_name(f".user.secret.{secrets.token_hex(8)}")
            fresh.touch(mode=0o600, exist_ok=False)
            fresh.write_text(secrets.token_hex(32), encoding="ascii")
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        secret_bytes = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(BadSetting(variable("user_secret"), str(path), f"cannot be kept: {_said(error)}")) from error
    if len(secret_bytes) < 16:
        raise SettingsError(BadSetting(variable("user_secret"), str(path), f"needs at least 16 bytes, has {len(secret_bytes)}"))
    return secret_bytes


_NONE_THERE = (
    "no bundle-* there; `attune bundle demo` makes the demo's, `attune bundle build` your own, and --bundle names one that is elsewhere"
)


def find_bundle(settings: Settings) -> Path:
    """Returns the folder of the bundle to load: the one that is named, else the newest complete one in the data directory.

    A bundle is complete when its manifest, written last, is there.

    Raises:
        SettingsError: there is none; the message says how to make one.
    """
    if settings.bundle:
        if not (Path(settings.bundle) / "manifest.json").is_file():
            there = "" if Path(settings.bundle).exists() else "; there is no such folder"
            found = f"no manifest.json there, so it is no complete bundle{there}{it_is(settings.bundle)}"
            raise SettingsError(BadSetting(variable("bundle"), settings.bundle, found))
        return Path(settings.bundle).resolve()  # a link may be moved while its bundle is read
    folder = settings.data_dir / "bundles"
    manifests = sorted(folder.glob("bundle-*/manifest.json"), key=lambda path: (path.stat().st_mtime, path.parent.name))
    if not manifests:
        raise SettingsError(BadSetting(variable("bundle"), str(folder), _NONE_THERE))
    return manifests[-1].parent


def bundle_there(settings: Settings) -> str:
    """Returns the id of the bundle that a start would load now.

    Raises:
        OSError, ValueError: there is none, or its manifest cannot be read.
    """
    try:
        folder = find_bundle(settings)
    except SettingsError as error:
        raise FileNotFoundError(str(error)) from error
    manifest = parse_json((folder / "manifest.json").read_bytes())
    if not isinstance(manifest, dict) or "id" not in manifest:
        raise ValueError(f"{folder / 'manifest.json'} names no bundle")
    return str(manifest["id"])


UPSTREAM_CONNECTIONS = 256
"""What the members' client may hold open."""


def descriptors_for_callers(store_connections: int) -> int:
    """Returns how many connections callers may hold open, of the descriptors that this process may have; raises its limit first.

    What is left is for the store, members and files: as much as they may need, and half where that is more than there is.
    """
    import resource  # noqa: PLC0415  not on every system, and then there is nothing to ask

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    most = 65_536 if soft == resource.RLIM_INFINITY else soft
    return most - min(most // 2, 64 + store_connections + UPSTREAM_CONNECTIONS)


def cautions(settings: Settings) -> list[str]:
    """Returns what is allowed and probably not meant; the app logs each as a warning at start."""
    found = []
    if settings.redis_url and not settings.user_secret.get_secret_value():
        found.append("user_secret is made in this data directory: replicas that share a Redis must be given the same ATTUNE_USER_SECRET")
    if settings.half_life_days and settings.half_life_days * 86_400 > settings.user_ttl_s:
        found.append(f"half_life_days {settings.half_life_days:g} is longer than user_ttl_s {settings.user_ttl_s}")
    return found


def _said(error: Exception) -> str:
    """Returns what an error says, without the number and the path that an operating system's errors have around their words."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
