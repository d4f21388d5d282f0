"""Sums do not depend on the order or the number of deliveries, and are the bits that the seam's arithmetic gives."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attune.models.seam.evidence import align
from attune.service.errors import EventConflict, UnknownEvent
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from attune.service.state.store import LoggedComparison, NewComparison, Store, TakenBack, UserKey, UserSum
from tests.state.conftest import BASIS, comparison, key_of

SIZE = 5
shared_server = settings(max_examples=min(60, settings.default.max_examples), suppress_health_check=[HealthCheck.function_scoped_fixture])

# A grid of 2^-20 up to 2^20 leaves 12 of a double's 53 bits for the sum of thousands of comparisons: every partial sum is exact.
on_the_grid = st.integers(-(2**40), 2**40).map(lambda numerator: numerator / 2**20)
any_number = st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e300, max_value=1e300)


def evidence_of(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    return st.lists(numbers, min_size=SIZE, max_size=SIZE)


def bits(held: UserSum | None) -> bytes | None:
    return None if held is None else held.pack()


async def add_all(store: Store, key: UserKey, comparisons: list[NewComparison]) -> bytes | None:
    for each in comparisons:
        await store.add_comparison(key, each)
    return bits((await store.read(key, BASIS)).sum)


@shared_server
@given(
    drawn=st.data(),
    evidence=st.lists(evidence_of(on_the_grid), min_size=1, max_size=8),
)
async def test_any_order_and_any_repeats_give_the_same_bits(
    server: EmbeddedRedis, drawn: st.DataObject, evidence: list[list[float]]
) -> None:
    comparisons = [comparison(f"event-{n}", each, observed_s=float(n)) for n, each in enumerate(evidence)]
    repeated = comparisons + drawn.draw(st.lists(st.sampled_from(comparisons), max_size=8))
    shuffled = drawn.draw(st.permutations(repeated))
    tenant = "t" + secrets.token_hex(6)
    store = RedisStore(server.url)
    try:
        in_order = await add_all(store, key_of(tenant, "in order"), comparisons)
        assert await add_all(store, key_of(tenant, "shuffled"), shuffled) == in_order
        held = (await store.read(key_of(tenant, "in order"), BASIS)).sum
        assert held is not None
        assert held.evidence.tolist() == [sum(column) for column in zip(*evidence, strict=True)]
    finally:
        await store.aclose()


@shared_server
@given(
    kept=st.lists(evidence_of(on_the_grid), min_size=1, max_size=5),
    taken=st.lists(evidence_of(on_the_grid), min_size=1, max_size=5),
    epochs=st.lists(st.integers(0, 1), min_size=5, max_size=5),
)
async def test_taking_back_leaves_the_bits_of_never_having_added(
    server: EmbeddedRedis, kept: list[list[float]], taken: list[list[float]], epochs: list[int]
) -> None:
    # Small dyadic numbers in two epochs: 2^-256 of them is exact, but a sum across epochs is not, so each case stays within one.
    epoch = epochs[0]
    tenant = "t" + secrets.token_hex(6)
    store, key = RedisStore(server.url), key_of(tenant, "alice")
    try:
        before = await add_all(store, key, [comparison(f"kept-{n}", each, epoch=epoch) for n, each in enumerate(kept)])
        await add_all(store, key, [comparison(f"taken-{n}", each, epoch=epoch) for n, each in enumerate(taken)])
        for n in range(len(taken)):
            await store.take_back(key, BASIS, f"taken-{n}")
        assert bits((await store.read(key, BASIS)).sum) == before
    finally:
        await store.aclose()


step = st.tuples(
    st.sampled_from(["add", "add", "add", "conflict", "take back"]),
    st.integers(0, 5),
    evidence_of(any_number),
    st.integers(-3, 3),
    st.floats(0, 4e9),
)


REFUSALS = {
    (EventConflict, True): "taken back",
    (EventConflict, False): "conflict",
    (UnknownEvent, True): "taken back before",
    (UnknownEvent, False): "unknown",
}


@dataclass
class Expected:
    """What the sum must be: the arithmetic of the seam, one step after the other, on a dictionary."""

    held: UserSum | None = None
    added: dict[str, NewComparison] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def add(self, one: NewComparison) -> str:
        if one.event_id in self.taken:
            return "taken back"
        if one.event_id in self.added:
            return "duplicate" if self.added[one.event_id].digest == one.digest else "conflict"
        self.added[one.event_id] = one
        seen = one.observed_s, one.observed_s
        if self.held is not None:
            seen = min(self.held.first_seen_s, one.observed_s), max(self.held.last_seen_s, one.observed_s)
        self._move(one, +1, seen)
        return "applied"

    def take_back(self, event_id: str) -> str:
        if event_id in self.taken:
            return "taken back before"
        if event_id not in self.added:
            return "unknown"
        self.taken.add(event_id)
        assert self.held is not None
        self._move(self.added[event_id], -1, (self.held.first_seen_s, self.held.last_seen_s))
        return "taken"

    def _move(self, one: NewComparison, sign: int, seen: tuple[float, float]) -> None:
        held = self.held or UserSum(0, one.epoch, 0.0, 0.0, np.zeros(one.evidence.size))
        later = max(held.epoch, one.epoch)
        evidence = align(held.evidence, held.epoch, later) + sign * (align(one.evidence, one.epoch, later) + 0.0)
        after = UserSum(held.count + sign, later, *seen, evidence)
        self.held = after if after.count else None


@shared_server
@given(steps=st.lists(step, max_size=15))
async def test_any_history_leaves_the_bits_of_the_seams_arithmetic(
    server: EmbeddedRedis, steps: list[tuple[str, int, list[float], int, float]]
) -> None:
    key, store, expected = key_of("t" + secrets.token_hex(6), "alice"), RedisStore(server.url), Expected()
    try:
        for what, number, evidence, epoch, observed_s in steps:
            event_id = f"event-{number}"
            one = comparison(event_id, evidence, epoch=epoch, observed_s=observed_s, body=b"other" if what == "conflict" else b"")
            try:
                if what == "take back":
                    happened = "taken"
                    after = await store.take_back(key, BASIS, event_id)
                else:
                    added = await store.add_comparison(key, one)
                    happened, after = added.result, added.sum
            except (EventConflict, UnknownEvent) as error:
                happened, after = REFUSALS[type(error), "taken back" in error.detail], expected.held
            assert happened == (expected.take_back(event_id) if what == "take back" else expected.add(one))
            assert bits(after) == bits(expected.held)
            assert bits((await store.read(key, BASIS)).sum) == bits(expected.held)
        logged = [each async for each in store.export(key) if isinstance(each, LoggedComparison | TakenBack)]
        assert {each.event_id for each in logged if isinstance(each, TakenBack)} == expected.taken
        assert {each.event_id for each in logged} == set(expected.added)
    finally:
        await store.aclose()


@given(
    count=st.integers(0, 2**53),
    epoch=st.integers(-(2**40), 2**40),
    times=st.tuples(st.floats(0, 1e12), st.floats(0, 1e12)),
    evidence=st.lists(any_number, min_size=1, max_size=20),
)
def test_packing_and_unpacking_a_sum_is_exact(count: int, epoch: int, times: tuple[float, float], evidence: list[float]) -> None:
    packed = UserSum(count, epoch, *times, np.array(evidence)).pack()
    assert len(packed) == 8 * (4 + len(evidence))
    read = UserSum.unpack(packed)
    assert (read.count, read.epoch, read.first_seen_s, read.last_seen_s) == (count, epoch, *times)
    assert read.evidence.tobytes() == np.array(evidence).tobytes()
    assert read.evidence.flags.writeable
