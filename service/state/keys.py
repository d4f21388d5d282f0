"""Names of the keys in Redis, and the seal that every record of a user carries.

    {t:<tenant>:u:<tag>}:sum:<basis>       string   the sum of evidence under one basis
    {t:<tenant>:u:<tag>}:events            hash     hash of an event id -> digest and place in the log; also the names of the bases
    {t:<tenant>:u:<tag>}:log               list     the comparisons, oldest first
    {t:<tenant>:u:<tag>}:replayed:<basis>  hash     number of a log entry -> what a replay added under this basis
    {t:<tenant>:u:<tag>}:decision:<id>     string   one decision record
    {t:<tenant>:u:<tag>}:decisions         zset     decision id -> time at which its pointer expires, ms
    {t:<tenant>:u:<tag>}:last              string   the member that served last, where the deployment asks for it
    {t:<tenant>:u:<tag>}:deleting          zset     decision ids whose pointers a deletion has yet to remove
    {t:<tenant>:u:<tag>}:deleted           string   for a while after a deletion: a random era
    {t:<tenant>:u:<tag>}:refused           set      as long: hashes of the event ids that were deleted
    {t:<tenant>:u:<tag>}:moved             hash     after a merge into another user: hash of an event id -> what is known of it
    {t:<tenant>:u:<tag>}:parted            string   while the user is merged into another; sum, events, log and replayed then lie behind it
    {t:<tenant>:d:<id>}                    string   pointer: decision id -> tag of its user, and tags of those whose it was before a merge
    {t:<tenant>:m}:sum:<basis>             hash     member -> what is known of it, from all users together
    {t:<tenant>:m}:events:<basis>          hash     event id -> nothing: what was added to members once

The braces are a Redis Cluster hash tag: all keys of a user live on one slot; a pointer lives on a slot of its own. Nothing here does I/O.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

TAG_BYTES = 16
ERA_BYTES = 8
MAX_NAME_CHARS = 64
MAX_FORMER = 16

_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_NAME_CHARS}}}")
_OWNED = re.compile(rf"\{{t:([A-Za-z0-9._-]{{1,{MAX_NAME_CHARS}}}):u:([A-Za-z0-9_-]{{22}})\}}:([a-z]+)")
_TAG = re.compile(r"[A-Za-z0-9_-]{22}")

DecisionPlace = Literal["live", "expired", "moved", "foreign", "unknown"]
"""Of a decision, as a user sees it; `moved`: it was theirs before they were merged into another one, whose it is now."""

SUM, DECISION, POINTER, LAST = b"S", b"D", b"P", b"L"


def user_tag(secret: bytes, tenant: str, user: str) -> str:
    """Returns the pseudonym of a user: 128 bits of HMAC-SHA256 as 22 url-safe characters.

    Args:
        secret: the deployment's key, at least 16 bytes; another secret makes every user unknown.
        tenant: the same user id under two tenants gives two tags.
        user: any string, lone surrogates included; it never reaches a key, a log or a trace.

    Raises:
        ValueError: the secret is too short to hide user ids that can be guessed.
    """
    if len(secret) < TAG_BYTES:
        raise ValueError(f"the secret for user tags has {len(secret)} bytes; at least {TAG_BYTES} are needed")
    message = f"{len(tenant)}:{tenant}:{user}".encode("utf-8", "surrogatepass")
    digest = hmac.digest(secret, message, "sha256")
    return base64.urlsafe_b64encode(digest[:TAG_BYTES]).rstrip(b"=").decode("ascii")


def is_name(name: str) -> bool:
    """Returns whether `name` can be part of a key."""
    return _NAME.fullmatch(name) is not None


def checked_name(kind: str, name: str) -> str:
    """Returns `name` if it can be part of a key: letters, digits, `.`, `_` and `-`, 1 to 64 of them.

    Raises:
        ValueError: it cannot, for instance because a brace would move the key to another slot.
    """
    if not is_name(name):
        raise ValueError(
            f"{kind} {name[: MAX_NAME_CHARS + 1]!r} must be 1 to {MAX_NAME_CHARS} letters, digits, dots, underscores or hyphens"
        )
    return name


@dataclass(frozen=True, slots=True)
class UserKey:
    """Whose state is meant: a tenant and the user's tag within it.

    Raises:
        ValueError: the tenant cannot be part of a key, or the tag is not one that `user_tag` makes.
    """

    tenant: str
    tag: str

    def __post_init__(self) -> None:
        checked_name("tenant", self.tenant)
        if _TAG.fullmatch(self.tag) is None:
            raise ValueError(f"a user tag has 22 url-safe characters, not {len(self.tag)}: {self.tag[:23]!r}")

    @property
    def base(self) -> str:
        """The hash-tagged beginning of every key of this user."""
        return f"{{t:{self.tenant}:u:{self.tag}}}"

    @property
    def raw_tag(self) -> bytes:
        """The 16 bytes that the tag stands for."""
        return base64.urlsafe_b64decode(self.tag + "==")

    @property
    def sum_prefix(self) -> str:
        return f"{self.base}:sum:"

    @property
    def replayed_prefix(self) -> str:
        return f"{self.base}:replayed:"

    @property
    def decision_prefix(self) -> str:
        return f"{self.base}:decision:"

    @property
    def events(self) -> str:
        return f"{self.base}:events"

    @property
    def log(self) -> str:
        return f"{self.base}:log"

    @property
    def decisions(self) -> str:
        return f"{self.base}:decisions"

    @property
    def last(self) -> str:
        return f"{self.base}:last"

    @property
    def deleting(self) -> str:
        return f"{self.base}:deleting"

    @property
    def deleted(self) -> str:
        return f"{self.base}:deleted"

    @property
    def refused(self) -> str:
        return f"{self.base}:refused"

    @property
    def moved(self) -> str:
        return f"{self.base}:moved"

    def sum(self, basis: str) -> str:
        return self.sum_prefix + checked_name("basis", basis)

    def replayed(self, basis: str) -> str:
        return self.replayed_prefix + checked_name("basis", basis)

    def decision(self, decision_id: str) -> str:
        return self.decision_prefix + checked_name("decision id", decision_id)


def key_with(tenant: str, raw_tag: bytes) -> UserKey:
    """Returns the key of the user whose tag stands for these 16 bytes."""
    return UserKey(tenant, base64.urlsafe_b64encode(raw_tag).rstrip(b"=").decode("ascii"))


def member_sums_key(tenant: str, basis: str) -> str:
    """Returns the key of the sums of a tenant's members under a basis."""
    return f"{{t:{checked_name('tenant', tenant)}:m}}:sum:{checked_name('basis', basis)}"


