"""Reads of one turn of the loop are one command, and each caller gets its own; users are listed in pages without holding anybody up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from attune.service.errors import StoreUnavailable
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.keys import UserKey
from attune.service.state.redis_store import RedisStore
from attune.service.state.store import ListedUser, Store
from attune.service.state.wire import KEYS_AT_ONCE, Reads, Wire
from tests.state.conftest import BASIS, comparison, key_of


@pytest.fixture
async def replica(server: EmbeddedRedis) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url)
    yield store
    await store.aclose()


async def mgets(raw: Redis) -> int:
    return int((await raw.info("commandstats")).get("cmdstat_mget", {"calls": 0})["calls"])


async def test_reads_of_one_turn_go_as_one_command(replica: RedisStore, raw: Redis, tenant: str) -> None:
    users = [key_of(tenant, f"user-{n}") for n in range(50)]
    for number, key in enumerate(users):
        await replica.add_comparison(key, comparison("event", [float(number)]))
        await replica.write_decision(key, f"decision-{number}", b"record %d" % number, 100.0, f"member-{number}")
    await raw.config_resetstat()
    found = await asyncio.gather(
        *(replica.read(key, BASIS, decisions=[f"decision-{n}", "never"], last=True) for n, key in enumerate(users)),
        *(replica.read(key, "another-basis") for key in users),
    )
    assert await mgets(raw) == 1
    for number, seen in enumerate(found[:50]):
        assert seen.sum is not None
        assert seen.sum.evidence.tolist() == [float(number)]
        assert (seen.decisions, seen.last) == ({f"decision-{number}": b"record %d" % number}, f"member-{number}")
    assert all((seen.sum, seen.decisions, seen.last) == (None, {}, None) for seen in found[50:])


async def test_a_command_has_a_bounded_number_of_keys(replica: RedisStore, raw: Redis, alice: UserKey) -> None:
    await replica.read(alice, BASIS)
    await raw.config_resetstat()
    await asyncio.gather(*(replica.read(alice, BASIS) for _ in range(KEYS_AT_ONCE)))
    assert await mgets(raw) == 2  # a sum and a mark each
    many = [f"decision-{n}" for n in range(2 * KEYS_AT_ONCE)]
    assert (await replica.read(alice, BASIS, decisions=many)).decisions == {}
    assert await mgets(raw) == 3


async def test_a_defect_reaches_those_who_asked_as_what_it_is(server: EmbeddedRedis) -> None:
    wire = Wire(server.url, max_connections=2, timeout_s=30.0, observe=lambda *_told: None)
    with pytest.raises(UnicodeEncodeError):  # and not as a cancellation, which nobody above would answer
        await Reads(wire).get(["a key that is no text: \ud800"])
    await wire.aclose()


class OddWire(Wire):
    """To a server whose replies have no form, as a client that pairs them itself may hand them on."""

    async def command(self, *args: object) -> object:
        del args
        return None


async def test_a_reply_without_form_reaches_those_who_asked(server: EmbeddedRedis) -> None:
    wire = OddWire(server.url, max_connections=2, timeout_s=30.0, observe=lambda *_told: None)
    async with asyncio.timeout(30):  # and nobody waits for their deadline
        found = await asyncio.gather(*(Reads(wire).get([name]) for name in ("a", "b")), return_exceptions=True)
    assert [type(each) for each in found] == [TypeError, TypeError]
    await wire.aclose()


async def test_a_caller_who_leaves_costs_the_others_nothing(replica: RedisStore, alice: UserKey, bob: UserKey) -> None:
    await replica.add_comparison(bob, comparison("event", [4.0]))
    leaving = asyncio.create_task(replica.read(alice, BASIS))
    staying = asyncio.create_task(replica.read(bob, BASIS))
    await asyncio.sleep(0)
    leaving.cancel()
    seen = await staying
    assert seen.sum is not None
    assert seen.sum.evidence.tolist() == [4.0]


async def test_what_fails_fails_for_each_with_an_error_of_its_own(alice: UserKey) -> None:
    store = RedisStore("redis://127.0.0.1:1/0", timeout_s=0.5)
    failed = await asyncio.gather(*(store.read(alice, BASIS) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(each, StoreUnavailable) for each in failed)
    assert len({id(each) for each in failed}) == 5
    await store.aclose()


# --- listing --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_users_are_listed_in_pages_with_what_is_known_of_them(store: Store, tenant: str) -> None:
    expected = {}
    for number in range(120):
        key = key_of(tenant, f"user-{number}")
        for event in range(1 + number % 3):
            await store.add_comparison(key, comparison(f"e{event}", [1.0], observed_s=100.0 * event + number))
        expected[key.tag] = ListedUser(key.tag, 1 + number % 3, float(number), 100.0 * (number % 3) + number)
    await store.add_comparison(key_of(tenant + "x", "somebody"), comparison("e1"))
    await store.write_decision(key_of(tenant, "no comparison"), "decision", b"record", 100.0)

    pages, after = [], ""
    while True:
        page = await store.list_users(tenant, BASIS, after, 10)
        pages.append(page.users)
        if page.cursor is None:
            break
        after = page.cursor
    assert {user.tag: user for users in pages for user in users} == expected
    assert max(len(users) for users in pages) < 60


async def test_a_user_who_learned_under_another_basis_is_listed_at_the_prior(store: Store, tenant: str, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("e1"))
    (listed,) = (await store.list_users(tenant, "another-basis", "", 1000)).users
    assert listed == ListedUser(alice.tag, 0, None, None)


@pytest.mark.parametrize("cursor", ["x", "9:99999999999999999999", f"0:{2**64}", "1:", "-1:0"])
async def test_a_cursor_that_redis_would_refuse_is_refused_before(store: Store, tenant: str, cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        await store.list_users(tenant, BASIS, cursor)
    with pytest.raises(ValueError, match="not a cursor"):
        await store.users(tenant, cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_is_bounded(store: Store, tenant: str, limit: int) -> None:
    with pytest.raises(ValueError, match="must be 1 to 1000"):
        await store.list_users(tenant, BASIS, "", limit)
