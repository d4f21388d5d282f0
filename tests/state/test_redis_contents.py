"""What the store leaves on a server and what it finds there: keys, times to live, records of somebody else, scripts that were lost."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
from redis.asyncio import Redis

from attune.service.errors import ExpiredEvent, StoreUnavailable
from attune.service.state.codec import event_digest, pack_event_id, pack_vector
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.keys import SUM, UserKey, seal_of
from attune.service.state.redis_store import RedisStore
from attune.service.state.scripts import ADD_COMPARISON, TAKE_BACK
from attune.service.state.store import Limits, LoggedComparison, StoredDecision, UserSum
from tests.state.conftest import BASIS, age, comparison, exported, key_of, same


async def keys_holding(raw: Redis, needle: bytes) -> list[bytes]:
    """Returns every key of the server whose name or content holds `needle`."""
    return [key async for key in raw.scan_iter() if needle in key or needle in (await raw.dump(key) or b"")]


# --- crossed and damaged records ------------------------------------------------------------------------------------


async def test_a_record_of_another_user_is_refused_and_counted(server: EmbeddedRedis, raw: Redis, alice: UserKey, bob: UserKey) -> None:
    observed: Counter[str] = Counter()
    store = RedisStore(server.url, observe=lambda name, _, __: observed.update([name]))
    await store.add_comparison(bob, comparison("bobs", [1.0]))
    await store.add_comparison(alice, comparison("alices", [1.0]))
    await store.write_decision(bob, "theirs", b"secret", 100.0)
    await store.write_decision(alice, "mine", b"record", 100.0)
    await raw.copy(bob.sum(BASIS), alice.sum(BASIS), replace=True)
    await raw.copy(bob.decision("theirs"), alice.decision("mine"), replace=True)

    crossed = [
        store.read(alice, BASIS),
        store.read(alice, BASIS),
        store.read(alice, "another-basis", decisions=["mine"]),
        store.read_decision(alice.tenant, "mine"),
        store.add_comparison(alice, comparison("two", [1.0])),
        store.take_back(alice, BASIS, "alices"),
        exported(store, alice),
    ]
    for number, operation in enumerate(crossed, 1):
        with pytest.raises(StoreUnavailable, match="not asked for"):
            await operation
        assert observed["wrong-user"] == number
    assert await raw.get(alice.sum(BASIS)) == await raw.get(bob.sum(BASIS))  # no script wrote into it
    await store.aclose()


@pytest.mark.slow
async def test_a_log_and_a_pointer_of_somebody_else_are_refused(store: RedisStore, raw: Redis, alice: UserKey, bob: UserKey) -> None:
    for key in (alice, bob):
        await store.add_comparison(key, comparison("event", [1.0]))
    await store.write_decision(bob, "theirs", b"secret", 100.0)
    await store.write_decision(alice, "mine", b"record", 100.0)
    await raw.copy(bob.log, alice.log, replace=True)
    await raw.copy(f"{{t:{bob.tenant}:d:theirs}}", f"{{t:{alice.tenant}:d:mine}}", replace=True)

    for operation in (exported(store, alice), store.read_decision(alice.tenant, "mine"), store.locate_decision(bob, "mine")):
        with pytest.raises(StoreUnavailable, match="not asked for"):
            await operation


@pytest.mark.parametrize("body", [b"", b"\0" * 40 + b"x", b"\0" * 32])
async def test_a_damaged_sum_is_a_store_error_and_stays_as_it_is(
    store: RedisStore, raw: Redis, alice: UserKey, bob: UserKey, body: bytes
) -> None:
    await store.add_comparison(alice, comparison("event", [1.0]))
    await raw.set(alice.sum(BASIS), seal_of(SUM, alice) + body)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.read(alice, BASIS)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await exported(store, alice)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.merge_users(alice, bob, "merge")


async def test_a_damaged_entry_of_a_log_is_a_store_error(store: RedisStore, raw: Redis, alice: UserKey, bob: UserKey) -> None:
    await store.add_comparison(alice, comparison("event", [1.0]))
    (entry,) = await raw.lrange(alice.log, 0, -1)
    await raw.lset(alice.log, 0, entry[:-9])
    with pytest.raises(StoreUnavailable, match="damaged"):
        await exported(store, alice)
    with pytest.raises(StoreUnavailable, match="damaged"):
        _ = [logged async for logged in store.to_replay(alice, "another-basis")]
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.merge_users(alice, bob, "merge")


# --- what is on the server ------------------------------------------------------------------------------------------


async def test_binary_content_of_every_byte_survives(store: RedisStore, alice: UserKey) -> None:
    every_byte = bytes(range(256)) * 3
    await store.write_decision(alice, "decision", every_byte, 10.0)
    await store.add_comparison(alice, comparison("event", np.frombuffer(bytes(range(128)), dtype="<f8"), payload=every_byte))
    entries = await exported(store, alice)
    assert [entry.record for entry in entries if isinstance(entry, StoredDecision)] == [every_byte]
    assert [(entry.payload, entry.evidence.tobytes()) for entry in entries if isinstance(entry, LoggedComparison)] == [
        (every_byte, bytes(range(128)))
    ]


@pytest.mark.parametrize(
    ("evidence", "width"),
    [
        ([0.5, -0.5 - 2.0**-24], 4),
        ([0.5 - 2.0**-24, 2.0**-24 - 0.5], 3),
        ([2.0**-24, -127 * 2.0**-24], 1),
        ([1e6, 0.0], 6),
        ([0.1, 1.0], 8),
        ([2.0**-25], 8),
        ([2.0**50], 8),
    ],
)
async def test_a_sum_is_stored_in_the_fewest_bytes_that_hold_it_exactly(
    store: RedisStore, raw: Redis, alice: UserKey, evidence: list[float], width: int
) -> None:
    await store.add_comparison(alice, comparison("event", evidence, epoch=2, observed_s=7.0))
    seal = b"S" + alice.raw_tag
    record = await raw.get(alice.sum(BASIS))
    assert record is not None
    assert record[: len(seal) + 1] == seal + bytes([width])
    assert len(record) == len(seal) + 1 + 32 + width * len(evidence)
    expected = UserSum(1, 2, 7.0, 7.0, np.array(evidence)).pack()
    assert UserSum.from_record(record[len(seal) :]).pack() == expected
    assert same((await store.read(alice, BASIS)).sum, UserSum.unpack(expected))


@pytest.mark.slow
async def test_nothing_of_a_deleted_user_is_left_anywhere(
    server: EmbeddedRedis, store: RedisStore, raw: Redis, alice: UserKey, bob: UserKey
) -> None:
    crowded = RedisStore(server.url, limits=Limits(max_log=5, max_decisions=5))
    for key in (alice, bob):
        for n in range(9):
            await crowded.add_comparison(key, comparison(f"event-{n}", [1.0, 2.0], basis=f"basis-{n % 3}", payload=b"text"))
            await crowded.write_decision(key, f"decision-{key.tag}-{n}"[:64], b"features", 50.0)
        await crowded.take_back(key, "basis-2", "event-8")
    await age(server.url, alice.tenant, 60.0)  # records have expired, pointers have not
    await store.write_decision(alice, "later", b"features", 50.0)
    assert len(await keys_holding(raw, alice.raw_tag)) >= 4
    assert len(await keys_holding(raw, alice.tag.encode())) >= 6

    deleted = await store.delete_user(alice)
    assert (deleted.decisions, deleted.comparisons) == (1, 4)
    # For a while there is the mark: a random number, and hashes of event ids.
    assert sorted(await keys_holding(raw, alice.tag.encode())) == [alice.deleted.encode(), alice.refused.encode()]
    assert await keys_holding(raw, alice.raw_tag) == []
    assert len(await raw.get(alice.deleted) or b"") == 8
    assert await raw.smembers(alice.refused) == {event_digest(f"event-{n}") for n in range(9)}
    assert 0 < await raw.pttl(alice.deleted) <= 86_400_000
    await age(server.url, alice.tenant, 86_401.0)
    assert await keys_holding(raw, alice.tag.encode()) == []
    assert len(await keys_holding(raw, bob.raw_tag)) == 3
    assert len(await keys_holding(raw, bob.tag.encode())) == 5
    await crowded.aclose()


async def test_every_key_has_a_time_to_live(store: RedisStore, raw: Redis, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0]))
    await store.add_comparison(alice, comparison("two", [1.0], basis="other"))
    await store.take_back(alice, BASIS, "one")
    await store.write_decision(alice, "decision", b"record", 100.0)
    left_ms = {key: await raw.pttl(key) for key in await raw.keys(f"{{t:{alice.tenant}:*")}
    assert len(left_ms) == 6
    assert all(left > 90_000 for left in left_ms.values())
    assert 190_000 < left_ms[alice.decisions.encode()] <= 200_000
    assert 190_000 < left_ms[f"{{t:{alice.tenant}:d:decision}}".encode()] <= 200_000
    assert left_ms[alice.decision("decision").encode()] <= 100_000


async def test_a_log_entry_of_somebody_else_is_not_taken_back(store: RedisStore, raw: Redis, alice: UserKey, bob: UserKey) -> None:
    await store.add_comparison(alice, comparison("event", [1.0]))
    before = await raw.get(alice.sum(BASIS))
    entry = await raw.lindex(alice.log, 0)
    assert entry is not None
    await raw.lset(alice.log, 0, entry[:1] + bob.raw_tag[:4] + entry[5:])
    with pytest.raises(StoreUnavailable, match="not asked for"):
        await store.take_back(alice, BASIS, "event")
    assert await raw.get(alice.sum(BASIS)) == before
    assert await raw.llen(alice.log) == 1


async def test_the_index_drops_decisions_whose_pointers_have_expired(
    server: EmbeddedRedis, store: RedisStore, raw: Redis, alice: UserKey
) -> None:
    await store.write_decision(alice, "brief", b"record", 10.0)
    await store.write_decision(alice, "long", b"record", 1000.0)
    await age(server.url, alice.tenant, 30.0)
    await store.write_decision(alice, "next", b"record", 1000.0)
    assert await raw.zrange(alice.decisions, 0, -1) == [b"long", b"next"]


async def test_a_brief_decision_does_not_shorten_the_life_of_the_index(store: RedisStore, raw: Redis, alice: UserKey) -> None:
    await store.write_decision(alice, "long", b"record", 1000.0)
    await store.write_decision(alice, "brief", b"record", 1.0)
    assert await raw.pttl(alice.decisions) > 1_900_000


async def test_a_deletion_that_was_interrupted_is_finished_by_the_next(store: RedisStore, raw: Redis, alice: UserKey) -> None:
    await store.write_decision(alice, "one", b"record", 100.0)
    # What an interruption after the first step leaves: no index, and ids in `deleting`.
    await raw.rename(alice.decisions, alice.deleting)
    await raw.delete(alice.decision("one"))
    await store.write_decision(alice, "two", b"record", 100.0)

    deleted = await store.delete_user(alice)
    assert deleted.decisions == 1
    assert await raw.keys(f"{{t:{alice.tenant}:*") == [alice.deleted.encode()]


async def test_pointers_over_the_limit_are_dropped_by_the_next_write_if_one_was_interrupted(
    server: EmbeddedRedis, store: RedisStore, raw: Redis, alice: UserKey
) -> None:
    for n in range(4):
        await store.write_decision(alice, f"decision-{n}", b"record", 100.0 + n)
    crowded = RedisStore(server.url, limits=Limits(max_decisions=2))
    await crowded.write_decision(alice, "decision-4", b"record", 200.0)
    assert await raw.zrange(alice.decisions, 0, -1) == [b"decision-3", b"decision-4"]
    assert await crowded.locate_decision(alice, "decision-2") == "unknown"
    await crowded.aclose()


async def test_a_take_back_sent_again_by_the_client_is_answered_not_refused(store: RedisStore, raw: Redis, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0]))
    await store.add_comparison(alice, comparison("two", [2.0]))
    after = await store.take_back(alice, BASIS, "one")
    mark = await raw.lindex(alice.log, 0)
    assert mark is not None
    assert after is not None

    def arguments(token: bytes) -> list[str | bytes | int]:
        return [seal_of(SUM, alice), event_digest("one"), token, alice.sum_prefix, 1000, alice.replayed_prefix, b"", b""]

    keys = [alice.sum(BASIS), alice.events, alice.log]
    taken, record = await TAKE_BACK.run(raw.execute_command, keys, arguments(mark[5:9]))
    assert (taken, UserSum.from_record(record[17:]).pack()) == (b"taken", after.pack())
    assert await TAKE_BACK.run(raw.execute_command, keys, arguments(b"othr")) == [b"taken-back"]


@pytest.mark.parametrize("max_log", [10, 0])
async def test_a_comparison_sent_again_by_the_client_is_applied_not_a_duplicate(
    server: EmbeddedRedis, raw: Redis, alice: UserKey, max_log: int
) -> None:
    one, keys = comparison("one", [1.0]), [alice.sum(BASIS), alice.events, alice.log, alice.deleted, alice.refused, alice.moved]

    async def send(token: bytes) -> bytes:
        packed = [one.digest[:8], BASIS, one.packed(), pack_event_id("one") + pack_vector(0, 1.0, one.evidence)]
        arguments = [seal_of(SUM, alice), event_digest("one"), *packed, max_log, 60_000, token, alice.replayed_prefix, b""]
        outcome, record = await ADD_COMPARISON.run(raw.execute_command, keys, arguments)
        assert UserSum.from_record(record[17:]).count == 1
        return bytes(outcome)

    assert [await send(token) for token in (b"mi\0\0", b"mi\0\0", b"yo\0\0")] == [b"applied", b"applied", b"duplicate"]


async def test_an_event_whose_log_entry_is_gone_cannot_be_taken_back(store: RedisStore, raw: Redis, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0]))
    await raw.delete(alice.log)
    with pytest.raises(ExpiredEvent):
        await store.take_back(alice, BASIS, "one")
    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert held.count == 1


# --- scripts --------------------------------------------------------------------------------------------------------


async def test_a_server_that_lost_its_scripts_gets_them_again(own_server: EmbeddedRedis) -> None:
    alice = key_of("acme", "alice")
    store = RedisStore(own_server.url)
    async with Redis.from_url(own_server.url, protocol=2) as raw:
        for n, lose in enumerate((raw.script_flush, raw.flushall, raw.script_flush)):
            await lose()
            await store.add_comparison(alice, comparison(f"event-{n}", [1.0]))
            await lose() if n != 1 else None
            await store.take_back(alice, BASIS, f"event-{n}")
            await raw.script_flush()
            await store.write_decision(alice, f"decision-{n}", b"record", 10.0)
            await raw.script_flush()
        assert (await store.delete_user(alice)).decisions == 2
        stats = await raw.info("commandstats")
    assert stats["cmdstat_eval"]["calls"] >= 8
    await store.aclose()


async def test_one_comparison_is_one_round_trip(store: RedisStore, raw: Redis, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("first", [1.0]))
    await store.write_decision(alice, "decision", b"record", 10.0)
    await raw.config_resetstat()
    await store.add_comparison(alice, comparison("second", [1.0]))
    await store.read(alice, BASIS, decisions=["decision"])
    await store.write_decision(alice, "decision", b"record", 10.0)
    stats = await raw.info("commandstats")
    assert (stats["cmdstat_evalsha"]["calls"], stats["cmdstat_mget"]["calls"]) == (2, 1)
    assert "cmdstat_eval" not in stats


async def test_a_connection_that_broke_costs_nobody_a_request(own_server: EmbeddedRedis) -> None:
    alice = key_of("acme", "alice")
    store = RedisStore(own_server.url)
    async with Redis.from_url(own_server.url, protocol=2) as raw:
        for n in range(20):
            adding = [asyncio.create_task(store.add_comparison(alice, comparison(f"event-{n}-{m}", [1.0]))) for m in range(4)]
            await asyncio.sleep(0)
            await raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert [each.result for each in await asyncio.gather(*adding)] == ["applied"] * 4
    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert held.count == 80
    await store.aclose()
