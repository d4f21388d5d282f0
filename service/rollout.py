"""`attune reload`: asks every replica to load the newest bundle, one after the other, and says whether all of them serve the same.

    http://attune-replicas:8000 ─> every address of the name ─> POST /admin/reload to each ─> a line each ─> one bundle, or not

A Service gives each request to one replica; its headless twin resolves to all of them. A replica that refuses goes on with what it serves.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from attune.client.failures import failure_of, why_silent
from attune.command_line import key_hint

CALL_S = 600.0
"""A bundle is read, verified and warmed within a call."""


class NameNotFound(Exception):
    """A name has no address, or is none."""


@dataclass(frozen=True, slots=True)
class Replica:
    """Where one replica listens: `url` with its address, `host` as its caller named it."""

    url: httpx.URL
    host: str

    @property
    def address(self) -> str:
        """Host and port, as a line names it."""
        return self.url.netloc.decode("ascii")

    @property
    def name(self) -> str:
        """The host without its port, for which a certificate is."""
        return httpx.URL(f"//{self.host}").host


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What one replica did: `bundle` serves now, `before` did; both empty and `reason` set where it refused or did not answer.

    `users_kept` is false where the new bundle's basis is another one.
    """

    address: str
    bundle: str = ""
    before: str = ""
    users_kept: bool = True
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"{self.address}: {self.reason}"
        anew = "" if self.users_kept else "; its basis is another: users begin at the prior until `attune replay` has learned their choices"
        return f"{self.address}: {self.bundle}" + (" as before" if self.bundle == self.before else f" in place of {self.before}{anew}")


def find_replicas(urls: Iterable[str], *, every_address: bool, resolve: Callable[..., list[Any]] = socket.getaddrinfo) -> list[Replica]:
    """Returns the replicas at these URLs, each address once, in the order in which they are found.

    Args:
        urls: `http://` or `https://`, with a host and perhaps a port and a path that a proxy adds.
        every_address: whether a name stands for all of its addresses; else a URL is one replica.
        resolve: as `socket.getaddrinfo`.

    Raises:
        NameNotFound: a URL has no such scheme or host, or its name no address.
    """
    found: dict[httpx.URL, Replica] = {}
    for text in urls:
        try:
            url = httpx.URL(text.rstrip("/"))
        except httpx.InvalidURL as error:
            raise NameNotFound(f"{text} is no URL: {error}") from error
        if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
            raise NameNotFound(f"{text} is no URL of a server; http://host:port is meant")
        places = [url]
        if every_address:
            port = url.port or (443 if url.scheme == "https" else 80)
            try:
                answers = resolve(url.host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:  # a name that is no name of a host
                raise NameNotFound(f"{url.host} has no address: {getattr(error, 'strerror', None) or error}") from error
            places = [url.copy_with(host=answer[4][0], port=port) for answer in answers]
        for place in places:
            found.setdefault(place, Replica(place, url.netloc.decode("ascii")))
    return list(found.values())


def reload_replica(replica: Replica, *, bundle: str | None, key: str, client: httpx.Client) -> Reloaded:
    """Returns what a replica did; a refusal or silence is a reason and no error, since others are still to be asked.

    Args:
        replica: where it listens.
        bundle: folder of the bundle on the server; None for the one that is configured.
        key: an API key with the admin right; empty sends none.
        client: sends the request; left open.
    """
    headers = {"host": replica.host} | ({"authorization": f"Bearer {key}"} if key else {})
    named = {"sni_hostname": replica.name}  # a certificate is for the name, not for an address
    try:
        answer = client.post(f"{replica.url}/admin/reload", json={"bundle": bundle}, headers=headers, extensions=named, timeout=CALL_S)
    except httpx.HTTPError as error:
        return Reloaded(replica.address, reason=f"did not answer: {why_silent(error)}")
    if answer.status_code != httpx.codes.OK:
        said = failure_of(answer.status_code, answer.content, answer.headers)
        return Reloaded(replica.address, reason=f"{said}{key_hint(said.status)}")
    try:
        told = answer.json()
        return Reloaded(replica.address, bundle=str(told["bundle"]), before=str(told["before"]), users_kept=bool(told["users_kept"]))
    except (ValueError, KeyError, TypeError):
        return Reloaded(replica.address, reason="answered, and names no bundle; is it an Attune?")


def verdict(done: list[Reloaded]) -> str:
    """Returns what is wrong after a rollout, in one sentence; empty where every replica serves the same bundle."""
    failed = sum(bool(each.reason) for each in done)
    bundles = {each.bundle for each in done if each.bundle}
    if failed:
        return f"{failed} of {len(done)} did not load the bundle; who refuses one goes on with the bundle that serves"
    if len(bundles) > 1:
        return f"{len(bundles)} bundles serve side by side; do the replicas read the same folder?"
    return ""
