"""Prints what a user occupies in Redis, everything counted, and how fast one comparison is added; measured on the embedded server.

    python -m loadtest.state_memory [--users 20000] [--adds 2000] [--evidence 96]

A user's bytes are `used_memory` of the server with all users less that of the empty one, over their number. Comparisons are by
candidate ids; their evidence is in half precision, as a bundle's families give it, and their payload is the service's own without texts.
Users with many comparisons are fewer, so that every row adds about as many. Latencies are of RedisStore.add_comparison in this process,
with the question after the kernel; both sync policies run alternately, so that their ratio holds on a noisy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import structlog
import uvloop
from redis.asyncio import Redis

from attune.models.seam.evidence import half, quantise
from attune.models.seam.registry import KINDS
from attune.service.ids import candidate_id, new_decision_id
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from attune.service.state.server_process import Fsync
from attune.service.state.store import Limits, NewComparison, UserKey, user_tag
from attune.service.usecases.forms_of_feedback import pack_payload

BASIS = "3f2a9c41d07be586"
ROWS = ((1, 1), (20, 8), (1000, 200))
"""Comparisons a user, and by how much fewer users there are for it."""
TARGETS = {1: 1_500, 20: 8_000}
IN_FLIGHT = 32
ROUNDS = 3


def key_of(user: object) -> UserKey:
    """Returns the key of a user of the measurement."""
    return UserKey("default", user_tag(b"a secret for measuring", "default", str(user)))


def payload_of(rng: np.random.Generator) -> bytes:
    """Returns what the service keeps beside the evidence of a comparison by ids, texts off."""
    decision = new_decision_id(1.8e9)
    content = {
        "chosen": candidate_id(decision, 0),
        "rejected": candidate_id(decision, 1),
        "decisions": [decision],
        "members": ["concise", "detailed"],
        "tie": False,
        "prompt": None,
        "context": None,
        "chosen_text": None,
        "rejected_text": None,
        "predicted": {family: round(float(rng.uniform()), 4) for family in KINDS},
    }
    return pack_payload(content)


def comparison_of(rng: np.random.Generator, size: int, payload: bytes) -> NewComparison:
    """Returns a comparison with evidence of about the size that the demo's families give."""
    evidence = half(quantise(0.5 * rng.normal(size=size)))
    return NewComparison(str(uuid.uuid4()), rng.bytes(16), BASIS, 0, 1.8e9, evidence, payload)


async def used_bytes(raw: Redis) -> int:
    """Returns what the server's data takes."""
    return int((await raw.info("memory"))["used_memory"])


