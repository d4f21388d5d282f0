"""Replaying logged comparisons under another basis: once each, resumable, taken back with the rest; both stores alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attune.service.state.store import Limits, LoggedComparison, NewComparison, ReplayedEvidence, Store, StoredSum, UserKey
from tests.state.conftest import BASIS, Bench, comparison, exported, key_of

NEW = "basis-2"


def again(event_id: str, evidence: tuple[float, ...], observed_s: float = 1_000.0, epoch: int = 0) -> NewComparison:
    return comparison(event_id, evidence, basis=NEW, observed_s=observed_s, epoch=epoch)


async def pending(store: Store, key: UserKey, basis: str = NEW) -> list[str]:
    return [logged.event_id async for logged in store.to_replay(key, basis)]


async def everybody(store: Store, tenant: str | None) -> list[UserKey]:
    found, cursor = [], ""
    while True:
        page = await store.users(tenant, cursor)
        found += page.users
        if page.cursor is None:
            return found
        cursor = page.cursor


async def test_what_is_replayed_adds_up_as_if_it_had_come_under_the_new_basis(store: Store, alice: UserKey, bob: UserKey) -> None:
    for index in range(5):
        await store.add_comparison(alice, comparison(f"e{index}", (1.0, 2.0, 3.0), observed_s=1_000.0 + index))
        await store.add_comparison(bob, again(f"e{index}", (0.5, index), observed_s=1_000.0 + index, epoch=index % 2))
    assert await pending(store, alice) == [f"e{index}" for index in range(5)]
    for index in (3, 0, 4, 1, 2):
        assert await store.replay_comparison(alice, again(f"e{index}", (0.5, index), 1_000.0 + index, index % 2)) == "applied"
    one, other = (await store.read(alice, NEW)).sum, (await store.read(bob, NEW)).sum
    assert one is not None
    assert other is not None
    assert one.pack() == other.pack()
    old = (await store.read(alice, BASIS)).sum
    assert old is not None
    assert old.evidence.tolist() == [5.0, 10.0, 15.0]
    assert await pending(store, alice) == []


async def test_a_comparison_is_replayed_once(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("e1"))
    assert [await store.replay_comparison(alice, again("e1", (1.0, 1.0))) for _ in range(3)] == ["applied", "present", "present"]
    held = (await store.read(alice, NEW)).sum
    assert held is not None
    assert (held.count, held.evidence.tolist()) == (1, [1.0, 1.0])


async def test_a_repeat_after_a_lost_answer_is_told_what_it_did_and_adds_nothing(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("e1"))
    one, other = (replace(again("e1", (1.0, 1.0)), payload=payload) for payload in (b"one", b"other"))
    assert [await store.replay_comparison(alice, each) for each in (one, one, other)] == ["applied", "applied", "present"]
    held = (await store.read(alice, NEW)).sum
    assert held is not None
    assert (held.count, held.evidence.tolist()) == (1, [1.0, 1.0])


async def test_what_came_under_the_new_basis_is_not_replayed(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, again("new", (1.0, 1.0)))
    await store.add_comparison(alice, comparison("old"))
    assert await pending(store, alice) == ["old"]
    assert await store.replay_comparison(alice, again("new", (1.0, 1.0))) == "present"
    assert await store.replay_comparison(alice, again("never", (1.0, 1.0))) == "gone"
    held = (await store.read(alice, NEW)).sum
    assert held is not None
    assert held.count == 1


async def test_taking_back_reaches_every_sum_that_has_the_comparison(store: Store, alice: UserKey) -> None:
    for event, vector in (("e1", (1.0, 0.25)), ("e2", (2.0, 0.5))):
        await store.add_comparison(alice, comparison(event))
        await store.replay_comparison(alice, again(event, vector))
    await store.add_comparison(alice, again("e3", (4.0, 1.0)))
    after = await store.take_back(alice, NEW, "e1")
    assert after is not None
    assert (after.count, after.evidence.tolist()) == (2, [6.0, 1.5])
    old = (await store.read(alice, BASIS)).sum
    assert old is not None
    assert old.count == 1
    assert await store.replay_comparison(alice, again("e1", (1.0, 0.25))) == "gone"
    assert await pending(store, alice) == []
    await store.take_back(alice, NEW, "e2")
    assert (await store.read(alice, BASIS)).sum is None


async def test_evidence_of_another_length_is_refused_and_nothing_changes(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("e1"))
    await store.add_comparison(alice, again("e2", (1.0, 1.0)))
    with pytest.raises(ValueError, match="holds 2 doubles of evidence, the comparison 3"):
        await store.replay_comparison(alice, again("e1", (1.0, 1.0, 1.0)))
    assert await pending(store, alice) == ["e1"]


async def test_a_repeat_of_the_original_stays_a_duplicate(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("e1"))
    await store.replay_comparison(alice, again("e1", (1.0, 1.0)))
    added = await store.add_comparison(alice, again("e1", (1.0, 1.0)))
    assert added.result == "duplicate"
    assert added.sum is not None
    assert added.sum.count == 1


async def test_an_export_has_what_was_replayed_and_a_deletion_leaves_nothing(store: Store, alice: UserKey) -> None:
    for index in range(3):
        await store.add_comparison(alice, comparison(f"e{index}"))
        await store.replay_comparison(alice, again(f"e{index}", (float(index), 1.0)))
    kept = await exported(store, alice)
    replayed = sorted((each for each in kept if isinstance(each, ReplayedEvidence)), key=lambda each: each.event_id)
    assert [(each.event_id, each.basis, each.evidence.tolist()) for each in replayed] == [
        (f"e{index}", NEW, [float(index), 1.0]) for index in range(3)
    ]
    assert {each.basis for each in kept if isinstance(each, StoredSum)} == {BASIS, NEW}
    deleted = await store.delete_user(alice)
    assert (deleted.keys, deleted.comparisons) == (5, 3)  # two sums, what was replayed, events, log
    assert await exported(store, alice) == []
    assert await store.replay_comparison(alice, again("e1", (1.0, 1.0))) == "gone"
    assert (await store.read(alice, NEW)).sum is None


async def test_what_leaves_the_log_leaves_what_was_replayed_and_not_the_sum(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_log=2))
    await store.add_comparison(alice, comparison("e1"))
    await store.replay_comparison(alice, again("e1", (1.0, 1.0)))
    for event in ("e2", "e3"):
        await store.add_comparison(alice, comparison(event))
    assert not [each async for each in store.export(alice) if isinstance(each, ReplayedEvidence)]
    held = (await store.read(alice, NEW)).sum
    assert held is not None
    assert held.count == 1


async def test_a_replay_does_not_prolong_a_users_life(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(user_ttl_s=1_000.0))
    await store.add_comparison(alice, comparison("e1"))
    await bench.pass_time(600.0)
    await store.replay_comparison(alice, again("e1", (1.0, 1.0)))
    assert (await store.read(alice, NEW)).sum is not None
    await bench.pass_time(390.0)
    assert (await store.read(alice, NEW)).sum is not None
    await bench.pass_time(20.0)
    assert (await store.read(alice, NEW)).sum is None
    assert await exported(store, alice) == []


async def test_what_was_replayed_lives_as_long_as_the_sum_that_has_it(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(user_ttl_s=1_000.0))
    await store.add_comparison(alice, comparison("e1"))
    await store.replay_comparison(alice, again("e1", (1.0, 1.0)))
    await bench.pass_time(600.0)
    await store.add_comparison(alice, again("e2", (0.5, 0.0)))
    await bench.pass_time(600.0)
    after = await store.take_back(alice, NEW, "e1")
    assert after is not None
    assert (after.count, after.evidence.tolist()) == (1, [0.5, 0.0])


async def test_every_user_with_a_log_is_found_and_those_of_one_tenant_alone(store: Store, tenant: str) -> None:
    keys = [key_of(tenant, f"user-{index}") for index in range(300)]
    for key in keys:
        await store.add_comparison(key, comparison("e1"))
    other = key_of(tenant + "x", "somebody")
    await store.add_comparison(other, comparison("e1"))
    await store.write_decision(key_of(tenant, "no-log"), "decision-1", b"record", 100.0)
    assert set(await everybody(store, tenant)) == set(keys)
    assert set(await everybody(store, None)) >= {*keys, other}


@pytest.mark.parametrize("cursor", ["x", "-1", "1:", "0:0; FLUSHALL", "\x00"])
async def test_a_cursor_of_nobody_is_refused(store: Store, tenant: str, cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        await store.users(tenant, cursor)


async def test_more_than_one_page_of_a_log_is_gone_through(store: Store, alice: UserKey, rng: np.random.Generator) -> None:
    for index in range(250):
        await store.add_comparison(alice, comparison(f"e{index}"))
    done = set(rng.permutation(250)[:120].tolist())
    for index in done:
        await store.replay_comparison(alice, again(f"e{index}", (1.0, 1.0)))
    left = [logged async for logged in store.to_replay(alice, NEW)]
    assert [logged.event_id for logged in left] == [f"e{index}" for index in range(250) if index not in done]
    assert all(isinstance(logged, LoggedComparison) and logged.basis == BASIS for logged in left)
