"""What commands that call a running server share: where it is, one client of it, and its refusals as a line each.

with at_server(url, key_env) as client: ... ─> refused, failed or silent ─> CallFailed ─> one line, exit code 1
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from attune.command_line import key_hint, key_in

if TYPE_CHECKING:
    from attune.client import Client

DEFAULT_URL = "http://127.0.0.1:8000"

SILENCE_S = 20.0
"""Longest that somebody at a terminal waits for a sign of the server, for each try."""

TRIES_AGAIN = 2


class CallFailed(Exception):
    """A server did not do what it was asked for.

    Args:
        said: which server, and why.
        may_pass: whether the same call may do it later, or has done it unseen.
    """

    def __init__(self, said: str, *, may_pass: bool = False) -> None:
        super().__init__(said)
        self.may_pass = may_pass


def known_url(text: str) -> str:
    """Returns the address of a server as given.

    Raises:
        typer.BadParameter: it can be none.
    """
    try:
        parts = urlsplit(text)
        fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        fine = False
    if not fine or not text.isprintable() or " " in text:
        raise typer.BadParameter(f"{text!r} is no address of a server; http://HOST:PORT is meant")
    return text


Url = Annotated[str, typer.Option("--url", callback=known_url, help="Address of a running Attune.")]
"""How every command that calls one server is told where it is."""


@contextmanager
def at_server(url: str, key_env: str) -> Iterator[Client]:
    """Gives a client of the server at `url`, with the key that the variable `key_env` holds, and closes it.

    Raises:
        CallFailed: the server refused, failed, or did not answer.
        typer.BadParameter: the variable holds no key.
    """
    from attune.client import AttuneFailed, AttuneUnreachable, Client  # noqa: PLC0415  the help stays fast without httpx

    key = key_in(key_env) or None
    try:
        made = Client(url, key, timeout_s=SILENCE_S, retries=TRIES_AGAIN)
    except OSError as error:  # the only files that it reads, and no word of which
        why = (error.strerror or str(error)).lower()
        raise CallFailed(f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {why}") from error
    with made as client:
        try:
            yield client
        except AttuneFailed as error:
            may_pass = error.status >= 500 or error.status == 429
            raise CallFailed(f"{url} answered {error}{key_hint(error.status, error.code)}", may_pass=may_pass) from error
        except AttuneUnreachable as error:
            raise CallFailed(str(error), may_pass=True) from error


def same_server(url: str, key_env: str) -> list[str]:
    """Returns the options with which another command calls the same server."""
    return [*(["--url", url] if url != DEFAULT_URL else []), *(["--key-env", key_env] if key_env else [])]


def as_typed(*words: str) -> str:
    """Returns a command as it is typed into a shell, in one line."""
    return " ".join(["attune", *map(quoted, words)])


def quoted(word: str) -> str:
    """Returns a word as it is typed into a shell."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(f'{chr(92)}x{byte:02x}' for byte in word.encode())}'"  # bash, ksh and zsh; terminals act on some signs


def named(name: str) -> str:
    """Returns a name as a line of output shows it: as it stands, or quoted where that would be no line or hide where it ends."""
    return name if name.isprintable() and name == name.strip() and name else repr(name)
