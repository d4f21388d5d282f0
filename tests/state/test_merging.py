"""Two users become one: sums added, logs joined, decisions moved, once, and to the end however often it was broken off."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable

import pytest
import redis
from redis.asyncio import Redis

from attune.service.errors import EventConflict, StoreUnavailable, UserDeleted, UserMerged
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.merging import PartedKey, merge_digest
from attune.service.state.redis_store import RedisStore
from attune.service.state.scripts import PART_USER
from attune.service.state.store import Limits, LoggedComparison, ReplayedEvidence, Store, StoredDecision, TakenBack, UserKey
from tests.state.conftest import BASIS, Bench, comparison, exported


async def live(store: Store, alice: UserKey, bob: UserKey) -> None:
    """A visitor, and the user that the visitor turns out to be."""
    await store.add_comparison(bob, comparison("b0", [1.0, 0.5], observed_s=50.0))
    for number in range(4):
        await store.add_comparison(alice, comparison(f"a{number}", [2.0**number, -1.0], observed_s=10.0 + number, payload=b"text"))
    await store.replay_comparison(alice, comparison("a1", [8.0], basis="basis-2"))
    await store.take_back(alice, BASIS, "a3")
    await store.write_decision(alice, "decision", b"record", 100.0)


async def check(store: Store, alice: UserKey, bob: UserKey) -> None:
    """Everything of both is the second user's."""
    held = (await store.read(bob, BASIS)).sum
    assert held is not None
    assert (held.count, held.evidence.tolist(), held.first_seen_s, held.last_seen_s) == (4, [8.0, -2.5], 10.0, 50.0)
    other = (await store.read(bob, "basis-2")).sum
    assert other is not None
    assert (other.count, other.evidence.tolist()) == (1, [8.0])
    kept = await exported(store, bob)
    assert [each.event_id for each in kept if isinstance(each, LoggedComparison)] == ["b0", "a0", "a1", "a2"]
    assert [each.event_id for each in kept if isinstance(each, ReplayedEvidence)] == ["a1"]
    assert [each.event_id for each in kept if isinstance(each, TakenBack)] == ["a3"]
    assert await store.read_decision(bob.tenant, "decision") == (bob.tag, b"record")
    assert await exported(store, alice) == []


async def test_a_merged_user_is_the_sum_of_both_and_the_first_is_at_the_prior(
    store: Store, raw: Redis, alice: UserKey, bob: UserKey
) -> None:
    await live(store, alice, bob)
    merged = await store.merge_users(alice, bob, "login-1")
    assert (merged.result, merged.comparisons, merged.decisions) == ("applied", 3, 1)
    await check(store, alice, bob)
    left = await raw.keys(f"{alice.base}:*")
    assert sorted(left) == [alice.deleted.encode(), alice.moved.encode()]
    assert all([await raw.pttl(name) > 0 for name in await raw.keys(f"{bob.base}:*")])


async def test_a_merge_is_made_once(store: Store, alice: UserKey, bob: UserKey) -> None:
    await live(store, alice, bob)
    await store.merge_users(alice, bob, "login-1")
    again = await store.merge_users(alice, bob, "login-1")
    assert (again.result, again.comparisons, again.decisions) == ("duplicate", 0, 0)
    await check(store, alice, bob)


async def test_what_is_learned_after_a_merge_is_left_alone_by_its_repeat_and_moved_by_another(
    store: Store, alice: UserKey, bob: UserKey
) -> None:
    await live(store, alice, bob)
    await store.merge_users(alice, bob, "login-1")
    await store.add_comparison(alice, comparison("later", [4.0, 0.0]))
    before = (await store.read(bob, BASIS)).sum
    assert (await store.merge_users(alice, bob, "login-1")).result == "duplicate"
    left, held = (await store.read(alice, BASIS)).sum, (await store.read(bob, BASIS)).sum
    assert left is not None
    assert held is not None
    assert before is not None
    assert (left.count, held.count) == (1, before.count)
    assert (await store.merge_users(alice, bob, "login-2")).comparisons == 1
    moved = (await store.read(bob, BASIS)).sum
    assert moved is not None
    assert moved.count == before.count + 1


