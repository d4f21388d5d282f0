"""Who is calling: an API key becomes a `Caller` with one tenant and, for some keys, the admin right.

    ATTUNE_API_KEYS ──parse_keys──> Keyring ──identify(headers)──> Caller(tenant, admin)

Keys are kept as SHA-256 digests and every digest is compared in constant time, so neither memory nor timing tells a key. A keyring
without keys is open: everybody is the tenant `default` with the admin right, which settings allow on a loopback host only. A caller
touches the keys of its own tenant; that is the store's part. Nothing here knows HTTP beyond two header values.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

from attune.service.errors import Forbidden, Unauthenticated

OPEN_TENANT = "default"

# A tenant is part of every Redis key and hash tag and labels nothing else, so braces, colons and blanks stay out of it.
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[\x21-\x39\x3b-\x7e]{8,256}")


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant whose users a request may touch, and whether it may change what the service serves.

    Attributes:
        tenant: name of the tenant.
        admin: may call `/admin/*`.
        key_id: first eight hex digits of the key's digest, fit for logs and rate limits; `open` without keys.
    """

    tenant: str
    admin: bool
    key_id: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One configured key; only its digest is kept."""

    digest: bytes
    caller: Caller


class Keyring:
    """The keys of one deployment.

    Args:
        keys: every configured key; none makes the keyring open.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def is_open(self) -> bool:
        """True when no key is asked for."""
        return not self._keys

    def identify(self, authorization: str | None, api_key: str | None) -> Caller:
        """Returns the caller that the headers of a request name.

        Args:
            authorization: value of `Authorization`, `Bearer <key>`, or None.
            api_key: value of `x-api-key`, or None; `Authorization` goes first where both are sent.

        Raises:
            Unauthenticated: keys are configured, and none or another was sent.
        """
        if self.is_open:
            return Caller(tenant=OPEN_TENANT, admin=True, key_id="open")
        sent = _bearer(authorization) or api_key
        if not sent:
            raise Unauthenticated("no API key: send `Authorization: Bearer <key>` or `x-api-key: <key>`")
        digest = _digest(sent)
        found: Caller | None = None
        for key in self._keys:  # no early exit: the time taken must not tell which key came close
            if hmac.compare_digest(key.digest, digest):
                found = key.caller
        if found is None:
            raise Unauthenticated("this API key is not known")
        return found


def require_admin(caller: Caller) -> None:
    """Returns when the caller may change what the service serves.

    Raises:
        Forbidden: it may not.
    """
    if not caller.admin:
        raise Forbidden(f"key {caller.key_id} of tenant {caller.tenant} has no admin right; give it one as `key:{caller.tenant}:admin`")


def parse_keys(text: str) -> Keyring:
    """Returns the keyring that `key:tenant` entries describe, separated by commas or line ends; `key:tenant:admin` adds the admin right.

    Blank entries and lines that start with `#` are passed over, so the same form serves an environment variable and a file.

    Raises:
        ValueError: an entry is malformed or a key stands twice; the message counts entries and never repeats a key.
    """
    keys: dict[bytes, ApiKey] = {}
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
    for number, entry in enumerate(entries, start=1):
        key, *rest = entry.split(":")
        if not 1 <= len(rest) <= 2 or (len(rest) == 2 and rest[1] != "admin"):
            raise ValueError(f"entry {number} of {len(entries)}: expected `key:tenant` or `key:tenant:admin`")
        if not _KEY.fullmatch(key):
            raise ValueError(
                f"entry {number} of {len(entries)}: a key has 8 to 256 printable characters without blanks, this one has {len(key)}"
            )
        if not _TENANT.fullmatch(rest[0]):
            raise ValueError(f"entry {number} of {len(entries)}: a tenant has 1 to 64 letters, digits, dots, dashes or underscores")
        digest = _digest(key)
        if digest in keys:
            raise ValueError(f"entry {number} of {len(entries)}: this key stands twice")
        keys[digest] = ApiKey(digest, Caller(tenant=rest[0], admin=len(rest) == 2, key_id=digest.hex()[:8]))
    return Keyring(keys.values())


def _bearer(authorization: str | None) -> str | None:
    scheme, _, credentials = (authorization or "").partition(" ")
    return credentials.strip() or None if scheme.lower() == "bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
