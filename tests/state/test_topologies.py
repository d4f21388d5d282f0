"""The same store on a real Redis Cluster and behind a real Sentinel."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from redis import cluster as rediscluster
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot
from redis.exceptions import ResponseError

from attune.service.errors import EventConflict, StoreUnavailable, UserDeleted
from attune.service.state.codec import event_digest
from attune.service.state.keys import pointer_key
from attune.service.state.redis_store import RedisStore, unobserved
from attune.service.state.store import Limits, LoggedComparison, UserKey
from tests.state.conftest import BASIS, comparison, key_of
from tests.state.servers import raw_server

pytestmark = pytest.mark.slow  # starts a cluster and a sentinel


def free_ports(count: int) -> list[int]:
    """Returns ports of the loopback that were free a moment ago."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@pytest.fixture(scope="module")
def cluster_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """Two nodes with half of the slots each: the smallest cluster in which a key can be on the wrong one."""
    first, second, *buses = free_ports(4)
    directories = [tmp_path_factory.mktemp(f"node-{n}") for n in range(2)]

    def node(n: int) -> list[str]:
        ports = [first, second]
        return [
            *("--port", str(ports[n]), "--cluster-enabled", "yes", "--cluster-port", str(buses[n])),
            *("--cluster-announce-ip", "127.0.0.1"),
        ]

    with raw_server(directories[0], *node(0)) as one, raw_server(directories[1], *node(1)) as other:
        clients = [redis.Redis(port=port, protocol=2) for port in (first, second)]
        clients[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        clients[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        clients[1].execute_command("CLUSTER", "SET-CONFIG-EPOCH", 2)
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", second, buses[1])
        for process in (one, other):
            assert process.stdout is not None
            assert any("Cluster state changed: ok" in line for line in process.stdout)
        yield [first, second]
        for client in clients:
            client.close()


async def test_on_a_cluster_users_are_spread_and_every_operation_works(cluster_ports: list[int]) -> None:
    first, second = cluster_ports
    store = RedisStore(f"redis+cluster://127.0.0.1:{first},127.0.0.1:{second}", limits=Limits(max_decisions=3))
    users = [key_of("acme", f"user-{n}") for n in range(8)]
    raw = RedisCluster(host="127.0.0.1", port=first, protocol=2)
    await raw.initialize()
    nodes = {raw.get_node_from_key(key.base).port for key in users}
    assert nodes == {first, second}

    async def live(n: int) -> None:
        key = users[n]
        for event in range(5):
            added = await store.add_comparison(key, comparison(f"event-{event}", [float(n), float(event)], basis=f"basis-{event % 2}"))
            assert added.result == "applied"
        assert (await store.add_comparison(key, comparison("event-4", [float(n), 4.0], basis="basis-0"))).result == "duplicate"
        with pytest.raises(EventConflict):
            await store.add_comparison(key, comparison("event-4", [float(n), 4.0], basis="basis-0", body=b"other"))
        after = await store.take_back(key, "basis-1", "event-4")  # of basis-0
        assert after is not None
        assert after.evidence.tolist() == [2.0 * n, 4.0]
        for decision in range(5):
            await store.write_decision(key, f"decision-{n}-{decision}", b"record %d" % decision, 100.0)
        found = await store.read(key, "basis-0", decisions=[f"decision-{n}-3", f"decision-{n}-4", f"decision-{n}-0"])
        held, decisions = found.sum, found.decisions
        assert held is not None
        assert held.evidence.tolist() == [2.0 * n, 2.0]
        assert decisions == {f"decision-{n}-3": b"record 3", f"decision-{n}-4": b"record 4"}
        assert await store.read_decision("acme", f"decision-{n}-4") == (key.tag, b"record 4")
        assert await store.locate_decision(users[n - 1], f"decision-{n}-4") == "foreign"
        assert await store.locate_decision(key, f"decision-{n}-0") == "unknown"

    await asyncio.gather(*(live(n) for n in range(8)))
    await store.ping()
    exported = [each async for each in store.export(users[3])]
    assert sum(isinstance(each, LoggedComparison) for each in exported) == 4

    await store.check_writes()
    assert (await store.memory()) is not None
    each = [redis.Redis(port=port, protocol=2) for port in (first, second)]
    for client, limit in zip(each, (2**33, 2**34), strict=True):
        client.config_set("maxmemory", limit)
    told = await store.memory()
    assert told is not None
    assert told.limit_bytes == 2**33 + 2**34
    assert told.used_bytes > max(client.info("memory")["used_memory"] for client in each)
    each[0].config_set("maxmemory", 0)
    without = await store.memory()
    assert without is not None
    assert without.limit_bytes is None
    for client in each:
        client.config_set("maxmemory", 0)
        client.close()
    assert await store.add_member("acme", "basis-0", "concise", np.ones(3), 2.0, observed_s=0.0)
    assert (await store.read_members("acme", "basis-0"))["concise"].total.count == 2.0
    listed, after = list[str](), ""
    while True:
        page = await store.list_users("acme", "basis-0", after)
        listed += [user.tag for user in page.users]
        if page.cursor is None:
            break
        after = page.cursor
    assert sorted(listed) == sorted(key.tag for key in users)
    apart = next(key for key in users[:-1] if key_slot(key.base.encode()) != key_slot(users[-1].base.encode()))
    before = (await store.read(users[-1], "basis-0")).sum
    merged = await store.merge_users(apart, users[-1], "login")
    after_it = (await store.read(users[-1], "basis-0")).sum
    assert (merged.result, merged.decisions) == ("applied", 3)
    assert before is not None
    assert after_it is not None
    assert after_it.count == before.count + 2

    for key in users[:-1]:
        if key == apart:
            continue
        deleted = await store.delete_user(key)
        assert (deleted.comparisons, deleted.decisions, deleted.keys) == (4, 3, 2 + 2 + 1 + 3 + 3)
    keeps = (*(f"{{t:acme:d:decision-{n}-".encode() for n in (users.index(apart), 7)), b"{t:acme:m}", b"{attune:check}")
    # Of who was merged it is kept where each comparison went.
    traces = (b":deleted", b":refused", apart.moved.encode())
    left = [name async for name in raw.scan_iter() if not name.endswith(traces)]
    assert left
    assert all(users[-1].tag.encode() in name or name.startswith(keeps) for name in left)
    with pytest.raises(ResponseError, match="same slot"):  # the cluster does check: this test would fail if keys were on two slots
        await raw.execute_command("EVAL", "return 1", 2, users[0].base, users[1].base, target_nodes=raw.get_node_from_key(users[0].base))
    await raw.aclose()
    await store.aclose()


async def test_on_a_cluster_a_decision_is_found_after_a_merge_whatever_comes_too_late(cluster_ports: list[int]) -> None:
    store = RedisStore(f"redis+cluster://127.0.0.1:{cluster_ports[0]}")
    anonymous, known = key_of("late", "anonymous"), key_of("late", "known")
    await store.write_decision(anonymous, "decision", b"record", 100.0, era=b"")
    await store.merge_users(anonymous, known, "login")
    assert not await store.write_decision(anonymous, "decision", b"scored", 100.0, update=True, era=b"")
    assert await store.read_decision("late", "decision") == (known.tag, b"record")
    assert await store.locate_decision(anonymous, "decision") == "moved"
    await store.aclose()


async def test_on_a_cluster_a_decision_is_found_where_it_stays_when_a_merge_is_refused(cluster_ports: list[int]) -> None:
    source, target = key_of("stays", "source"), key_of("stays", "target")

    with rediscluster.RedisCluster(host="127.0.0.1", port=cluster_ports[0], protocol=2) as raw:

        def observe(operation: str, _seconds: float, _ok: bool) -> None:
            if operation == "merge_users":  # the merge has asked who was deleted by then, and writes later
                raw.set(target.deleted, b"deleted.", px=60_000)

        plain, store = (RedisStore(f"redis+cluster://127.0.0.1:{cluster_ports[0]}", observe=each) for each in (unobserved, observe))
        await plain.write_decision(source, "decision", b"record", 100.0)
        with pytest.raises(UserDeleted):
            await store.merge_users(source, target, "login")
        assert await plain.read_decision("stays", "decision") == (source.tag, b"record")
        await plain.delete_user(source)
        assert raw.get(pointer_key("stays", "decision")) is None
        for each in (plain, store):
            await each.aclose()


async def test_on_a_cluster_every_user_is_found_and_replayed(cluster_ports: list[int]) -> None:
    store = RedisStore(f"redis+cluster://127.0.0.1:{cluster_ports[0]}")
    users = [key_of("replayed", f"user-{n}") for n in range(40)]
    for key in users:
        await store.add_comparison(key, comparison("event", [1.0]))
    found: list[UserKey] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await store.users("replayed", cursor)
        found, cursor = found + list(page.users), page.cursor
    assert sorted(key.tag for key in found) == sorted(key.tag for key in users)
    for key in found:
        assert await store.replay_comparison(key, comparison("event", [2.0, 3.0], basis="basis-2")) == "applied"
        taken = await store.take_back(key, "basis-2", "event")
        assert taken is None
    await store.aclose()


async def test_on_a_cluster_scripts_that_were_lost_are_sent_to_the_node_that_needs_them(cluster_ports: list[int]) -> None:
    store = RedisStore(f"redis+cluster://127.0.0.1:{cluster_ports[0]}")
    users = [key_of("lost-scripts", f"user-{n}") for n in range(8)]
    for n in range(3):
        for port in cluster_ports:
            with redis.Redis(port=port, protocol=2) as node:
                node.script_flush()
        for key in users:
            assert (await store.add_comparison(key, comparison(f"event-{n}", [1.0]))).result == "applied"
    await store.aclose()


async def test_behind_sentinel_the_store_finds_the_primary_and_follows_it_to_another(tmp_path: Path) -> None:
    primary, replica, sentinel = free_ports(3)
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {sentinel}\nsentinel monitor main 127.0.0.1 {primary} 1\nsentinel down-after-milliseconds main 5000\n")
    for name in ("primary", "replica", "sentinel"):
        (tmp_path / name).mkdir()
    alice = key_of("acme", "alice")
    with (
        raw_server(tmp_path / "primary", "--port", str(primary), "--repl-diskless-sync-delay", "0", "--shutdown-timeout", "0"),
        raw_server(tmp_path / "replica", "--port", str(replica), "--replicaof", f"127.0.0.1 {primary}", "--shutdown-timeout", "0"),
        raw_server(tmp_path / "sentinel", str(config), "--sentinel"),
    ):
        store = RedisStore(f"redis+sentinel://127.0.0.1:{sentinel}/main")
        missing = RedisStore(f"redis+sentinel://127.0.0.1:{sentinel}/nobody")
        with pytest.raises(StoreUnavailable, match="service nobody did not answer ping: MasterNotFoundError"):
            await missing.ping()
        await missing.aclose()
        await store.add_comparison(alice, comparison("one", [1.0]))

        # A failover without the minute that Sentinel takes for one: the replica is promoted, the primary demoted, Sentinel told.
        with redis.Redis(port=primary, protocol=2) as old, redis.Redis(port=replica, protocol=2) as new:
            old.set("written", "last")
            assert old.wait(1, 20_000) == 1
            new.replicaof("NO", "ONE")
            old.replicaof("127.0.0.1", replica)
        with redis.Redis(port=sentinel, protocol=2) as watcher:
            watcher.execute_command("SENTINEL", "REMOVE", "main")
            watcher.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", replica, 1)

        added = await store.add_comparison(alice, comparison("two", [2.0]))
        assert added.sum is not None
        assert added.sum.evidence.tolist() == [3.0]
        assert (await store.read(alice, BASIS)).sum is not None
        with redis.Redis(port=replica, protocol=2) as new:
            assert new.hexists(alice.events, event_digest("two"))
        await store.aclose()
