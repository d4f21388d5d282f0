"""What a load test says where the server that it is to measure cannot be asked: one sentence, and no traceback."""

from __future__ import annotations

import http.client
import socket
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx

_UNREACHABLE: tuple[type[Exception], ...] = (
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    urllib.error.URLError,
    http.client.HTTPException,
    httpx.TransportError,
)


@contextmanager
def reaching(url: str, *also: type[Exception]) -> Iterator[None]:
    """Ends the program with a sentence where the address is none, or where the server cannot be reached within.

    Args:
        url: of the server.
        also: what a library raises there, beside those of Python and of httpx.
    """
    try:
        split = urlsplit(url)
        usable = split.scheme == "http" and bool(split.hostname) and split.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SystemExit(f"--url is the address of a server, such as http://127.0.0.1:8000, and not {url!r}")
    try:
        yield
    except _UNREACHABLE + also as error:
        raise SystemExit(f"the server at {url} cannot be asked: {error}") from None