def member_events_key(tenant: str, basis: str) -> str:
    """Returns the key of the events that were added to those sums and must not be added again."""
    return f"{{t:{checked_name('tenant', tenant)}:m}}:events:{checked_name('basis', basis)}"


def user_pattern(tenant: str | None, kind: str) -> str:
    """Returns the pattern that one key of every user matches, or of those of one tenant; `kind` is what follows the hash tag."""
    return f"{{t:{'*' if tenant is None else checked_name('tenant', tenant)}:u:*}}:{kind}"


def owner_of(name: str, kind: str) -> UserKey | None:
    """Returns the user whose key of this kind has this name; None if it is no such name."""
    found = _OWNED.fullmatch(name)
    return UserKey(found[1], found[2]) if found and found[3] == kind else None


def pointer_key(tenant: str, decision_id: str) -> str:
    """Returns the key under which the tag of a decision's user is found."""
    return f"{{t:{checked_name('tenant', tenant)}:d:{checked_name('decision id', decision_id)}}}"


def asked_era(era: bytes | None) -> bytes:
    """Returns how a script is asked whether a deletion came after this era; empty if it is not."""
    return b"" if era is None else b"=" + era


class WrongUser(Exception):
    """A reply holds a record that is not the one asked for; it must not be given to anybody."""


def seal_of(kind: bytes, key: UserKey) -> bytes:
    """Returns the 17 bytes that open every record of this kind and user."""
    return kind + key.raw_tag


def unseal(kind: bytes, key: UserKey, record: bytes) -> bytes:
    """Returns the body of a sealed record.

    Raises:
        WrongUser: the record is of another user or of another kind.
    """
    seal = seal_of(kind, key)
    if not record.startswith(seal):
        raise WrongUser(f"asked for a record of kind {kind!r}, got {len(record)} bytes under another seal")
    return record[len(seal) :]


def _id_check(decision_id: str) -> bytes:
    return hashlib.blake2b(decision_id.encode("ascii"), digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Owners:
    """To whom a decision belongs, and whose it was before they were merged into others, the first one first."""

    now: UserKey
    former: tuple[UserKey, ...] = ()


def pack_pointer(key: UserKey, decision_id: str, former: Sequence[UserKey] = ()) -> bytes:
    """Returns the value of a pointer: its user's tag, a check that it answers for this very decision, and the last tags of former users."""
    return seal_of(POINTER, key) + _id_check(decision_id) + b"".join(each.raw_tag for each in former[-MAX_FORMER:])


def unpack_pointer(tenant: str, decision_id: str, pointer: bytes) -> Owners:
    """Returns the user to whom a decision belongs, and whose it was.

    Raises:
        WrongUser: the pointer is of another decision.
    """
    check, end = _id_check(decision_id), 1 + TAG_BYTES
    former = pointer[end + len(check) :]
    if pointer[:1] != POINTER or pointer[end : end + len(check)] != check or len(former) % TAG_BYTES:
        raise WrongUser(f"asked for the pointer of a decision, got {len(pointer)} bytes that are of another one")
    tags = (former[at : at + TAG_BYTES] for at in range(0, len(former), TAG_BYTES))
    return Owners(key_with(tenant, pointer[1:end]), tuple(key_with(tenant, tag) for tag in tags))
