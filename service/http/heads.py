"""What the head of a request says about its host and its body, where HTTP has more than one place for it; and in which characters.

Pure functions; they know no connection.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence

import httptools

_OF_BODIES = frozenset({b"content-length", b"transfer-encoding"})
_LISTS = frozenset({b"content-encoding", b"transfer-encoding"})


def by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Returns headers by their names: what all lines say of how the body is coded, and the last line of any other."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        found[name] = b"%s, %s" % (found[name], value) if name in _LISTS and name in found else value
    return found


def as_written(value: str) -> str:
    """Returns a header's value as its sender wrote it: ASGI's readers make a character of each byte, and clients and proxies send UTF-8."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def bodys_head(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns a head that announces the same body as these headers do, and asks for nothing else."""
    return b"POST / HTTP/1.1\r\n" + b"".join(b"%s: %s\r\n" % header for header in headers if header[0] in _OF_BODIES) + b"\r\n"


def in_origin_form(target: bytes, headers: MutableSequence[tuple[bytes, bytes]]) -> bytes:
    """Returns a target without the host that it may have, which is put in the place of every `Host`.

    Those do not count beside it (RFC 9112, section 3.2.2), and its path may be left out where it is `/`.
    """
    if target.startswith((b"/", b"*")):
        return target
    url = httptools.parse_url(target)
    if not url.host:
        return target
    host = b"[%s]" % url.host if b":" in url.host else url.host
    headers[:] = [header for header in headers if header[0] != b"host"]
    headers.append((b"host", b"%s:%d" % (host, url.port) if url.port else host))
    return (url.path or b"/") + (b"?" + url.query if url.query else b"")
