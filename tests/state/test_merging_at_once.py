"""Merges beside other merges and deletions, broken off anywhere: a sum keeps its log, and each comparison counts for one user."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

import numpy as np
import pytest
import redis
from redis.asyncio import Redis

from attune.service.errors import EventConflict, UserDeleted
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.keys import DECISION, SUM, seal_of
from attune.service.state.merging import PartedKey, merge_digest
from attune.service.state.redis_store import RedisStore
from attune.service.state.scripts import RECEIVE_SUMS
from attune.service.state.store import LoggedComparison, ReplayedEvidence, Store, StoredSum, UserKey
from tests.state.conftest import BASIS, comparison, exported
from tests.state.test_merging import live, part

COMMANDS = range(1, 40, 2)
"""After which a merge is broken off; it has some thirty."""


async def counted(store: Store, key: UserKey) -> int:
    """Returns how many comparisons a user has under every basis together, once every sum is that of the log."""
    kept = await exported(store, key)
    sums = {each.basis: each.sum for each in kept if isinstance(each, StoredSum)}
    learned = [each for each in kept if isinstance(each, LoggedComparison | ReplayedEvidence)]
    for basis in {*sums, *(each.basis for each in learned)}:
        vectors = [each.evidence for each in learned if each.basis == basis]
        assert sums[basis].count == len(vectors)
        assert np.array_equal(sums[basis].evidence, np.sum(vectors, axis=0))
    return len(learned)


async def broken_off(server: EmbeddedRedis, source: UserKey, target: UserKey, commands: int) -> None:
    """Merges until so many commands were answered, as a process does that is killed then."""
    done = 0

    def observe(_operation: str, _seconds: float, _ok: bool) -> None:
        nonlocal done
        done += 1
        task = asyncio.current_task()
        if done >= commands and task is not None:
            task.cancel()

    merging = RedisStore(server.url, observe=observe)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.create_task(_merge(merging, source, target))
    await merging.aclose()


async def _merge(store: RedisStore, source: UserKey, target: UserKey) -> None:
    await store.merge_users(source, target, "login-1")


@pytest.mark.parametrize("commands", COMMANDS)
async def test_who_is_deleted_during_a_merge_leaves_the_other_all_or_nothing(
    server: EmbeddedRedis, store: Store, raw: Redis, alice: UserKey, bob: UserKey, commands: int
) -> None:
    await live(store, alice, bob)
    await broken_off(server, alice, bob, commands)
    await store.delete_user(alice)
    assert await counted(store, bob) in {1, 5}
    assert {name.decode() for name in await raw.keys(f"{alice.base}:*")} == {alice.deleted, alice.refused}


async def test_what_a_merge_had_read_before_a_deletion_comes_too_late_after_it(
    store: Store, raw: Redis, alice: UserKey, bob: UserKey
) -> None:
    await live(store, alice, bob)
    await part(raw, alice, bob, "login-1")
    aside = PartedKey(alice.tenant, alice.tag)
    read = await raw.get(aside.sum(BASIS))
    assert read is not None
    await store.delete_user(alice)
    keys = [bob.events, bob.deleted, bob.log, bob.moved]
    arguments = [seal_of(SUM, bob), merge_digest(alice, "login-1"), 60_000, bob.sum_prefix, bob.replayed_prefix]
    late = [*arguments, b"", alice.raw_tag, b"", b"=", BASIS, seal_of(SUM, bob) + read[len(seal_of(SUM, alice)) :]]
    assert await RECEIVE_SUMS.run(raw.execute_command, keys, late) == [b"duplicate"]
    assert await counted(store, bob) == 1
    assert all([await raw.pttl(name) > 0 for name in await raw.keys(f"{bob.base}:*")])


@pytest.mark.parametrize("commands", COMMANDS)
async def test_who_is_merged_on_during_a_merge_takes_everything_along(
    server: EmbeddedRedis, store: Store, user: Callable[[str], UserKey], alice: UserKey, bob: UserKey, commands: int
) -> None:
    carol = user("carol")
    await live(store, alice, bob)
    await broken_off(server, alice, bob, commands)
    await store.merge_users(bob, carol, "login-2")
    moved = await counted(store, carol)
    assert moved in {1, 5}
    await store.merge_users(alice, bob, "login-1")
    assert moved + await counted(store, bob) == 5


@pytest.mark.parametrize("commands", COMMANDS)
async def test_what_is_still_to_be_moved_is_taken_back_all_the_same(
    server: EmbeddedRedis, store: Store, alice: UserKey, bob: UserKey, commands: int
) -> None:
    await live(store, alice, bob)
    await broken_off(server, alice, bob, commands)
    if await store.find_event(bob, "a2") is not None:
        assert (await store.logged(bob, "a2")).event_id == "a2"
        await store.take_back(bob, BASIS, "a2")
        assert await counted(store, bob) == 4
    await store.merge_users(alice, bob, "login-1")
    assert await counted(store, bob) in {4, 5}


async def test_what_is_being_merged_into_one_user_is_not_merged_into_another(
    store: Store, raw: Redis, user: Callable[[str], UserKey], alice: UserKey, bob: UserKey
) -> None:
    carol = user("carol")
    await live(store, alice, bob)
    await part(raw, alice, bob, "login-1")
    with pytest.raises(EventConflict, match="into another user"):
        await store.merge_users(alice, carol, "login-1")
    await store.merge_users(alice, bob, "login-1")
    assert (await counted(store, bob), await counted(store, carol)) == (5, 0)


async def test_what_was_to_go_to_a_deleted_user_may_go_to_any_other(
    server: EmbeddedRedis, store: Store, user: Callable[[str], UserKey], alice: UserKey, bob: UserKey
) -> None:
    carol = user("carol")
    await live(store, alice, bob)
    await store.merge_users(alice, carol, "login-1")
    await store.add_comparison(alice, comparison("later", [4.0, 0.0]))
    deleting: set[asyncio.Task[object]] = set()

    def observe(operation: str, _seconds: float, _ok: bool) -> None:
        if operation == "merge_users" and not deleting:
            deleting.add(asyncio.create_task(store.delete_user(bob)))

    merging = RedisStore(server.url, observe=observe)
    with pytest.raises(UserDeleted, match="waits for another one"):
        await merging.merge_users(alice, bob, "login-2")
    await asyncio.gather(*deleting)
    assert (await store.merge_users(alice, carol, "login-1")).result == "duplicate"
    assert (await store.merge_users(alice, carol, "login-3")).comparisons == 1
    assert await counted(store, carol) == 5
    await merging.aclose()


async def test_merges_of_two_users_may_have_one_event_id(
    store: Store, user: Callable[[str], UserKey], alice: UserKey, bob: UserKey
) -> None:
    carol = user("carol")
    await live(store, alice, bob)
    for key, comparisons in ((alice, 3), (bob, 1)):
        merged = await store.merge_users(key, carol, "login")
        assert (merged.result, merged.comparisons) == ("applied", comparisons)
    assert await counted(store, carol) == 5


async def test_who_came_along_with_another_one_can_be_merged_still(
    store: Store, user: Callable[[str], UserKey], alice: UserKey, bob: UserKey
) -> None:
    carol = user("carol")
    await live(store, alice, bob)
    await store.merge_users(alice, bob, "login")
    await store.merge_users(bob, carol, "login")
    await store.add_comparison(alice, comparison("later", [4.0, 0.0]))
    merged = await store.merge_users(alice, carol, "login")
    assert (merged.result, merged.comparisons) == ("applied", 1)


@pytest.mark.parametrize("learned", [True, False])
async def test_a_repeat_leaves_what_came_later_where_it_is(store: Store, alice: UserKey, bob: UserKey, *, learned: bool) -> None:
    await store.add_comparison(bob, comparison("b0", [1.0]))
    if learned:
        await store.add_comparison(alice, comparison("a0", [1.0]))
    await store.merge_users(alice, bob, "login")
    await store.add_comparison(alice, comparison("later", [4.0]))
    await store.write_decision(alice, "decision", b"record", 100.0)
    again = await store.merge_users(alice, bob, "login")
    assert (again.result, again.comparisons, again.decisions) == ("duplicate", 0, 0)
    assert (await store.read(alice, BASIS, decisions=["decision"])).decisions == {"decision": b"record"}
    assert await counted(store, alice) == 1


async def test_answers_that_are_handed_in_while_their_decision_is_moved_go_along(
    server: EmbeddedRedis, store: Store, alice: UserKey, bob: UserKey
) -> None:
    await store.write_decision(alice, "decision", b"record", 100.0)
    written: list[str] = []
    with redis.Redis.from_url(server.url, protocol=2) as admin:

        def observe(operation: str, _seconds: float, _ok: bool) -> None:
            if operation == "write_decision" and not written:  # what the merge has just written under the other user
                written.append(operation)
                admin.set(alice.decision("decision"), seal_of(DECISION, alice) + b"answers", px=100_000)

        merging = RedisStore(server.url, observe=observe)
        await merging.merge_users(alice, bob, "login-1")
        await merging.aclose()
    assert written
    assert await store.read_decision(bob.tenant, "decision") == (bob.tag, b"answers")
    assert (await store.read(alice, BASIS, decisions=["decision"])).decisions == {}


async def test_a_decision_that_two_users_are_merged_with_both_ways_at_once_is_kept_by_one(
    server: EmbeddedRedis, store: Store, alice: UserKey, bob: UserKey
) -> None:
    await store.write_decision(alice, "decision", b"record", 100.0)
    crossed: list[str] = []

    async def cross() -> None:
        other = RedisStore(server.url)
        await other.merge_users(bob, alice, "login-2")
        await other.aclose()

    def observe(operation: str, _seconds: float, _ok: bool) -> None:
        if operation == "write_decision" and not crossed:  # it is under both users, and is still to be removed from the first
            crossed.append(operation)
            crossing = threading.Thread(target=lambda: asyncio.run(cross()))
            crossing.start()
            crossing.join()

    merging = RedisStore(server.url, observe=observe)
    await merging.merge_users(alice, bob, "login-1")
    await merging.aclose()
    assert crossed
    tag, record = await store.read_decision(alice.tenant, "decision")
    assert (tag, record) == (alice.tag, b"record")
    assert (await store.delete_user(alice)).decisions == 1