async def test_what_was_sent_before_is_not_learned_again_by_either(store: Store, alice: UserKey, bob: UserKey) -> None:
    await live(store, alice, bob)
    begun = await store.read(alice, BASIS)
    await store.merge_users(alice, bob, "login-1")
    with pytest.raises(UserMerged, match="merged into another one"):
        await store.add_comparison(alice, comparison("under way", [1.0, -1.0]), era=begun.era)
    for key in (alice, bob):
        assert (await store.add_comparison(key, comparison("a0", [1.0, -1.0]))).result == "duplicate"
        with pytest.raises(EventConflict, match="taken back"):
            await store.add_comparison(key, comparison("a3", [8.0, -1.0]))
        with pytest.raises(EventConflict, match="another body"):
            await store.add_comparison(key, comparison("a1", [2.0, -1.0], body=b"another"))
    await check(store, alice, bob)


async def test_what_was_moved_is_known_as_long_as_the_first_user_would_have_lived(bench: Bench, alice: UserKey, bob: UserKey) -> None:
    store = bench.limited(Limits(user_ttl_s=1000.0, tombstone_s=10.0))
    await live(store, alice, bob)
    await store.merge_users(alice, bob, "login-1")
    await bench.pass_time(50.0)
    assert (await store.add_comparison(alice, comparison("a0", [1.0, -1.0]))).result == "duplicate"
    await store.add_comparison(alice, comparison("later", [1.0, -1.0]))  # the mark has gone
    await store.merge_users(alice, bob, "login-2")
    for event in ("a0", "later"):
        assert (await store.add_comparison(alice, comparison(event, [1.0, -1.0]))).result == "duplicate"
    held = (await store.read(bob, BASIS)).sum
    assert held is not None
    assert held.count == 5


async def test_users_that_are_merged_one_after_another_know_every_event(
    store: Store, user: Callable[[str], UserKey], alice: UserKey, bob: UserKey
) -> None:
    carol = user("carol")
    await live(store, alice, bob)
    await store.merge_users(alice, bob, "login-1")
    await store.merge_users(bob, carol, "login-2")
    for key in (alice, bob, carol):
        assert (await store.add_comparison(key, comparison("a0", [1.0, -1.0]))).result == "duplicate"
    await store.merge_users(carol, alice, "login-3")
    for key in (alice, bob, carol):
        assert (await store.add_comparison(key, comparison("a0", [1.0, -1.0]))).result == "duplicate"
    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert held.count == 4


async def test_a_deletion_leaves_marks_of_a_merge_for_its_own_time_at_most(
    bench: Bench, user: Callable[[str], UserKey], raw: Redis, alice: UserKey, bob: UserKey
) -> None:
    carol = user("carol")
    store = bench.limited(Limits(user_ttl_s=1000.0, tombstone_s=10.0))
    await live(store, alice, bob)
    await store.merge_users(alice, bob, "login-1")
    await store.merge_users(bob, carol, "login-2")
    await store.delete_user(carol)
    for key in (alice, bob):
        assert 0 < await raw.pttl(key.moved) <= 10_000
        assert (await store.add_comparison(key, comparison("a0", [1.0, -1.0]))).result == "duplicate"
    await store.delete_user(alice)
    assert not await raw.exists(alice.moved)
    with pytest.raises(UserDeleted):
        await store.add_comparison(alice, comparison("a0", [1.0, -1.0]))


async def test_what_was_moved_can_be_taken_back(store: Store, alice: UserKey, bob: UserKey) -> None:
    await live(store, alice, bob)
    await store.merge_users(alice, bob, "login-1")
    after = await store.take_back(bob, BASIS, "a1")
    assert after is not None
    assert (after.count, after.evidence.tolist()) == (3, [6.0, -1.5])
    assert (await store.read(bob, "basis-2")).sum is None


async def test_an_event_id_of_both_counts_for_both(store: Store, alice: UserKey, bob: UserKey) -> None:
    for key, number in ((alice, 1.0), (bob, 2.0)):
        await store.add_comparison(key, comparison("tour-0", [number]))
    await store.merge_users(alice, bob, "login-1")
    held = (await store.read(bob, BASIS)).sum
    assert held is not None
    assert (held.count, held.evidence.tolist()) == (2, [3.0])
    after = await store.take_back(bob, BASIS, "tour-0")
    assert after is not None
    assert after.evidence.tolist() == [1.0]


