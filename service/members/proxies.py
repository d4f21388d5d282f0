"""Which proxy a server is reached through: the usual variables of the environment, and never for this machine itself.

    HTTP_PROXY or HTTPS_PROXY by the server's scheme, else ALL_PROXY, small letters first; NO_PROXY names exceptions

Pure functions of a URL and an environment.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """Returns the proxy's URL, None for a direct connection.

    Raises:
        ValueError: the variable that applies names something that is no http or https proxy; the message has its name.
    """
    parts = urlsplit(url)
    host, port = (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)
    if is_loopback(host):
        return None
    name, value = _first(environ, f"{parts.scheme}_proxy", "all_proxy")
    if not value or _excepted(host, port, _first(environ, "no_proxy")[1]):
        return None
    address = value if "://" in value else f"http://{value}"
    try:
        proxy = urlsplit(address)
        usable = proxy.scheme.lower() in {"http", "https"} and bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        usable, proxy = False, urlsplit("")
    if not usable:
        kind = (
            f"a {proxy.scheme} proxy" if re.fullmatch(r"[a-z0-9+.-]{1,20}", proxy.scheme) and proxy.scheme != "http" else "no usable proxy"
        )
        raise ValueError(
            f"the environment variable {name} names {kind}; http:// and https:// proxies can be used: unset it, or add {host} to NO_PROXY"
        )
    return address


def shown_proxy(proxy: str) -> str:
    """Returns host and port of a proxy, without its user and password."""
    parts = urlsplit(proxy)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, in any spelling that a connection would take."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    if re.fullmatch(r"[0-9a-fx.]+", host) and host[0].isdigit():
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1, 0x7f000001
        except OSError:
            return None
    return None


def _first(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    """Returns the first of the variables that is set to something, with its name as it is spelt."""
    for name in names:
        for spelt in (name, name.upper()):
            if value := environ.get(spelt, "").strip():
                return spelt, value
    return "", ""


def _excepted(host: str, port: int, exceptions: str) -> bool:
    """Whether NO_PROXY names the server: `*`, a name and all below it, an address, a network, each also with a port."""
    address = _address(host)
    for entry in re.split(r"[\s,]+", exceptions.lower()):
        name, colon, wanted_port = entry.rpartition(":")
        if colon and name and wanted_port.isdigit() and (":" not in name or name.startswith("[")):
            if int(wanted_port) != port:
                continue
            entry = name  # noqa: PLW2901 -- the port was compared
        entry = entry.strip("[]").removeprefix("*.").lstrip(".")  # noqa: PLW2901 -- the spellings of one exception
        if not entry:
            continue
        if entry in {"*", host} or host.endswith(f".{entry}"):
            return True
        if address is not None and _in_network(address, entry):
            return True
    return False


def _in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
