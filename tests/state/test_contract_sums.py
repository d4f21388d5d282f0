"""What every store promises about sums: adding, repeating, taking back, bounds."""

from __future__ import annotations

import numpy as np
import pytest

from attune.service.errors import EventConflict, UnknownEvent
from attune.service.state.store import (
    Limits,
    LoggedComparison,
    Store,
    StoredDecision,
    TakenBack,
    UserKey,
    UserRead,
)
from tests.state.conftest import BASIS, Bench, comparison, exported, same

# --- sums -----------------------------------------------------------------------------------------------------------


async def test_an_unknown_user_has_no_sum(store: Store, alice: UserKey) -> None:
    assert (await store.read(alice, BASIS)).sum is None
    assert await store.read(alice, BASIS) == UserRead(None)


async def test_the_first_comparison_is_the_sum(store: Store, alice: UserKey) -> None:
    added = await store.add_comparison(alice, comparison(evidence=[1.0, -2.0, 0.5], epoch=3, observed_s=77.25))

    assert added.result == "applied"
    assert added.sum is not None
    assert (added.sum.count, added.sum.epoch, added.sum.first_seen_s, added.sum.last_seen_s) == (1, 3, 77.25, 77.25)
    assert added.sum.evidence.tolist() == [1.0, -2.0, 0.5]
    assert same((await store.read(alice, BASIS)).sum, added.sum)


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
    assert same((await store.read(alice, BASIS)).sum, second.sum)


async def test_the_same_event_with_another_body_is_a_conflict_and_changes_nothing(store: Store, alice: UserKey) -> None:
    first = await store.add_comparison(alice, comparison("one", [1.0], body=b"left"))
    with pytest.raises(EventConflict, match="another body"):
        await store.add_comparison(alice, comparison("one", [1.0], body=b"right"))

    assert same((await store.read(alice, BASIS)).sum, first.sum)


async def test_users_and_tenants_do_not_share_events(store: Store, alice: UserKey, bob: UserKey) -> None:
    elsewhere = UserKey("other-tenant", alice.tag)
    for key in (alice, bob, elsewhere):
        assert (await store.add_comparison(key, comparison("one", [1.0], body=key.base.encode()))).result == "applied"
    await store.delete_user(elsewhere)
    assert (await store.read(alice, BASIS)).sum is not None


async def test_each_basis_has_a_sum_of_its_own(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0, 2.0, 3.0], basis="old"))
    await store.add_comparison(alice, comparison("two", [5.0], basis="new"))

    old, new = (await store.read(alice, "old")).sum, (await store.read(alice, "new")).sum
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

    assert same((await store.read(alice, BASIS)).sum, first.sum)
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
    assert same((await store.read(alice, BASIS)).sum, before)


async def test_taking_back_the_only_comparison_leaves_the_prior(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [0.1, 0.7]))
    assert await store.take_back(alice, BASIS, "one") is None
    assert (await store.read(alice, BASIS)).sum is None


async def test_an_event_is_found_as_it_was_applied_and_as_it_was_taken_back(store: Store, alice: UserKey, bob: UserKey) -> None:
    await store.add_comparison(alice, comparison("e1", body=b"one"))
    found = await store.find_event(alice, "e1")
    assert found is not None
    digest = (b"one" + b"\0" * 16)[:16]
    assert (found.is_of(digest), found.is_of(b"other" + digest), found.taken_back) == (True, False, False)
    await store.take_back(alice, BASIS, "e1")
    taken = await store.find_event(alice, "e1")
    assert taken is not None
    assert (taken.digest, taken.taken_back) == (found.digest, True)
    for key, event_id in ((alice, "e2"), (bob, "e1"), (alice, "a\nb"), (alice, "")):
        assert await store.find_event(key, event_id) is None


async def test_a_late_repeat_of_what_was_taken_back_is_refused_and_says_so(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0]))
    kept = (await store.add_comparison(alice, comparison("two", [2.0]))).sum
    assert kept is not None
    await store.take_back(alice, BASIS, "one")

    with pytest.raises(EventConflict, match="taken back"):
        await store.add_comparison(alice, comparison("one", [1.0]))
    now = (await store.read(alice, BASIS)).sum
    assert now is not None
    assert now.evidence.tolist() == [2.0]


@pytest.mark.parametrize("event_id", ["never", "", "\x01basis-1", "x" * 300, "\ud800"])
async def test_taking_back_what_is_not_there_is_an_unknown_event(store: Store, alice: UserKey, event_id: str) -> None:
    first = await store.add_comparison(alice, comparison("one", [1.0]))
    with pytest.raises(UnknownEvent):
        await store.take_back(alice, BASIS, event_id)
    assert same((await store.read(alice, BASIS)).sum, first.sum)


async def test_an_event_is_taken_back_once(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0]))
    await store.add_comparison(alice, comparison("two", [2.0]))
    after = await store.take_back(alice, BASIS, "one")
    with pytest.raises(UnknownEvent, match="taken back before"):
        await store.take_back(alice, BASIS, "one")
    assert same((await store.read(alice, BASIS)).sum, after)


async def test_taking_back_under_another_basis_reaches_the_sum_that_learned_it(store: Store, alice: UserKey) -> None:
    await store.add_comparison(alice, comparison("one", [1.0], basis="old"))
    await store.add_comparison(alice, comparison("two", [2.0], basis="old"))
    new = await store.add_comparison(alice, comparison("three", [7.0, 8.0], basis="new"))

    assert same(await store.take_back(alice, "new", "one"), new.sum)
    old = (await store.read(alice, "old")).sum
    assert old is not None
    assert (old.count, old.evidence.tolist()) == (1, [2.0])


# --- bounds ---------------------------------------------------------------------------------------------------------


async def test_the_log_forgets_its_oldest_entries_and_the_sum_does_not(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_log=3))
    for number in range(5):
        await store.add_comparison(alice, comparison(f"event-{number}", [2.0**number]))

    entries = await exported(store, alice)
    assert [entry.event_id for entry in entries if isinstance(entry, LoggedComparison)] == ["event-2", "event-3", "event-4"]
    held = (await store.read(alice, BASIS)).sum
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
    assert (await store.read(alice, BASIS)).sum is None


async def test_the_oldest_decisions_make_room(bench: Bench, alice: UserKey) -> None:
    store = bench.limited(Limits(max_decisions=2))
    for number in range(4):
        await store.write_decision(alice, f"decision-{number}", b"record", 100.0 + number)

    places = [await store.locate_decision(alice, f"decision-{number}") for number in range(4)]
    assert places == ["unknown", "unknown", "live", "live"]
    assert [entry.decision_id for entry in await exported(store, alice) if isinstance(entry, StoredDecision)] == [
        "decision-2",
        "decision-3",
    ]


@pytest.mark.parametrize(("record", "ttl_s"), [(b"x" * 101, 10.0), (b"x", 0.0), (b"x", -1.0), (b"x", 1e12)])
async def test_a_decision_out_of_bounds_is_refused(bench: Bench, alice: UserKey, record: bytes, ttl_s: float) -> None:
    store = bench.limited(Limits(max_decision_bytes=100))
    with pytest.raises(ValueError, match=r"decision record has 101 bytes|ttl_s is"):
        await store.write_decision(alice, "decision-1", record, ttl_s)
    assert await store.locate_decision(alice, "decision-1") == "unknown"