async def test_a_user_of_whom_nothing_is_known_merges_into_nothing(store: Store, alice: UserKey, bob: UserKey) -> None:
    await store.add_comparison(bob, comparison("b0", [1.0]))
    assert (await store.merge_users(alice, bob, "login-1")).comparisons == 0
    held = (await store.read(bob, BASIS)).sum
    assert held is not None
    assert held.count == 1


async def test_what_was_under_way_is_refused_where_nothing_was_known_yet_and_a_repeat_refuses_nothing_more(
    store: Store, alice: UserKey, bob: UserKey
) -> None:
    begun = await store.read(alice, BASIS)
    await store.merge_users(alice, bob, "login-1")
    with pytest.raises(UserMerged, match="merged into another one"):
        await store.add_comparison(alice, comparison("under way", [1.0, -1.0]), era=begun.era)
    assert not await store.write_decision(alice, "decision", b"record", 100.0, era=begun.era)
    later = await store.read(alice, BASIS)
    assert (await store.merge_users(alice, bob, "login-1")).comparisons == 0
    assert await store.write_decision(alice, "decision", b"record", 100.0, era=later.era)


async def test_two_users_of_one_tenant_are_needed(store: Store, alice: UserKey) -> None:
    for target in (alice, UserKey("other-tenant", alice.tag)):
        with pytest.raises(ValueError, match="different ones of one tenant"):
            await store.merge_users(alice, target, "login-1")


async def part(raw: Redis, alice: UserKey, bob: UserKey, event_id: str) -> None:
    """Leaves what a merge that was broken off after its first step leaves."""
    aside = PartedKey(alice.tenant, alice.tag)
    keys = [alice.events, alice.log, alice.deleted, alice.moved, aside.base, aside.events, aside.log]
    prefixes = [alice.sum_prefix, alice.replayed_prefix, aside.sum_prefix, aside.replayed_prefix]
    await PART_USER.run(raw.execute_command, keys, [merge_digest(alice, event_id) + bob.raw_tag, b"era12345", 60_000, *prefixes])


async def test_a_merge_that_was_broken_off_goes_on(store: Store, raw: Redis, alice: UserKey, bob: UserKey) -> None:
    await live(store, alice, bob)
    await part(raw, alice, bob, "login-1")
    with pytest.raises(EventConflict, match="under another event id"):
        await store.merge_users(alice, bob, "login-2")
    assert (await store.merge_users(alice, bob, "login-1")).comparisons == 3
    await check(store, alice, bob)


async def test_what_lies_aside_of_a_merge_that_was_broken_off_is_exported(store: Store, raw: Redis, alice: UserKey, bob: UserKey) -> None:
    await live(store, alice, bob)
    before = [each for each in await exported(store, alice) if not isinstance(each, StoredDecision)]
    await part(raw, alice, bob, "login-1")
    assert (await store.read(alice, BASIS)).sum is None
    kept = [each for each in await exported(store, alice) if not isinstance(each, StoredDecision)]
    assert [type(each) for each in kept] == [type(each) for each in before]
    assert [each.event_id for each in kept if isinstance(each, LoggedComparison)] == ["a0", "a1", "a2"]
    await store.delete_user(alice)
    assert await exported(store, alice) == []


