"""What is known stays known and what is deleted stays deleted: ids that outlive the log, marks of deletions, updates of what is gone."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from attune.service.errors import EventConflict, ExpiredEvent, StoreUnavailable, UnknownEvent, UserDeleted
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from attune.service.state.store import Deleted, Limits, LoggedComparison, Store, StoredDecision, StoredSum, TakenBack, UserKey
from tests.state.conftest import BASIS, Bench, comparison, exported

# --- ids outlive the log --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_log", [10, 1, 0])
async def test_an_event_is_counted_once_however_short_the_log(bench: Bench, alice: UserKey, max_log: int) -> None:
    store = bench.limited(Limits(max_log=max_log))
    for number in range(15):
        await store.add_comparison(alice, comparison(f"e{number}", [1.0], body=bytes([number])))
    for number in range(15):
        assert (await store.add_comparison(alice, comparison(f"e{number}", [1.0], body=bytes([number])))).result == "duplicate"
        with pytest.raises(EventConflict, match="another body"):
            await store.add_comparison(alice, comparison(f"e{number}", [1.0], body=b"another"))
    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert (held.count, held.evidence.tolist()) == (15, [15.0])
    assert sum(isinstance(entry, LoggedComparison) for entry in await exported(store, alice)) == max_log


@pytest.mark.parametrize("max_log", [10, 0])
async def test_what_has_left_the_log_cannot_be_taken_back_and_says_why(bench: Bench, alice: UserKey, max_log: int) -> None:
    store = bench.limited(Limits(max_log=max_log))
    for number in range(15):
        await store.add_comparison(alice, comparison(f"e{number}", [2.0**number]))
    with pytest.raises(ExpiredEvent, match=f"was learned and stays learned: of its {max_log} latest"):
        await store.take_back(alice, BASIS, "e1")
    with pytest.raises(UnknownEvent, match="no comparison with event 'never'"):
        await store.take_back(alice, BASIS, "never")
    assert (await store.find_event(alice, "e1")) is not None
    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert held.count == 15


async def test_what_was_taken_back_stays_refused_after_its_mark_has_left_the_log(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_log=2))
    await store.add_comparison(alice, comparison("e0", [1.0]))
    await store.take_back(alice, BASIS, "e0")
    for number in range(1, 4):
        await store.add_comparison(alice, comparison(f"e{number}", [1.0]))
    assert not [entry for entry in await exported(store, alice) if isinstance(entry, TakenBack)]
    with pytest.raises(EventConflict, match="taken back"):
        await store.add_comparison(alice, comparison("e0", [1.0]))
    with pytest.raises(UnknownEvent, match="taken back before"):
        await store.take_back(alice, BASIS, "e0")


async def test_the_log_can_be_turned_off_and_on(bench: Bench, alice: UserKey) -> None:
    on, off = bench.limited(Limits(max_log=10)), bench.limited(Limits(max_log=0))
    await on.add_comparison(alice, comparison("kept", [1.0]))
    await off.add_comparison(alice, comparison("not kept", [2.0]))
    assert [type(entry) for entry in await exported(on, alice)] == [StoredSum]  # what was logged has gone, too
    await on.add_comparison(alice, comparison("kept again", [4.0]))
    after = await on.take_back(alice, BASIS, "kept again")
    assert after is not None
    assert after.evidence.tolist() == [3.0]
    for event_id in ("kept", "not kept"):
        with pytest.raises(ExpiredEvent):
            await on.take_back(alice, BASIS, event_id)


async def test_ids_live_as_long_as_the_user(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_log=1, user_ttl_s=1_000.0))
    await store.add_comparison(alice, comparison("e0", [1.0]))
    for number in range(1, 4):
        await bench.pass_time(900.0)
        await store.add_comparison(alice, comparison(f"e{number}", [1.0]))
    assert (await store.add_comparison(alice, comparison("e0", [1.0]))).result == "duplicate"
    await bench.pass_time(1_001.0)
    assert (await store.add_comparison(alice, comparison("e0", [1.0]))).result == "applied"


async def test_a_sum_lives_as_long_as_the_log_that_it_is_the_sum_of(bench: Bench, alice: UserKey, bob: UserKey) -> None:
    store = bench.limited(Limits(user_ttl_s=1_000.0))
    await store.add_comparison(alice, comparison("first", [1.0]))
    await store.replay_comparison(alice, comparison("first", [5.0], basis="basis-2"))
    for event_id in ("undone", "later"):  # what else is learned, taken back or moved here is learned under another basis
        await bench.pass_time(900.0)
        await store.add_comparison(alice, comparison(event_id, [2.0], basis="basis-3"))
        await bench.pass_time(900.0)
        await store.take_back(alice, BASIS, event_id)
    await bench.pass_time(900.0)
    await store.add_comparison(bob, comparison("moved", [2.0], basis="basis-3"))
    await store.merge_users(bob, alice, "login-1")
    await bench.pass_time(900.0)
    await store.add_comparison(alice, comparison("again", [4.0]))
    after = await store.take_back(alice, BASIS, "first")
    assert after is not None
    assert (after.count, after.evidence.tolist()) == (1, [4.0])
    assert (await store.read(alice, "basis-2")).sum is None


# --- deletion -------------------------------------------------------------------------------------------------------


async def test_a_late_repeat_does_not_make_a_deleted_user_again(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_log=2, tombstone_s=600.0))
    for number in range(4):
        await store.add_comparison(alice, comparison(f"e{number}", [1.0]))
    await store.take_back(alice, BASIS, "e3")
    await store.delete_user(alice)
    for number in range(4):
        with pytest.raises(UserDeleted, match="before the user was deleted"):
            await store.add_comparison(alice, comparison(f"e{number}", [1.0]))
    assert await exported(store, alice) == []
    assert (await store.add_comparison(alice, comparison("new", [1.0]))).result == "applied"
    await bench.pass_time(601.0)
    assert (await store.add_comparison(alice, comparison("e0", [1.0]))).result == "applied"


async def test_a_repeated_deletion_is_told_from_one_of_a_user_never_seen_or_merged(store: Store, alice: UserKey, bob: UserKey) -> None:
    assert await store.delete_user(bob) == Deleted(keys=0, comparisons=0, decisions=0)
    await store.add_comparison(alice, comparison("first", [1.0]))
    assert not (await store.delete_user(alice)).deleted_before
    assert (await store.delete_user(alice)).deleted_before
    await store.add_comparison(alice, comparison("second", [1.0]))
    again = await store.delete_user(alice)
    assert (again.comparisons, again.deleted_before) == (1, True)


async def test_a_merge_is_no_earlier_deletion(store: Store, alice: UserKey, bob: UserKey) -> None:
    await store.add_comparison(alice, comparison("first", [1.0]))
    await store.merge_users(alice, bob, "login")
    assert not (await store.delete_user(alice)).deleted_before
    assert (await store.delete_user(alice)).deleted_before


async def test_a_second_deletion_remembers_the_events_of_the_first(store: Store, alice: UserKey) -> None:
    for event_id in ("first", "second"):
        await store.add_comparison(alice, comparison(event_id, [1.0]))
        await store.delete_user(alice)
    for event_id in ("first", "second"):
        with pytest.raises(UserDeleted):
            await store.add_comparison(alice, comparison(event_id, [1.0]))


@pytest.mark.parametrize("known", [True, False])
async def test_what_began_before_a_deletion_is_refused(store: Store, alice: UserKey, known: bool) -> None:
    if known:
        await store.add_comparison(alice, comparison("old", [1.0]))
    begun = await store.read(alice, BASIS)
    await store.delete_user(alice)
    with pytest.raises(UserDeleted, match="while this comparison was on its way"):
        await store.add_comparison(alice, comparison("under way", [1.0]), era=begun.era)
    assert not await store.write_decision(alice, "decision", b"secret", 100.0, "member", era=begun.era)
    assert await store.locate_decision(alice, "decision") == "unknown"
    assert await exported(store, alice) == []

    later = await store.read(alice, BASIS)
    assert later.era != begun.era
    assert (await store.add_comparison(alice, comparison("later", [1.0]), era=later.era)).result == "applied"
    assert await store.write_decision(alice, "decision", b"record", 100.0, era=later.era)


async def test_an_update_writes_only_what_is_still_there(bench: Bench, store: Store, alice: UserKey) -> None:
    assert await store.write_decision(alice, "decision", b"first", 100.0)
    assert await store.write_decision(alice, "decision", b"second", 100.0, update=True)
    assert await store.read_decision(alice.tenant, "decision") == (alice.tag, b"second")
    await store.delete_user(alice)
    assert not await store.write_decision(alice, "decision", b"third, with texts", 100.0, "member", update=True)
    assert not [entry for entry in await exported(store, alice) if isinstance(entry, StoredDecision)]
    await store.write_decision(alice, "brief", b"first", 10.0)
    await bench.pass_time(15.0)
    assert not await store.write_decision(alice, "brief", b"second", 10.0, update=True)
    assert await store.locate_decision(alice, "brief") == "expired"


async def test_a_replay_under_way_does_not_make_a_deleted_user_again(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("old", [1.0]))
    pending = [logged async for logged in store.to_replay(alice, "basis-2")]
    await store.delete_user(alice)
    assert [logged.event_id for logged in pending] == ["old"]
    assert await store.replay_comparison(alice, comparison("old", [1.0, 2.0], basis="basis-2")) == "gone"
    assert await exported(store, alice) == []


async def test_a_mark_is_small_and_goes(bench: Bench, raw: Redis, alice: UserKey) -> None:
    store = bench.limited(Limits(tombstone_s=60.0))
    for number in range(100):
        await store.add_comparison(alice, comparison(f"e{number}", [1.0], payload=b"text" * 100))
    await store.delete_user(alice)
    names = await raw.keys(f"{alice.base}:*")
    assert sorted(names) == [alice.deleted.encode(), alice.refused.encode()]
    assert all([0 < await raw.pttl(name) <= 60_000 for name in names])
    assert await raw.memory_usage(alice.refused, samples=0) < 30 * 100 + 200


@pytest.mark.parametrize("learned", [True, False])
async def test_a_user_is_deleted_from_a_server_that_has_no_room(own_server: EmbeddedRedis, alice: UserKey, *, learned: bool) -> None:
    store = RedisStore(own_server.url)
    if learned:
        await store.add_comparison(alice, comparison("e0", [1.0]))
    await store.write_decision(alice, "decision", b"record", 100.0)
    async with Redis.from_url(own_server.url, protocol=2) as admin:
        await admin.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable):
            await store.add_comparison(alice, comparison("e1", [1.0]))
        assert (await store.delete_user(alice)).decisions == 1
        assert await admin.keys(f"{alice.base}:decision*") == []
    await store.aclose()
