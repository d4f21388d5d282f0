"""Sums do not depend on the order or the number of deliveries, and the twin in memory computes the bits that Redis does."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attune.service.errors import EventConflict, UnknownEvent
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.memory_store import MemoryStore
from attune.service.state.redis_store import RedisStore
from attune.service.state.store import Comparison, Store, UserKey, UserSum
from tests.state.conftest import BASIS, comparison, key_of

SIZE = 5
shared_server = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

# A grid of 2^-20 up to 2^20 leaves 12 of a double's 53 bits for the sum of thousands of comparisons: every partial sum is exact.
on_the_grid = st.integers(-(2**40), 2**40).map(lambda numerator: numerator / 2**20)
any_number = st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e300, max_value=1e300)


def evidence_of(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    return st.lists(numbers, min_size=SIZE, max_size=SIZE)


def bits(held: UserSum | None) -> bytes | None:
    return None if held is None else held.pack()


async def add_all(store: Store, key: UserKey, comparisons: list[Comparison]) -> bytes | None:
    for each in comparisons:
        await store.add_comparison(key, each)
    return bits(await store.read_user(key, BASIS))


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
        assert await add_all(MemoryStore(), key_of(tenant, "in memory"), shuffled) == in_order
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
    stores: list[tuple[Store, Callable[[], object]]] = [(RedisStore(server.url), lambda: None), (MemoryStore(), lambda: None)]
    for store, _ in stores:
        try:
            key = key_of(tenant, "alice")
            before = await add_all(store, key, [comparison(f"kept-{n}", each, epoch=epoch) for n, each in enumerate(kept)])
            await add_all(store, key, [comparison(f"taken-{n}", each, epoch=epoch) for n, each in enumerate(taken)])
            for n in range(len(taken)):
                await store.take_back(key, BASIS, f"taken-{n}")
            assert bits(await store.read_user(key, BASIS)) == before
        finally:
            await store.aclose()


step = st.tuples(
    st.sampled_from(["add", "add", "add", "conflict", "take back"]),
    st.integers(0, 5),
    evidence_of(any_number),
    st.integers(-3, 3),
    st.floats(0, 4e9),
)


@shared_server
@given(steps=st.lists(step, max_size=15))
async def test_the_twin_in_memory_agrees_to_the_last_bit_on_any_history(
    server: EmbeddedRedis, steps: list[tuple[str, int, list[float], int, float]]
) -> None:
    tenant = "t" + secrets.token_hex(6)
    key = key_of(tenant, "alice")
    real, twin = RedisStore(server.url), MemoryStore()

    async def outcome(
        store: Store, what: str, number: int, evidence: list[float], epoch: int, observed_s: float
    ) -> tuple[str, bytes | None]:
        try:
            if what == "take back":
                return "taken", bits(await store.take_back(key, BASIS, f"event-{number}"))
            body = b"other" if what == "conflict" else b""
            added = await store.add_comparison(key, comparison(f"event-{number}", evidence, epoch=epoch, observed_s=observed_s, body=body))
        except (EventConflict, UnknownEvent) as error:
            return error.detail, None
        return added.result, bits(added.sum)

    try:
        for what, number, evidence, epoch, observed_s in steps:
            assert await outcome(real, what, number, evidence, epoch, observed_s) == await outcome(
                twin, what, number, evidence, epoch, observed_s
            )
            assert bits(await real.read_user(key, BASIS)) == bits(await twin.read_user(key, BASIS))
        left_real = [repr(each) async for each in real.export(key)]
        assert left_real == [repr(each) async for each in twin.export(key)]
        assert await real.delete_user(key) == await twin.delete_user(key)
    finally:
        await real.aclose()


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