@pytest.mark.slow
@pytest.mark.parametrize("commands", range(1, 24, 2))
async def test_a_merge_that_stops_anywhere_is_finished_by_the_next(
    server: EmbeddedRedis, store: Store, raw: Redis, alice: UserKey, bob: UserKey, commands: int
) -> None:
    await live(store, alice, bob)

    name, done = f"u{secrets.token_hex(4)}", 0
    with redis.Redis.from_url(server.url) as admin:

        def observe(_operation: str, _seconds: float, _ok: bool) -> None:
            nonlocal done
            done += 1
            if done == commands:  # from here on the server knows this client no more
                admin.acl_setuser(name, enabled=False)
                admin.execute_command("CLIENT", "KILL", "USER", name)

        admin.acl_setuser(name, enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"])
        broken = RedisStore(server.url.replace("unix://", f"unix://{name}:secret@"), observe=observe)
        with pytest.raises(StoreUnavailable):
            await broken.merge_users(alice, bob, "login-1")
    await store.merge_users(alice, bob, "login-1")
    await check(store, alice, bob)
    await broken.aclose()


@pytest.mark.parametrize("commands", range(1, 20, 3))
async def test_a_merge_under_way_does_not_bring_a_deleted_user_back(
    server: EmbeddedRedis, store: Store, raw: Redis, alice: UserKey, bob: UserKey, commands: int
) -> None:
    await live(store, alice, bob)
    done = 0
    with redis.Redis.from_url(server.url, protocol=2) as admin:

        def observe(_operation: str, _seconds: float, _ok: bool) -> None:
            nonlocal done
            done += 1
            if done == commands:  # what a deletion does
                admin.delete(*admin.keys(f"{bob.base}:*"))
                admin.set(bob.deleted, b"laterera", px=60_000)

        merging = RedisStore(server.url, observe=observe)
        with contextlib.suppress(UserDeleted):
            await merging.merge_users(alice, bob, "login-1")
    assert done >= commands
    assert await raw.keys(f"{bob.base}:*") == [bob.deleted.encode()]
    await merging.aclose()


async def test_deleting_a_user_whose_merge_was_broken_off_leaves_nothing(bench: Bench, raw: Redis, alice: UserKey, bob: UserKey) -> None:
    await live(bench.store, alice, bob)
    await part(raw, alice, bob, "login-1")
    there = await raw.keys(f"{alice.base}:*")
    deleted = await bench.store.delete_user(alice)
    # All that lay aside and beside it but the mark, and the pointer of the decision.
    assert (deleted.keys, deleted.comparisons, deleted.decisions) == (len(there) - 1 + 1, 3, 1)
    left = await raw.keys(f"{alice.base}:*")
    assert sorted(left) == [alice.deleted.encode(), alice.refused.encode()]


async def test_a_decision_that_moved_is_known_as_such_to_everybody_whose_it_was(
    store: Store, user: Callable[[str], UserKey], alice: UserKey, bob: UserKey
) -> None:
    carol, eve = user("carol"), user("eve")
    await store.write_decision(alice, "decision", b"record", 100.0)
    await store.merge_users(alice, bob, "login-1")
    read = await store.read(bob, BASIS, decisions=["decision"])
    assert read.decisions == {"decision": b"record"}
    places = {key: await store.locate_decision(key, "decision") for key in (alice, bob, eve)}
    assert places == {alice: "moved", bob: "live", eve: "foreign"}
    # Whoever has it may write it again, and that forgets nobody.
    assert await store.write_decision(bob, "decision", b"answers", 100.0, instead_of=b"record", era=read.era)
    assert not await store.write_decision(alice, "decision", b"late", 100.0, update=True)
    assert not await store.write_decision(alice, "decision", b"late", 100.0, instead_of=b"record")
    await store.merge_users(bob, carol, "login-2")
    places = {key: await store.locate_decision(key, "decision") for key in (alice, bob, carol, eve)}
    assert places == {alice: "moved", bob: "moved", carol: "live", eve: "foreign"}
    assert (await store.read(carol, BASIS, decisions=["decision"])).decisions == {"decision": b"answers"}
    await store.delete_user(carol)
    assert {await store.locate_decision(key, "decision") for key in (alice, bob, carol)} == {"unknown"}


async def test_a_decision_that_had_expired_before_a_merge_is_forgotten_with_its_user(
    bench: Bench, raw: Redis, alice: UserKey, bob: UserKey
) -> None:
    await bench.store.write_decision(alice, "decision", b"record", 100.0)
    await bench.pass_time(101.0)
    await bench.store.merge_users(alice, bob, "login-1")
    assert await bench.store.locate_decision(alice, "decision") == "expired"
    for key in (alice, bob):
        await bench.store.delete_user(key)
    assert not [name for name in await raw.keys(f"{{t:{alice.tenant}:*") if b":d:" in name]
