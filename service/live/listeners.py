"""Sockets of several processes behind one address, among which the kernel spreads connections."""

from __future__ import annotations

import socket
from typing import Any


def shared_listener(like: socket.socket, address: Any) -> socket.socket:
    """Returns one more socket bound to an address that others of the same kind have."""
    listener = socket.socket(like.family, like.type, like.proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(address)
    return listener


def shared_sockets(host: str, port: int, count: int) -> list[socket.socket]:
    """Returns `count` sockets bound to one address, among which the kernel spreads connections; port 0 becomes one number for all.

    Raises:
        OSError: the address cannot be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(family, kind, protocol) as like:
        first = shared_listener(like, address)
    return [first, *(shared_listener(first, first.getsockname()) for _ in range(count - 1))]