async def measure_users(raw: Redis, url: str, rng: np.random.Generator, users: int, size: int) -> None:
    """Prints bytes a user, all keys, from empty."""
    print(f"\nbytes a user, everything counted, {size} numbers of evidence, payload without texts (about {len(payload_of(rng))} bytes)")
    print(f"{'comparisons':>12} {'users':>8} {'with log':>10} {'of it sum':>10} {'ids':>8} {'log':>10} {'without log':>12} {'target':>8}")
    for comparisons, fewer in ROWS:
        many = max(1, users // fewer)
        whole, parts = await fill(raw, url, rng, many, comparisons, size, Limits())
        bare, _ = await fill(raw, url, rng, many, comparisons, size, Limits(max_log=0))
        target = f"{TARGETS[comparisons]:,}" if comparisons in TARGETS else ""
        sizes = f"{parts['sum']:>10,.0f} {parts['events']:>8,.0f} {parts['log']:>10,.0f}"
        print(f"{comparisons:>12} {many:>8,} {whole:>10,.0f} {sizes} {bare:>12,.0f} {target:>8}", flush=True)


async def fill(
    raw: Redis, url: str, rng: np.random.Generator, users: int, comparisons: int, size: int, limits: Limits
) -> tuple[float, dict[str, float]]:
    """Returns bytes a user, and MEMORY USAGE of each of a user's keys on average over a hundred users."""
    await raw.flushall(asynchronous=False)
    store = RedisStore(url, limits=limits, max_connections=IN_FLIGHT)
    before, keys = await used_bytes(raw), [key_of(number) for number in range(users)]
    places = asyncio.Semaphore(IN_FLIGHT)
    began_s = time.monotonic()

    async def live(key: UserKey) -> None:
        async with places:
            for _ in range(comparisons):
                await store.add_comparison(key, comparison_of(rng, size, payload_of(rng)))

    for start in range(0, users, 2_000):
        await asyncio.gather(*(live(key) for key in keys[start : start + 2_000]))
        done = min(users, start + 2_000)
        left_s = (time.monotonic() - began_s) * (users - done) / done
        print(f"\r{done:,} of {users:,} users, about {left_s:.0f} s left ", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    each = (await used_bytes(raw) - before) / users
    parts = {}
    for name in ("sum", "events", "log"):
        taken = [await raw.memory_usage(key.sum(BASIS) if name == "sum" else f"{key.base}:{name}", samples=0) or 0 for key in keys[:100]]
        parts[name] = float(np.mean(taken))
    await store.aclose()
    return each, parts


async def measure_decisions(store: RedisStore, raw: Redis, rng: np.random.Generator, users: int) -> None:
    """Prints bytes a decision for records of three sizes."""
    print("\nbytes a decision: record, pointer and index entry, over 20 a user")
    print(f"{'record':>12} {'in Redis':>10}")
    for record_bytes in (200, 1000, 4000):
        await raw.flushall(asynchronous=False)
        before = await used_bytes(raw)
        for n in range(users):
            for _ in range(20):
                await store.write_decision(key_of(n), str(uuid.uuid4()), rng.bytes(record_bytes), 86_400.0)
        print(f"{record_bytes:>12,} {(await used_bytes(raw) - before) / (20 * users):>10,.0f}")


async def add_latencies_ms(store: RedisStore, rng: np.random.Generator, adds: int, in_flight: int) -> tuple[list[float], float]:
    """Returns each add's milliseconds, and adds per second, with `in_flight` callers adding to users of their own."""
    waiting = [comparison_of(rng, 56, payload_of(rng)) for _ in range(adds)]
    latencies: list[float] = []

    async def caller(n: int) -> None:
        key = key_of(f"caller {n}")
        while waiting:
            comparison = waiting.pop()
            began = time.perf_counter()
            await store.add_comparison(key, comparison)
            latencies.append(1000 * (time.perf_counter() - began))

    began = time.perf_counter()
    await asyncio.gather(*(caller(n) for n in range(in_flight)))
    return latencies, adds / (time.perf_counter() - began)


async def measure_latency(folder: Path, adds: int) -> None:
    """Prints how long an add takes, by sync policy and callers."""
    rng = np.random.default_rng(1)
    latencies: dict[tuple[Fsync, int], list[float]] = {}
    rates: dict[tuple[Fsync, int], list[float]] = {}
    policies: tuple[Fsync, ...] = ("always", "everysec")
    for _ in range(ROUNDS):
        for fsync in policies:
            async with EmbeddedRedis(folder / fsync, fsync=fsync) as server:
                store = RedisStore(server.url, max_connections=IN_FLIGHT, confirm=True)
                await add_latencies_ms(store, rng, 100, IN_FLIGHT)
                for in_flight in (1, IN_FLIGHT):
                    each, rate = await add_latencies_ms(store, rng, adds, in_flight)
                    latencies.setdefault((fsync, in_flight), []).extend(each)
                    rates.setdefault((fsync, in_flight), []).append(rate)
                await store.aclose()
    print(f"\nadd_comparison, 56 numbers, {ROUNDS} rounds of {adds}")
    print(f"{'appendfsync':>12} {'in flight':>10} {'p50, ms':>8} {'p99, ms':>8} {'adds/s':>7}")
    for (fsync, in_flight), each in latencies.items():
        cuts = statistics.quantiles(each, n=100)
        print(f"{fsync:>12} {in_flight:>10} {cuts[49]:>8.2f} {cuts[98]:>8.2f} {statistics.median(rates[fsync, in_flight]):>7.0f}")


async def main(users: int, adds: int, size: int) -> None:
    """Prints all tables."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with EmbeddedRedis(folder / "memory") as server, Redis.from_url(server.url, protocol=2) as raw:
            about = await raw.info("server")
            kind = about.get("server_name", "redis")
            print(f"{kind} {about.get(f'{kind}_version')}, allocator {(await raw.info('memory'))['mem_allocator']}")
            await raw.config_set("auto-aof-rewrite-percentage", 0)  # a rewrite takes memory of its own while it runs
            await measure_users(raw, server.url, rng, users, size)
            store = RedisStore(server.url)
            await measure_decisions(store, raw, rng, max(1, users // 100))
            await store.aclose()
        if adds:
            await measure_latency(folder / "latency", adds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--adds", type=int, default=2000)
    parser.add_argument("--evidence", type=int, default=96)
    options = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(options.users, options.adds, options.evidence))
