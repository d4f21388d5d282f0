"""What every store promises: this file runs against the dictionary and against a real server."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from service.errors import EventConflict, ExpiredCandidate, StoreUnavailable, UnknownDecision, UnknownEvent
from service.state.store import (
    Deleted,
    Limits,
    LoggedComparison,
    Store,
    StoredDecision,
    StoredSum,
    TakenBack,
    UserKey,
    UserSum,
)
from tests.state.conftest import BASIS, Bench, comparison


def same(left: UserSum | None, right: UserSum | None) -> bool:
    """Whether two sums agree to the last bit."""
    if left is None or right is None:
        return left is right
    return left.pack() == right.pack()


async def exported(store: Store, key: UserKey) -> list[object]:
    return [each async for each in store.export(key)]


# --- sums -----------------------------------------------------------------------------------------------------------


async def test_an_unknown_user_has_no_sum(store: Store, alice: UserKey) -> None:
    assert await store.read_user(alice, BASIS) is None
    assert await store.read_for_feedback(alice, BASIS, []) == (None, {})


async def test_the_first_comparison_is_the_sum(store: Store, alice: UserKey) -> None:
    added = await store.add_comparison(alice, comparison(evidence=[1.0, -2.0, 0.5], epoch=3, observed_s=77.25))

    assert added.result == "applied"
    assert added.sum is not None
    assert (added.sum.count, added.sum.epoch, added.sum.first_seen_s, added.sum.last_seen_s) == (1, 3, 77.25, 77.25)
    assert added.sum.evidence.tolist() == [1.0, -2.0, 0.5]
    assert same(await store.read_user(alice, BASIS), added.sum)


async def test_comparisons_add_up_and_times_are_kept_whatever_the_order(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("late", [1.0, 2.0], observed_s=30.0))
    added = await store.add_comparison(alice, comparison("early", [0.25, -4.0], observed_s=10.0))

    assert added.sum is not None
    assert added.sum.evidence.tolist() == [1.25, -2.0]
    assert (added.sum.count, added.sum.first_seen_s, added.sum.last_seen_s) == (2, 10.0, 30.0)


async def test_a_repeat_changes_nothing_and_gives_the_current_sum(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0]))
    second = await store.add_comparison(alice, comparison("two", [2.0]))
    repeat = await store.add_comparison(alice, comparison("one", [1.0]))

    assert repeat.result == "duplicate"
    assert same(repeat.sum, second.sum)
    assert same(await store.read_user(alice, BASIS), second.sum)


async def test_the_same_event_with_another_body_is_a_conflict_and_changes_nothing(store: Store, alice: UserKey) -> None:
    first = await store.add_comparison(alice, comparison("one", [1.0], body=b"left"))
    with pytest.raises(EventConflict, match="another body"):
        await store.add_comparison(alice, comparison("one", [1.0], body=b"right"))

    assert same(await store.read_user(alice, BASIS), first.sum)


async def test_users_and_tenants_do_not_share_events(store: Store, alice: UserKey, bob: UserKey) -> None:
    elsewhere = UserKey("other-tenant", alice.tag)
    for key in (alice, bob, elsewhere):
        assert (await store.add_comparison(key, comparison("one", [1.0], body=key.base.encode()))).result == "applied"
    await store.delete_user(elsewhere)
    assert await store.read_user(alice, BASIS) is not None


async def test_each_basis_has_a_sum_of_its_own(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0, 2.0, 3.0], basis="old"))
    await store.add_comparison(alice, comparison("two", [5.0], basis="new"))

    old, new = await store.read_user(alice, "old"), await store.read_user(alice, "new")
    assert old is not None
    assert new is not None
    assert (old.evidence.tolist(), new.evidence.tolist()) == ([1.0, 2.0, 3.0], [5.0])


async def test_an_event_learned_under_an_earlier_basis_stays_a_repeat(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0], basis="old"))
    repeat = await store.add_comparison(alice, comparison("one", [9.0, 9.0], basis="new"))

    assert repeat.result == "duplicate"
    assert repeat.sum is None


async def test_evidence_of_another_length_is_refused_with_both_lengths(store: Store, alice: UserKey) -> None:
    first = await store.add_comparison(alice, comparison("one", [1.0, 2.0]))
    with pytest.raises(ValueError, match="holds 2 doubles of evidence, the comparison 3"):
        await store.add_comparison(alice, comparison("two", [1.0, 2.0, 3.0]))

    assert same(await store.read_user(alice, BASIS), first.sum)
    assert (await store.add_comparison(alice, comparison("two", [1.0, 2.0]))).result == "applied"


async def test_long_evidence_and_odd_event_ids_are_kept_exactly(store: Store, alice: UserKey, rng: np.random.Generator) -> None:
    evidence = rng.normal(size=2048)
    for event_id in ("ünï/côde ✓", "{brace}", "a b:c", "x" * 256, "0"):
        await store.add_comparison(alice, comparison(event_id, evidence))
        assert (await store.add_comparison(alice, comparison(event_id, evidence))).result == "duplicate"

    logged = [entry for entry in await exported(store, alice) if isinstance(entry, LoggedComparison)]
    assert [entry.event_id for entry in logged] == ["ünï/côde ✓", "{brace}", "a b:c", "x" * 256, "0"]
    assert all(entry.evidence.tobytes() == evidence.tobytes() for entry in logged)


# --- epochs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [(0, 1), (1, 0), (5, 5), (-1, 2), (0, 40), (40, 0), (0, 2**40), (2**40, 0)])
async def test_epochs_are_aligned_by_an_exact_power_of_two(store: Store, alice: UserKey, epochs: tuple[int, int]) -> None:
    first, second = epochs
    await store.add_comparison(alice, comparison("one", [1.5, -0.1, 2.0**300], epoch=first))
    added = await store.add_comparison(alice, comparison("two", [0.5, 0.3, -(2.0**299)], epoch=second))

    later = max(epochs)
    shifts = [max(-256 * (later - epoch), -4096) for epoch in epochs]
    expected = np.ldexp(np.array([1.5, -0.1, 2.0**300]), shifts[0]) + np.ldexp(np.array([0.5, 0.3, -(2.0**299)]), shifts[1])
    assert added.sum is not None
    assert added.sum.epoch == later
    assert added.sum.evidence.tobytes() == expected.tobytes()


async def test_taking_back_an_older_epoch_subtracts_what_is_left_of_it(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("old", [2.0**256], epoch=0))
    await store.add_comparison(alice, comparison("new", [0.5], epoch=1))
    after = await store.take_back(alice, BASIS, "old")

    assert after is not None
    assert (after.count, after.epoch, after.evidence.tolist()) == (1, 1, [0.5])


async def test_taking_back_from_an_epoch_ahead_of_the_sum_keeps_the_rest(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("new", [0.5], epoch=1))
    await store.add_comparison(alice, comparison("old", [2.0**256], epoch=0))
    after = await store.take_back(alice, BASIS, "new")

    assert after is not None
    assert (after.count, after.epoch, after.evidence.tolist()) == (1, 1, [1.0])


# --- taking back ----------------------------------------------------------------------------------------------------


async def test_taking_back_restores_the_bits_of_before(store: Store, alice: UserKey) -> None:
    before = (await store.add_comparison(alice, comparison("one", [0.75, -3.0], observed_s=5.0))).sum
    await store.add_comparison(alice, comparison("two", [2.0**-20, 1024.0], observed_s=5.0))

    after = await store.take_back(alice, BASIS, "two")
    assert same(after, before)
    assert same(await store.read_user(alice, BASIS), before)


async def test_taking_back_the_only_comparison_leaves_the_prior(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [0.1, 0.7]))
    assert await store.take_back(alice, BASIS, "one") is None
    assert await store.read_user(alice, BASIS) is None


async def test_a_late_repeat_of_what_was_taken_back_is_refused_and_says_so(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0]))
    kept = (await store.add_comparison(alice, comparison("two", [2.0]))).sum
    assert kept is not None
    await store.take_back(alice, BASIS, "one")

    with pytest.raises(EventConflict, match="taken back"):
        await store.add_comparison(alice, comparison("one", [1.0]))
    now = await store.read_user(alice, BASIS)
    assert now is not None
    assert now.evidence.tolist() == [2.0]


@pytest.mark.parametrize("event_id", ["never", "", "\x01basis-1", "x" * 300, "\ud800"])
async def test_taking_back_what_is_not_there_is_an_unknown_event(store: Store, alice: UserKey, event_id: str) -> None:
    first = await store.add_comparison(alice, comparison("one", [1.0]))
    with pytest.raises(UnknownEvent):
        await store.take_back(alice, BASIS, event_id)
    assert same(await store.read_user(alice, BASIS), first.sum)


async def test_an_event_is_taken_back_once(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0]))
    await store.add_comparison(alice, comparison("two", [2.0]))
    after = await store.take_back(alice, BASIS, "one")
    with pytest.raises(UnknownEvent, match="taken back before"):
        await store.take_back(alice, BASIS, "one")
    assert same(await store.read_user(alice, BASIS), after)


async def test_taking_back_under_another_basis_reaches_the_sum_that_learned_it(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0], basis="old"))
    await store.add_comparison(alice, comparison("two", [2.0], basis="old"))
    new = await store.add_comparison(alice, comparison("three", [7.0, 8.0], basis="new"))

    assert same(await store.take_back(alice, "new", "one"), new.sum)
    old = await store.read_user(alice, "old")
    assert old is not None
    assert (old.count, old.evidence.tolist()) == (1, [2.0])


# --- bounds ---------------------------------------------------------------------------------------------------------


async def test_the_log_forgets_its_oldest_entries_and_the_sum_does_not(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_log=3))
    for number in range(5):
        await store.add_comparison(alice, comparison(f"event-{number}", [2.0**number]))

    entries = await exported(store, alice)
    assert [entry.event_id for entry in entries if isinstance(entry, LoggedComparison)] == ["event-2", "event-3", "event-4"]
    held = await store.read_user(alice, BASIS)
    assert held is not None
    assert (held.count, held.evidence.tolist()) == (5, [31.0])
    with pytest.raises(UnknownEvent):
        await store.take_back(alice, BASIS, "event-0")
    assert (await store.delete_user(alice)).comparisons == 3


async def test_marks_of_what_was_taken_back_are_bounded_by_the_log_too(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_log=3))
    for number in range(6):
        await store.add_comparison(alice, comparison(f"event-{number}", [1.0]))
        await store.take_back(alice, BASIS, f"event-{number}")

    entries = await exported(store, alice)
    assert entries == [TakenBack(f"event-{number}") for number in (3, 4, 5)]


async def test_a_log_over_a_lowered_limit_shrinks_with_every_comparison(bench: Bench, alice: UserKey) -> None:
    for number in range(150):
        await bench.store.add_comparison(alice, comparison(f"event-{number}", [1.0]))
    smaller = bench.limited(Limits(max_log=10))
    await smaller.add_comparison(alice, comparison("then", [1.0]))
    assert sum(isinstance(entry, LoggedComparison) for entry in await exported(smaller, alice)) == 51
    await smaller.add_comparison(alice, comparison("now", [1.0]))
    assert sum(isinstance(entry, LoggedComparison) for entry in await exported(smaller, alice)) == 10


async def test_a_payload_over_its_limit_is_refused(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_payload_bytes=10))
    with pytest.raises(ValueError, match="payload has 11 bytes; at most 10"):
        await store.add_comparison(alice, comparison(payload=b"x" * 11))
    assert await store.read_user(alice, BASIS) is None


async def test_the_oldest_decisions_make_room(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_decisions=2))
    for number in range(4):
        await store.write_decision(alice, f"decision-{number}", b"record", 100.0 + number)

    places = [await store.locate_decision(alice, f"decision-{number}") for number in range(4)]
    assert places == ["unknown", "unknown", "live", "live"]
    assert [entry.decision_id for entry in await exported(store, alice) if isinstance(entry, StoredDecision)] == ["decision-2", "decision-3"]


@pytest.mark.parametrize(("record", "ttl_s"), [(b"x" * 101, 10.0), (b"x", 0.0), (b"x", -1.0), (b"x", 1e12)])
async def test_a_decision_out_of_bounds_is_refused(bench: Bench, alice: UserKey, record: bytes, ttl_s: float) -> None:
    store = bench.limited(Limits(max_decision_bytes=100))
    with pytest.raises(ValueError, match="decision record has 101 bytes|ttl_s is"):
        await store.write_decision(alice, "decision-1", record, ttl_s)
    assert await store.locate_decision(alice, "decision-1") == "unknown"


# --- decisions ------------------------------------------------------------------------------------------------------


async def test_feedback_reads_the_sum_and_its_own_live_decisions(store: Store, alice: UserKey, bob: UserKey) -> None:
    added = await store.add_comparison(alice, comparison())
    await store.write_decision(alice, "mine", b"\x00\xffbinary", 100.0)
    await store.write_decision(alice, "also-mine", b"", 100.0)
    await store.write_decision(bob, "theirs", b"secret", 100.0)

    held, decisions = await store.read_for_feedback(alice, BASIS, ["mine", "theirs", "never", "also-mine", "mine", "{not a name}"])
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


async def test_a_decision_is_live_then_expired_then_unknown(bench: Bench, alice: UserKey, bob: UserKey) -> None:
    store = bench.store
    await store.write_decision(alice, "mine", b"record", 100.0)
    assert await store.locate_decision(alice, "mine") == "live"
    assert await store.locate_decision(bob, "mine") == "foreign"

    await bench.pass_time(101.0)
    assert await store.locate_decision(alice, "mine") == "expired"
    assert await store.locate_decision(bob, "mine") == "foreign"
    assert (await store.read_for_feedback(alice, BASIS, ["mine"]))[1] == {}
    with pytest.raises(ExpiredCandidate):
        await store.read_decision(alice.tenant, "mine")

    await bench.pass_time(100.0)
    assert await store.locate_decision(alice, "mine") == "unknown"
    assert await store.locate_decision(bob, "mine") == "unknown"


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

    held = await store.read_user(alice, BASIS)
    assert held is not None
    assert held.count == 2
    assert (await store.add_comparison(alice, comparison("one", [1.0]))).result == "duplicate"

    await bench.pass_time(200.0)
    assert await exported(store, alice) == []
    assert (await store.add_comparison(alice, comparison("one", [1.0]))).result == "applied"


async def test_an_old_basis_fades_while_the_new_one_is_used(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(user_ttl_s=1000.0))
    await store.add_comparison(alice, comparison("one", [1.0], basis="old"))
    await bench.pass_time(900.0)
    await store.add_comparison(alice, comparison("two", [2.0], basis="new"))
    await bench.pass_time(200.0)

    assert await store.read_user(alice, "old") is None
    assert await store.take_back(alice, "old", "one") is None
    new = await store.read_user(alice, "new")
    assert new is not None
    assert new.evidence.tolist() == [2.0]


# --- export and deletion --------------------------------------------------------------------------------------------


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
    assert all([same(each.sum, await store.read_user(alice, each.basis)) for each in sums])
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
    held = await store.read_user(alice, BASIS)
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
    assert await store.delete_user(alice) == Deleted(keys=0, comparisons=0, decisions=0)
    assert same(await store.read_user(bob, BASIS), kept.sum)


async def test_a_deleted_user_starts_afresh(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0]))
    await store.delete_user(alice)
    added = await store.add_comparison(alice, comparison("one", [5.0, 6.0], body=b"another"))
    assert added.result == "applied"
    assert added.sum is not None
    assert added.sum.evidence.tolist() == [5.0, 6.0]


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
        store.read_user(alice, BASIS),
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
        await store.read_user(alice, basis)
    with pytest.raises(ValueError, match="basis"):
        comparison(basis=basis)
