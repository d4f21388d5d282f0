"""What is known of members: additive, by month, once per event, shared by the readers of a process, apart from every user."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import numpy as np
import pytest
from redis.asyncio import Redis

from attune.service.state.durable import Durable
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.keys import UserKey
from attune.service.state.member_sums import MemberSums
from attune.service.state.redis_store import RedisStore, unobserved
from attune.service.state.store import MemberSum
from attune.service.state.wire import Wire
from tests.state.conftest import BASIS, exported


def at(year: int, month: int) -> float:
    return datetime(year, month, 15, tzinfo=UTC).timestamp()


async def held(server: EmbeddedRedis, tenant: str, member: str) -> MemberSum:
    """Returns what a process that has read nothing before sees."""
    fresh = RedisStore(server.url)
    found = await fresh.read_members(tenant, BASIS)
    await fresh.aclose()
    return found[member]


async def add(store: RedisStore, tenant: str, *numbers: float, count: float = 1.0, observed_s: float = at(2026, 11)) -> bool:
    return await store.add_member(tenant, BASIS, "kind one", np.array(numbers), count, observed_s=observed_s)


async def test_what_is_added_sums_up_whoever_adds_it(server: EmbeddedRedis, store: RedisStore, tenant: str) -> None:
    other = RedisStore(server.url)
    await asyncio.gather(*(add(one, tenant, 1.0, 0.25 * n, count=2.0) for n in range(20) for one in (store, other)))
    found = await held(server, tenant, "kind one")
    assert (found.total.count, found.total.vector.tolist()) == (80.0, [40.0, 95.0])
    await other.aclose()


async def test_a_month_is_told_from_the_one_before(server: EmbeddedRedis, store: RedisStore, tenant: str) -> None:
    for year, month, number in ((2026, 11, 1.0), (2026, 12, 2.0), (2027, 1, 4.0), (2026, 12, 8.0), (2026, 10, 16.0)):
        await add(store, tenant, number, observed_s=at(year, month))
    found = await held(server, tenant, "kind one")
    assert (found.total.count, found.total.vector.tolist()) == (5.0, [31.0])
    assert found.month == 12 * 2027
    assert (found.this_month.count, found.this_month.vector.tolist()) == (1.0, [4.0])
    assert (found.month_before.count, found.month_before.vector.tolist()) == (2.0, [10.0])  # with the one that came late


async def test_after_a_month_of_silence_there_is_no_month_before(server: EmbeddedRedis, store: RedisStore, tenant: str) -> None:
    await add(store, tenant, 1.0, observed_s=at(2026, 9))
    await add(store, tenant, 2.0, observed_s=at(2026, 11))
    found = await held(server, tenant, "kind one")
    assert (found.this_month.count, found.month_before.count, found.month_before.vector.tolist()) == (1.0, 0.0, [0.0])
    assert found.total.vector.tolist() == [3.0]


async def test_the_latest_are_told_from_the_earlier_and_imports_are_neither(server: EmbeddedRedis, store: RedisStore, tenant: str) -> None:
    for number, count in ((1.0, 60.0), (2.0, 60.0), (4.0, 60.0), (8.0, 60.0), (16.0, 1.0)):
        await add(store, tenant, number, count=count)
    await store.add_member(tenant, BASIS, "kind one", np.array([32.0]), 500.0, observed_s=at(2026, 11), event_id="import-1")
    found = await held(server, tenant, "kind one")
    # A window takes what fills it whole: 1 and 2, then 4 and 8, then 16.
    assert (found.window.count, found.window.vector.tolist()) == (1.0, [16.0])
    assert (found.window_before.count, found.window_before.vector.tolist()) == (120.0, [12.0])
    assert (found.total.count, found.total.vector.tolist()) == (741.0, [63.0])


async def test_an_event_is_added_once(server: EmbeddedRedis, store: RedisStore, tenant: str) -> None:
    async def send() -> bool:
        return await store.add_member(tenant, BASIS, "kind one", np.ones(2), 100.0, observed_s=at(2026, 11), event_id="import-1")

    assert [await send(), await send()] == [True, False]
    assert (await held(server, tenant, "kind one")).total.count == 100.0


async def test_a_vector_of_another_length_changes_nothing(server: EmbeddedRedis, store: RedisStore, tenant: str) -> None:
    await add(store, tenant, 1.0, 2.0)
    with pytest.raises(ValueError, match="holds 2 numbers, the vector 3"):
        await add(store, tenant, 1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="holds 2 numbers, the vector 1"):
        await store.add_member(tenant, BASIS, "kind one", np.ones(1), 1.0, observed_s=0.0, event_id="used later")
    assert (await held(server, tenant, "kind one")).total.vector.tolist() == [1.0, 2.0]
    assert await store.add_member(tenant, BASIS, "kind one", np.ones(2), 1.0, observed_s=0.0, event_id="used later")


@pytest.mark.parametrize("numbers", [[], [np.nan], [np.inf, 1.0], np.ones((2, 2)).tolist()])
async def test_what_is_no_finite_vector_is_refused(store: RedisStore, tenant: str, numbers: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        await store.add_member(tenant, BASIS, "kind one", np.array(numbers), 1.0, observed_s=0.0)


async def test_readers_of_one_process_share_an_answer_for_a_second(server: EmbeddedRedis, raw: Redis, tenant: str) -> None:
    await raw.config_resetstat()
    store = RedisStore(server.url)
    await add(store, tenant, 1.0)
    answers = await asyncio.gather(*(store.read_members(tenant, BASIS) for _ in range(30)))
    answers += [await store.read_members(tenant, BASIS) for _ in range(30)]
    assert all(answer["kind one"].total.count == 1.0 for answer in answers)
    assert (await raw.info("commandstats"))["cmdstat_hgetall"]["calls"] == 1
    await store.aclose()


async def test_tenants_and_bases_are_apart_and_no_user_holds_them(store: RedisStore, raw: Redis, tenant: str, alice: UserKey) -> None:
    await add(store, tenant, 1.0)
    assert await store.read_members(tenant + "x", BASIS) == {}
    assert await store.read_members(tenant, "another-basis") == {}
    assert await exported(store, alice) == []
    await store.delete_user(alice)
    assert (await store.read_members(tenant, BASIS))["kind one"].total.count == 1.0
    assert await raw.pttl(f"{{t:{tenant}:m}}:sum:{BASIS}") > 0


async def test_sums_that_have_not_changed_are_the_same_object_when_they_are_read_again(server: EmbeddedRedis, tenant: str) -> None:
    now_s = 0.0
    wire = Wire(server.url, max_connections=4, timeout_s=5.0, observe=unobserved)
    sums = MemberSums(wire, Durable(wire, ask=False), 60.0, lambda: now_s)
    await sums.add(tenant, BASIS, "kind one", np.array([1.0]), 1.0, at(2026, 11), None)
    first = await sums.read(tenant, BASIS)
    now_s += 10.0
    assert await sums.read(tenant, BASIS) is first
    store = RedisStore(server.url)
    await add(store, tenant, 2.0)
    await store.aclose()
    now_s += 10.0
    assert (await sums.read(tenant, BASIS))["kind one"].total.vector.tolist() == [3.0]
    await wire.aclose()
