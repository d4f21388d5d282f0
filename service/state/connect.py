"""From a URL to a redis-py client: one server, Sentinel or Cluster.

    redis://[user:password@]host[:port][/db]        rediss:// with TLS        unix:///path/to/socket[?db=0]
    redis+sentinel://[user:password@]host[:port],host[:port]/service[/db]     rediss+sentinel:// with TLS to the servers
    redis+cluster://[user:password@]host[:port],host[:port]                   rediss+cluster:// with TLS

Connections are bounded, have timeouts, and speak RESP2 (no push messages that a reply could be mistaken for). redis-py repeats nothing by
itself: behind Sentinel it would repeat to the old primary, on a cluster without asking which operation it is; `Wire` does that.
`where` names the server for messages and never holds the password.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from attune.service.state.one_connection import OneConnection

_PORTS = {"sentinel": 26379, "cluster": 6379}
_QUERY_FIELDS = {"sentinel": {"sentinel_username", "sentinel_password"}, "cluster": set[str]()}


class Client(Protocol):
    """The little of redis-py that the store uses, alike on a server, behind Sentinel and on a cluster."""

    def execute_command(self, *args: Any) -> Awaitable[Any]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Connected:
    """A client that connects when first used.

    Attributes:
        where: what it is called in messages.
        clustered: whether keys of one command must be on one slot.
        limit_s: for a command with all that it needs: asking one sentinel or node after the other, the command, a repeat; None where
            the client bounds every command itself.
        after_sent: calls what it is given once all commands that were sent are answered; None where a caller who leaves a command could
            leave its reply to another caller.
        aclose: closes every connection.
    """

    client: Client
    where: str
    clustered: bool
    limit_s: float | None
    after_sent: Callable[[Callable[[], None]], None] | None
    aclose: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL; `repr` and `where` keep the password out."""

    kind: Literal["server", "sentinel", "cluster"]
    tls: bool
    nodes: tuple[tuple[str, int], ...]
    service: str
    db: int
    credentials: dict[str, str]
    where: str

    def __repr__(self) -> str:
        return f"Address({self.kind}, {self.where})"


def parse(url: str) -> Address:
    """Returns what a URL names.

    Raises:
        ValueError: the URL is malformed; the message quotes the scheme and the offending part, never the password.
    """
    parts = urlsplit(url)
    scheme, _, layout = parts.scheme.partition("+")
    if scheme == "unix" and not layout and parts.path:
        return Address("server", False, (), "", 0, {}, f"unix socket {parts.path.rsplit('/', 1)[-1]}")
    if scheme not in {"redis", "rediss"} or layout not in {"", "sentinel", "cluster"}:
        raise ValueError(f"scheme {parts.scheme!r} is none of redis, rediss, unix, redis+sentinel, redis+cluster")
    kind = cast("Literal['server', 'sentinel', 'cluster']", layout or "server")
    user_info, _, hosts = parts.netloc.rpartition("@")
    nodes = tuple(_node(host, _PORTS.get(layout, 6379)) for host in hosts.split(","))
    if kind == "server" and len(nodes) > 1:
        raise ValueError(f"{scheme}:// names {len(nodes)} hosts; several hosts need {scheme}+sentinel:// or {scheme}+cluster://")
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = ""
    if kind == "sentinel":
        if not path:
            raise ValueError(f"{parts.scheme}:// must name the service: {parts.scheme}://host:port/service")
        service = path.pop(0)
    if len(path) > 1 or (path and not path[0].isdecimal()):
        raise ValueError(f"{parts.scheme}:// has the database {'/'.join(path)!r}; it must be one number")
    db = int(path[0]) if path else 0
    if kind == "cluster" and db:
        raise ValueError(f"a cluster has database 0 only, not {db}")
    where = ",".join(f"{host}:{port}" for host, port in nodes) + (f" service {service}" if service else "")
    return Address(kind, scheme == "rediss", nodes, service, db, _credentials(parts, user_info, kind), where)


def _node(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(default_port)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not host or host:port")
    return host.strip("[]"), int(port)


def _credentials(parts: SplitResult, user_info: str, kind: str) -> dict[str, str]:
    username, colon, password = user_info.partition(":")
    given = {"username": unquote(username), "password": unquote(password)} if colon else {"username": unquote(username)}
    if kind != "server":
        query = dict(parse_qsl(parts.query))
        unknown = sorted(set(query) - _QUERY_FIELDS[kind])
        if unknown:
            raise ValueError(f"{parts.scheme}:// does not know the query fields {', '.join(unknown)}")
        given |= query
    return {name: value for name, value in given.items() if value}


def connect(url: str, *, max_connections: int, timeout_s: float) -> Connected:
    """Returns a client for `url`; nothing is sent yet.

    Args:
        url: one of the forms above; `redis://`, `rediss://` and `unix://` take redis-py's query fields too.
        max_connections: to each node behind Sentinel or of a cluster; one server has one.
        timeout_s: for a command to one server; else for connecting, for each read of a reply and for each write. Behind Sentinel and on
            a cluster a command may take as many of them as the URL names nodes, each of which may hang, and one more.

    Raises:
        ValueError: the URL is malformed.
    """
    address = parse(url)
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "protocol": 2,
        "driver_info": None,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.kind == "server":
        # `OneConnection` has one for the whole command. Left out, redis-py would take five seconds, and wait for writes in a way that
        # swallows a cancellation on Python 3.11.
        options["socket_timeout"] = None
        if url.startswith("unix:"):
            del options["socket_keepalive"]  # a Unix connection does not take it
        try:
            pool = ConnectionPool.from_url(url, **options)
            pool.connection_kwargs["protocol"] = 2  # the URL's query comes before what is given, and 3 has messages that answer nothing
            pool.make_connection()  # type: ignore[no-untyped-call]  # sends nothing, and is where redis-py reads what the query holds
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"the query of the URL for {address.where} is malformed") from error
        direct = OneConnection(pool, timeout_s)
        return Connected(direct, address.where, False, None, direct.after_sent, direct.aclose)
    limit_s = (len(address.nodes) + 1) * timeout_s
    login: dict[str, Any] = {name: value for name, value in address.credentials.items() if not name.startswith("sentinel_")}
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.nodes]
        # reinitialize_steps=0: a slot that moved is learned alone. Refreshing everything would close connections under running commands.
        cluster = RedisCluster(
            startup_nodes=nodes, max_connections=max_connections, ssl=address.tls, reinitialize_steps=0, **login, **options
        )
        return Connected(cast("Client", cluster), address.where, True, limit_s, None, cluster.aclose)
    to_sentinels = {name.removeprefix("sentinel_"): value for name, value in address.credentials.items() if name.startswith("sentinel_")}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        list(address.nodes), sentinel_kwargs={**options, **to_sentinels}
    )
    primary = sentinel.master_for(address.service, db=address.db, max_connections=max_connections, ssl=address.tls, **login, **options)

    async def close_both() -> None:
        await primary.aclose()
        await sentinel.aclose()

    return Connected(cast("Client", primary), address.where, False, limit_s, None, close_both)
