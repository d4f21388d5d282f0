"""What only a store behind a wire must prove: concurrency, callers that leave, a server that hangs, dies or refuses."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from attune.service.errors import StoreUnavailable
from attune.service.state.connect import connect
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.keys import UserKey
from attune.service.state.redis_store import RedisStore, unobserved
from attune.service.state.store import LoggedComparison
from attune.service.state.wire import Wire
from tests.state.conftest import BASIS, comparison, key_of

MakeUser = Callable[[str], UserKey]


# --- concurrency ----------------------------------------------------------------------------------------------------


async def test_writers_on_one_hot_key_lose_nothing(server: EmbeddedRedis, alice: UserKey) -> None:
    replicas = [RedisStore(server.url, max_connections=8) for _ in range(3)]
    events = [comparison(f"event-{n}", [1.0, float(n)]) for n in range(200)]
    added = await asyncio.gather(*(replicas[n % 3].add_comparison(alice, each) for n, each in enumerate(events + events[::2])))

    assert Counter(each.result for each in added) == {"applied": 200, "duplicate": 100}
    held = (await replicas[0].read(alice, BASIS)).sum
    assert held is not None
    assert (held.count, held.evidence.tolist()) == (200, [200.0, sum(range(200))])
    assert sorted(each.sum.count for each in added if each.sum is not None and each.result == "applied") == list(range(1, 201))
    for replica in replicas:
        await replica.aclose()


async def test_adds_and_take_backs_at_once_end_in_the_sum_of_what_is_left(store: RedisStore, alice: UserKey) -> None:
    for n in range(0, 100, 2):
        await store.add_comparison(alice, comparison(f"event-{n}", [2.0**-n, float(n)]))
    await asyncio.gather(
        *(store.take_back(alice, BASIS, f"event-{n}") for n in range(0, 100, 2)),
        *(store.add_comparison(alice, comparison(f"event-{n}", [0.0, float(n)])) for n in range(1, 100, 2)),
    )
    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert (held.count, held.evidence[1]) == (50, float(sum(range(1, 100, 2))))


async def test_more_callers_than_connections_wait_their_turn(server: EmbeddedRedis, raw: Redis, alice: UserKey) -> None:
    store = RedisStore(server.url, max_connections=2)
    await asyncio.gather(*(store.add_comparison(alice, comparison(f"event-{n}", [1.0])) for n in range(50)))
    before = await raw.info("clients")
    await store.aclose()
    held_by_store = before["connected_clients"] - (await raw.info("clients"))["connected_clients"]
    assert held_by_store <= 2


# --- cancellation ---------------------------------------------------------------------------------------------------


async def test_callers_that_leave_at_any_await_never_cross_replies(server: EmbeddedRedis, user: MakeUser) -> None:
    observed: Counter[tuple[str, bool]] = Counter()
    store = RedisStore(server.url, max_connections=3, observe=lambda name, _, ok: observed.update([(name, ok)]))
    users = [user(f"user-{n}") for n in range(20)]
    for n, key in enumerate(users):
        await store.add_comparison(key, comparison("first", [float(n)] * 3))
        await store.write_decision(key, f"decision-{n}", b"record %d" % n, 100.0)

    async def ask(n: int) -> None:
        found = await store.read(users[n], BASIS, decisions=[f"decision-{n}"])
        held, decisions = found.sum, found.decisions
        assert held is not None
        assert held.evidence[2] == float(n)
        assert decisions == {f"decision-{n}": b"record %d" % n}
        assert await store.read_decision(users[n].tenant, f"decision-{n}") == (users[n].tag, b"record %d" % n)

    choose = random.Random(7)
    left = 0
    for _ in range(60):
        tasks = [asyncio.create_task(ask(choose.randrange(20))) for _ in range(10)]
        for task in tasks:
            for _ in range(choose.randrange(12)):
                await asyncio.sleep(0)
            if choose.random() < 0.6:
                task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            left += isinstance(result, asyncio.CancelledError)
            assert result is None or isinstance(result, asyncio.CancelledError), result
    await asyncio.gather(*(ask(n) for n in range(20)))

    assert left > 100
    assert observed["wrong-user", False] == 0
    assert not any(ok is False for _, ok in observed)
    await store.aclose()


@pytest.mark.parametrize("turns", range(12))
async def test_a_comparison_whose_caller_left_is_added_whole_or_not_at_all(store: RedisStore, alice: UserKey, turns: int) -> None:
    await store.add_comparison(alice, comparison("before", [1.0]))
    task = asyncio.create_task(store.add_comparison(alice, comparison("event", [2.0])))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    began = turns > 0  # the first turn sends the command, whose script the server knows
    await asyncio.gather(task, return_exceptions=True)

    repeat = await store.add_comparison(alice, comparison("event", [2.0]))
    assert repeat.sum is not None
    assert (repeat.sum.count, repeat.sum.evidence.tolist()) == (2, [3.0])
    await store.aclose()
    assert repeat.result == "duplicate" if began else repeat.result in {"applied", "duplicate"}


async def test_closing_waits_for_commands_whose_callers_left(own_server: EmbeddedRedis) -> None:
    alice = key_of("acme", "alice")
    leaving = RedisStore(own_server.url)
    await leaving.add_comparison(alice, comparison("before", [1.0]))  # connection and script are there, so the command goes out at once
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        task = asyncio.create_task(leaving.add_comparison(alice, comparison("event", [2.0])))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        closing = asyncio.create_task(leaving.aclose())
        done, _ = await asyncio.wait({closing}, timeout=0.1)
        assert not done
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    await closing
    store = RedisStore(own_server.url)
    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert held.evidence.tolist() == [3.0]
    await store.aclose()


@pytest.mark.parametrize("turns", [1, 2, 3, 6])
async def test_the_reply_to_a_command_that_is_cancelled_reaches_nobody_else(own_server: EmbeddedRedis, turns: int) -> None:
    client = connect(own_server.url, max_connections=1, timeout_s=60.0).client
    before = await client.execute_command("CLIENT", "ID")
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        theirs = asyncio.ensure_future(client.execute_command("ECHO", "theirs"))
        for _ in range(turns):
            await asyncio.sleep(0)
        theirs.cancel()
        await asyncio.gather(theirs, return_exceptions=True)
        assert theirs.cancelled()
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert await client.execute_command("ECHO", "mine") == b"mine"
    assert await client.execute_command("CLIENT", "ID") == before
    await client.aclose()


async def test_a_command_that_is_refused_keeps_its_connection(server: EmbeddedRedis) -> None:
    client = connect(server.url, max_connections=1, timeout_s=60.0).client
    before = await client.execute_command("CLIENT", "ID")
    with pytest.raises(ResponseError):
        await client.execute_command("ECHO")
    assert await client.execute_command("CLIENT", "ID") == before
    await client.aclose()


async def test_what_still_waits_for_its_turn_when_the_store_closes_is_refused(server: EmbeddedRedis) -> None:
    wire = Wire(server.url, max_connections=1, timeout_s=10.0, observe=unobserved)
    gate = asyncio.Event()
    under_way = asyncio.create_task(wire.run("under way", gate.wait))
    waiting = asyncio.create_task(wire.run("waiting", lambda: wire.command("PING")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(wire.aclose())
    await asyncio.sleep(0)
    gate.set()
    await closing
    assert await under_way
    with pytest.raises(StoreUnavailable, match="is closed"):
        await waiting


# --- a server that hangs, dies or refuses ----------------------------------------------------------------------------


async def test_a_server_that_hangs_is_unavailable_after_the_timeout_and_used_again_once_it_answers(own_server: EmbeddedRedis) -> None:
    alice = key_of("acme", "alice")
    store = RedisStore(own_server.url, max_connections=2, timeout_s=1.0)
    await store.add_comparison(alice, comparison("before", [1.0]))
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        asked = await asyncio.gather(*(store.find_event(alice, "before") for _ in range(8)), return_exceptions=True)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    # Two were sent, and Redis did not answer; the others found no place, which is nobody's failure but their number's.
    assert sorted(type(each).__name__ for each in asked) == ["Overloaded"] * 6 + ["StoreUnavailable"] * 2
    details = " ".join(str(each) for each in asked)
    assert "2 of 2 places" in details
    assert "did not answer find_event: TimeoutError" in details

    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert held.evidence.tolist() == [1.0]
    await store.aclose()


@pytest.mark.slow
async def test_a_server_killed_mid_flight_loses_nothing_acknowledged_and_comes_back(own_server: EmbeddedRedis) -> None:
    alice = key_of("acme", "alice")
    store = RedisStore(own_server.url, max_connections=8, timeout_s=60.0)  # on a busy machine places are waited for
    events = [comparison(f"event-{n}", [1.0, float(n)]) for n in range(400)]
    acknowledged: set[str] = set()
    enough = asyncio.Event()

    async def add(number: int) -> None:
        added = await store.add_comparison(alice, events[number])
        assert added.result == "applied"
        acknowledged.add(events[number].event_id)
        if len(acknowledged) == 100:
            enough.set()

    adding = asyncio.gather(*(add(n) for n in range(400)), return_exceptions=True)
    await enough.wait()
    killed = own_server.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    results = await adding
    failures = [each for each in results if each is not None]
    assert failures
    assert all(isinstance(each, StoreUnavailable) for each in failures), Counter(map(repr, failures))
    await asyncio.wait_for(own_server.up(other_than=killed), 120)

    logged = {entry.event_id async for entry in store.export(alice) if isinstance(entry, LoggedComparison)}
    assert acknowledged <= logged
    again = await asyncio.gather(*(store.add_comparison(alice, each) for each in events))
    assert {each.result for each in again} == {"applied", "duplicate"}
    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert (held.count, held.evidence.tolist()) == (400, [400.0, float(sum(range(400)))])
    await store.aclose()


async def test_a_server_that_is_not_there_is_unavailable_and_named_without_its_password() -> None:
    alice = key_of("acme", "alice")
    observed: list[tuple[str, bool]] = []
    store = RedisStore("redis://me:hunter2@127.0.0.1:1/0", timeout_s=0.5, observe=lambda name, _, ok: observed.append((name, ok)))
    for operation in (store.ping(), store.read(alice, BASIS), store.delete_user(alice), store.read_decision("acme", "decision")):
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1") as refused:
            await operation
        assert "hunter2" not in refused.value.detail
    assert observed == [("ping", False), ("read", False), ("find_merges", False), ("read_decision", False)]
    await store.aclose()


async def test_a_deletion_is_observed_as_one(own_server: EmbeddedRedis) -> None:
    alice = key_of("acme", "alice")
    observed: list[str] = []
    store = RedisStore(own_server.url, observe=lambda name, _seconds, _ok: observed.append(name))
    await store.add_comparison(alice, comparison("one", [1.0]))
    await store.delete_user(alice)
    assert observed.count("delete_user") == 1
    await store.aclose()


async def test_what_a_server_refuses_is_named_by_its_code_only(own_server: EmbeddedRedis) -> None:
    alice = key_of("acme", "alice")
    store = RedisStore(own_server.url)
    await store.add_comparison(alice, comparison("one", [1.0]))
    async with Redis.from_url(own_server.url, protocol=2) as raw:
        await raw.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable, match=r"did not answer add_comparison: \w+ ?O?O?M?$"):
            await store.add_comparison(alice, comparison("two", [1.0]))
        held = (await store.read(alice, BASIS)).sum
        assert held is not None
        assert held.count == 1
        await raw.config_set("maxmemory", 0)
        await raw.set(alice.events, "not a hash")
        with pytest.raises(StoreUnavailable) as refused:
            await store.add_comparison(alice, comparison("two", [1.0]))
        assert alice.tag not in refused.value.detail
    await store.aclose()


async def test_operations_are_observed_with_their_time(server: EmbeddedRedis, alice: UserKey) -> None:
    observed: list[tuple[str, float, bool]] = []
    store = RedisStore(server.url, observe=lambda *each: observed.append(each))
    await store.add_comparison(alice, comparison())
    await store.read(alice, BASIS)
    assert [(name, ok) for name, _, ok in observed] == [("add_comparison", True), ("read", True)]
    assert all(0 < seconds < 5 for _, seconds, _ in observed)
    await store.aclose()
