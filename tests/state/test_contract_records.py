"""What every store promises about decisions, time, export and deletion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from attune.service.errors import EventConflict, ExpiredCandidate, StoreUnavailable, UnknownDecision
from attune.service.state.store import (
    Deleted,
    LastMember,
    Limits,
    LoggedComparison,
    Store,
    StoredDecision,
    StoredSum,
    TakenBack,
    UserKey,
    UserRead,
)
from tests.state.conftest import BASIS, Bench, comparison, exported, same

# --- decisions ------------------------------------------------------------------------------------------------------


async def test_feedback_reads_the_sum_and_its_own_live_decisions(store: Store, alice: UserKey, bob: UserKey) -> None:
    added = await store.add_comparison(alice, comparison())
    await store.write_decision(alice, "mine", b"\x00\xffbinary", 100.0)
    await store.write_decision(alice, "also-mine", b"", 100.0)
    await store.write_decision(bob, "theirs", b"secret", 100.0)

    found = await store.read(alice, BASIS, decisions=["mine", "theirs", "never", "also-mine", "mine", "{not a name}"])

    held, decisions = found.sum, found.decisions
    assert same(held, added.sum)
    assert decisions == {"mine": b"\x00\xffbinary", "also-mine": b""}


async def test_a_decision_is_found_without_its_user(store: Store, alice: UserKey) -> None:
    await store.write_decision(alice, "mine", b"record", 100.0)
    assert await store.read_decision(alice.tenant, "mine") == (alice.tag, b"record")
    with pytest.raises(UnknownDecision):
        await store.read_decision("other-tenant", "mine")


@pytest.mark.parametrize("decision_id", ["never", "", "{t:x:d:y}", "a" * 65])
async def test_an_unknown_or_malformed_decision_is_unknown(store: Store, alice: UserKey, decision_id: str) -> None:
    with pytest.raises(UnknownDecision):
        await store.read_decision(alice.tenant, decision_id)
    assert await store.locate_decision(alice, decision_id) == "unknown"


async def test_a_decision_written_again_is_replaced(store: Store, alice: UserKey) -> None:
    await store.write_decision(alice, "mine", b"first", 100.0)
    await store.write_decision(alice, "mine", b"second", 100.0)
    assert await store.read_decision(alice.tenant, "mine") == (alice.tag, b"second")
    assert (await store.delete_user(alice)).decisions == 1


async def test_the_member_that_served_last_is_read_with_the_sum(store: Store, alice: UserKey, bob: UserKey) -> None:
    added = await store.add_comparison(alice, comparison())
    await store.write_decision(alice, "one", b"record", 100.0)
    assert (await store.read(alice, BASIS, last=True)).last is None
    await store.write_decision(alice, "one", b"record", 100.0, "warm/ü")
    await store.write_decision(alice, "two", b"record", 100.0)  # says nothing about it, and leaves it
    found = await store.read(alice, BASIS, last=True)
    held, last = found.sum, found.last
    assert (same(held, added.sum), last) == (True, "warm/ü")
    assert await store.read(bob, BASIS, last=True) == UserRead(None)
    assert LastMember("warm/ü") in await exported(store, alice)


async def test_the_last_member_is_forgotten_after_twice_the_time_of_its_decision_or_with_its_user(bench: Bench, alice: UserKey) -> None:
    await bench.store.write_decision(alice, "one", b"record", 100.0, "warm")
    await bench.pass_time(190.0)
    assert (await bench.store.read(alice, BASIS, last=True)).last == "warm"
    await bench.pass_time(20.0)
    assert (await bench.store.read(alice, BASIS, last=True)).last is None
    await bench.store.write_decision(alice, "two", b"record", 100.0, "concise")
    assert (await bench.store.delete_user(alice)).keys == 4  # record, index, pointer, last member
    assert (await bench.store.read(alice, BASIS, last=True)).last is None


async def test_a_decision_is_live_then_expired_then_unknown(bench: Bench, alice: UserKey, bob: UserKey) -> None:
    store = bench.store
    await store.write_decision(alice, "mine", b"record", 100.0)
    assert await store.locate_decision(alice, "mine") == "live"
    assert await store.locate_decision(bob, "mine") == "foreign"

    await bench.pass_time(101.0)
    assert await store.locate_decision(alice, "mine") == "expired"
    assert await store.locate_decision(bob, "mine") == "foreign"
    assert (await store.read(alice, BASIS, decisions=["mine"])).decisions == {}
    with pytest.raises(ExpiredCandidate):
        await store.read_decision(alice.tenant, "mine")

    await bench.pass_time(100.0)
    assert await store.locate_decision(alice, "mine") == "unknown"
    assert await store.locate_decision(bob, "mine") == "unknown"


async def test_a_decision_takes_the_place_of_the_one_that_was_read_and_of_no_other(store: Store, alice: UserKey) -> None:
    await store.write_decision(alice, "mine", b"first", 100.0)
    assert await store.write_decision(alice, "mine", b"second", 100.0, instead_of=b"first")
    for record in (b"second", b"third"):
        with pytest.raises(EventConflict, match="written by another request meanwhile"):
            await store.write_decision(alice, "mine", record, 100.0, instead_of=b"first")
    assert (await store.read(alice, BASIS, decisions=["mine"])).decisions == {"mine": b"second"}
    assert not await store.write_decision(alice, "another", b"second", 100.0, instead_of=b"first")
    assert await store.locate_decision(alice, "another") == "unknown"


async def test_decisions_that_expired_leave_the_index_when_the_next_is_written(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_decisions=2))
    await store.write_decision(alice, "one", b"record", 10.0)
    await store.write_decision(alice, "two", b"record", 10.0)
    await bench.pass_time(15.0)
    await store.write_decision(alice, "three", b"record", 100.0)
    assert await store.locate_decision(alice, "one") == "unknown"
    assert await store.locate_decision(alice, "two") == "expired"
    await bench.pass_time(10.0)
    await store.write_decision(alice, "four", b"record", 100.0)
    assert await store.locate_decision(alice, "three") == "live"


# --- time to live ---------------------------------------------------------------------------------------------------


async def test_sum_events_and_log_live_and_expire_together(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(user_ttl_s=1000.0))
    await store.add_comparison(alice, comparison("one", [1.0]))
    await bench.pass_time(900.0)
    await store.add_comparison(alice, comparison("two", [2.0]))
    await bench.pass_time(900.0)

    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert held.count == 2
    assert (await store.add_comparison(alice, comparison("one", [1.0]))).result == "duplicate"

    await bench.pass_time(200.0)
    assert await exported(store, alice) == []
    assert (await store.add_comparison(alice, comparison("one", [1.0]))).result == "applied"


async def test_an_old_basis_lives_as_long_as_the_log_from_which_it_can_be_taken_back(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(user_ttl_s=1000.0))
    await store.add_comparison(alice, comparison("one", [1.0], basis="old"))
    await bench.pass_time(900.0)
    await store.add_comparison(alice, comparison("two", [2.0], basis="new"))
    await bench.pass_time(200.0)

    old, new = (await store.read(alice, "old")).sum, (await store.read(alice, "new")).sum
    assert old is not None
    assert new is not None
    assert (old.evidence.tolist(), new.evidence.tolist()) == ([1.0], [2.0])
    await store.add_comparison(alice, comparison("three", [4.0], basis="old"))
    taken = await store.take_back(alice, "old", "one")
    assert taken is not None
    assert taken.evidence.tolist() == [4.0]

    await bench.pass_time(1100.0)
    assert [(await store.read(alice, basis)).sum for basis in ("old", "new")] == [None, None]


# --- export and deletion --------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_an_export_holds_everything_in_order_over_several_pages(store: Store, alice: UserKey, bob: UserKey) -> None:
    for number in range(230):
        await store.add_comparison(
            alice, comparison(f"event-{number}", [float(number)], observed_s=float(number), payload=b"\x00" + str(number).encode())
        )
    await store.add_comparison(alice, comparison("other", [1.0, 2.0], basis="another-basis", epoch=4))
    await store.take_back(alice, BASIS, "event-7")
    for number in range(120):
        await store.write_decision(alice, f"decision-{number}", b"record %d" % number, 100.0 + number)
    await store.add_comparison(bob, comparison("bobs"))

    entries = await exported(store, alice)
    sums = [entry for entry in entries if isinstance(entry, StoredSum)]
    logged = [entry for entry in entries if isinstance(entry, LoggedComparison)]
    decisions = [entry for entry in entries if isinstance(entry, StoredDecision)]
    assert [each.basis for each in sums] == ["another-basis", BASIS]
    assert all([same(each.sum, (await store.read(alice, each.basis)).sum) for each in sums])
    assert [entry.event_id for entry in logged] == [f"event-{number}" for number in range(230) if number != 7] + ["other"]
    assert logged[8].payload == b"\x009"
    assert (logged[8].observed_s, logged[8].evidence.tolist(), logged[8].basis, logged[8].epoch) == (9.0, [9.0], BASIS, 0)
    assert (logged[-1].epoch, logged[-1].basis) == (4, "another-basis")
    assert [entry for entry in entries if isinstance(entry, TakenBack)] == [TakenBack("event-7")]
    assert [(each.decision_id, each.record) for each in decisions] == [(f"decision-{n}", b"record %d" % n) for n in range(120)]
    assert len(entries) == len(sums) + len(logged) + 1 + len(decisions)


async def test_the_sum_is_what_its_log_adds_up_to(store: Store, alice: UserKey, rng: np.random.Generator) -> None:
    grid = rng.integers(-1000, 1000, size=(20, 4)) / 64
    for number, evidence in enumerate(grid):
        await store.add_comparison(alice, comparison(f"event-{number}", evidence))
    await store.take_back(alice, BASIS, "event-3")

    logged = [entry.evidence for entry in await exported(store, alice) if isinstance(entry, LoggedComparison)]
    held = (await store.read(alice, BASIS)).sum
    assert held is not None
    assert held.count == len(logged) == 19
    assert np.array_equal(held.evidence, np.sum(logged, axis=0))


async def test_a_deletion_leaves_nothing_and_counts_what_it_removed(bench: Bench, alice: UserKey, bob: UserKey) -> None:
    store = bench.store
    await store.add_comparison(alice, comparison("one", [1.0]))
    await store.add_comparison(alice, comparison("two", [1.0, 2.0], basis="another-basis"))
    await store.add_comparison(alice, comparison("three", [2.0]))
    await store.take_back(alice, BASIS, "three")
    await store.write_decision(alice, "brief", b"record", 10.0)
    await bench.pass_time(15.0)
    await store.write_decision(alice, "long", b"record", 100.0)
    kept = await store.add_comparison(bob, comparison("bobs"))

    # 2 sums, events, log, index of decisions, 1 live record, 2 pointers
    assert await store.delete_user(alice) == Deleted(keys=8, comparisons=2, decisions=1)
    assert await exported(store, alice) == []
    assert await store.locate_decision(bob, "long") == "unknown"
    assert await store.delete_user(alice) == Deleted(keys=0, comparisons=0, decisions=0, deleted_before=True)
    assert same((await store.read(bob, BASIS)).sum, kept.sum)


async def test_a_deleted_user_starts_afresh(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0]))
    await store.delete_user(alice)
    added = await store.add_comparison(alice, comparison("another", [5.0, 6.0], body=b"another"))
    assert added.result == "applied"
    assert added.sum is not None
    assert added.sum.evidence.tolist() == [5.0, 6.0]


@pytest.mark.slow
async def test_a_user_with_many_decisions_is_deleted_whole(store: Store, alice: UserKey, user: Callable[[str], UserKey]) -> None:
    for number in range(620):
        await store.write_decision(alice, f"decision-{number}", b"record", 100.0)
    assert await store.delete_user(alice) == Deleted(keys=1 + 2 * 620, comparisons=0, decisions=620)
    assert {await store.locate_decision(user("eve"), f"decision-{number}") for number in range(0, 620, 31)} == {"unknown"}


# --- life -----------------------------------------------------------------------------------------------------------


async def test_a_store_answers_until_it_is_closed(store: Store, alice: UserKey) -> None:
    await store.ping()
    await store.aclose()
    for operation in (
        store.ping(),
        store.read(alice, BASIS),
        store.add_comparison(alice, comparison()),
        store.take_back(alice, BASIS, "event-1"),
        store.delete_user(alice),
        exported(store, alice),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            await operation


@pytest.mark.parametrize("basis", ["", "a{b}", "x" * 65, "sp ace"])
async def test_a_basis_that_cannot_name_a_key_is_refused(store: Store, alice: UserKey, basis: str) -> None:
    with pytest.raises(ValueError, match="basis"):
        await store.read(alice, basis)
    with pytest.raises(ValueError, match="basis"):
        comparison(basis=basis)
