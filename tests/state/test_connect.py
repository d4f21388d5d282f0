"""URLs of stores: the forms that are understood, those that are refused, and that no message holds a password."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from attune.service.errors import StoreUnavailable
from attune.service.state.connect import connect, parse
from attune.service.state.wire import Wire


@pytest.mark.parametrize(
    ("url", "kind", "tls", "nodes", "service", "db", "where"),
    [
        ("redis://localhost", "server", False, (("localhost", 6379),), "", 0, "localhost:6379"),
        ("rediss://me:secret@10.0.0.1:7000/3", "server", True, (("10.0.0.1", 7000),), "", 3, "10.0.0.1:7000"),
        ("redis://[::1]:7000", "server", False, (("::1", 7000),), "", 0, "::1:7000"),
        ("redis://[::1]", "server", False, (("::1", 6379),), "", 0, "::1:6379"),
        ("unix:///var/lib/attune/redis.sock", "server", False, (), "", 0, "unix socket redis.sock"),
        ("redis+sentinel://:secret@a,b:1/main/2", "sentinel", False, (("a", 26379), ("b", 1)), "main", 2, "a:26379,b:1 service main"),
        ("rediss+cluster://a:7000,b:7001", "cluster", True, (("a", 7000), ("b", 7001)), "", 0, "a:7000,b:7001"),
    ],
)
def test_a_url_names_a_server_a_sentinel_or_a_cluster(url, kind, tls, nodes, service, db, where) -> None:
    address = parse(url)
    assert (address.kind, address.tls, address.nodes, address.service, address.db, address.where) == (kind, tls, nodes, service, db, where)
    assert "secret" not in repr(address)
    assert connect(url, max_connections=2, timeout_s=1.0).clustered == (kind == "cluster")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://localhost", "'http' is none of"),
        ("unix://", "'unix' is none of"),
        ("redis+proxy://localhost", "none of"),
        ("redis://:secret@a:port", "'a:port' is not host or host:port"),
        ("redis://:secret@a:0", "not host or host:port"),
        ("redis://:secret@a,b", "names 2 hosts"),
        ("redis://:secret@a/main", "'main'; it must be one number"),
        ("redis://", "not host or host:port"),
        ("redis://:secret@a?socket_timeout=soon", "the query of the URL for a:6379 is malformed"),
        ("redis://:secret@a?colour=red", "the query of the URL for a:6379 is malformed"),
        ("redis://:secret@a?ssl_ca_certs=secret.pem", "the query of the URL for a:6379 is malformed"),
        ("unix://:secret@/a/redis.sock?retry=3", "the query of the URL for unix socket redis.sock is malformed"),
        ("redis+sentinel://:secret@a", "must name the service"),
        ("redis+sentinel://:secret@a/main/one", "must be one number"),
        ("redis+sentinel://:secret@a/main?colour=red", "query fields colour"),
        ("redis+cluster://:secret@a/1", "database 0 only, not 1"),
        ("redis+cluster://:secret@a?db=1", "query fields db"),
    ],
)
def test_a_malformed_url_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        connect(url, max_connections=2, timeout_s=1.0)
    assert "secret" not in str(refused.value)


def test_the_password_reaches_the_client_decoded() -> None:
    assert parse("redis+cluster://me:p%40ss@a").credentials == {"username": "me", "password": "p@ss"}
    sentinel = parse("redis+sentinel://:one@a/main?sentinel_password=two")
    assert sentinel.credentials == {"password": "one", "sentinel_password": "two"}


@pytest.mark.parametrize("layout", ["redis+sentinel://{}/main", "redis+cluster://{}"])
async def test_nodes_that_take_connections_and_never_answer_are_each_asked_for_one_time_limit(layout) -> None:
    asked = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        await reader.read()
        writer.close()

    async with contextlib.AsyncExitStack() as servers:
        nodes = [await servers.enter_async_context(await asyncio.start_server(hang, "127.0.0.1", 0)) for _ in range(3)]
        ports = [node.sockets[0].getsockname()[1] for node in nodes]
        url = layout.format(",".join(f"127.0.0.1:{port}" for port in ports))
        wire = Wire(url, max_connections=2, timeout_s=0.1, observe=lambda *_told: None)
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}.* did not answer get"):
            await wire.run("get", lambda: wire.command("GET", "a"))
        await wire.aclose()
    assert len(asked) <= 4  # three nodes and one more limit; repeats of the library's own would ask dozens of times
