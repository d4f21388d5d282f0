"""Prints what a user occupies in Redis and how fast one comparison is added, measured on the embedded server.

    python -m loadtest.state_memory [--users 200] [--comparisons 50] [--adds 2000] [--bundle FOLDER]

Memory is the server's own MEMORY USAGE with every element sampled; the target is a sum below 1 kB (1,024 bytes), for all families of a
bundle together: with `--bundle` those of one that was built, without it those of the trainers' default sizes. Latencies are of
RedisStore.add_comparison in this process, client included; both sync policies run alternately, so that their ratio holds on a noisy
machine.
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
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import structlog
import uvloop
from redis.asyncio import Redis

from attune.models.seam.additive import evidence_size
from attune.models.seam.families_file import read_families
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from attune.service.state.server_process import Fsync
from attune.service.state.store import Comparison, UserKey, user_tag

BASIS = "3f2a9c41d07be586"
SIZES = (24, 56, 96)
PAYLOADS = (0, 500)
IN_FLIGHT = 32
ROUNDS = 3
TARGET_BYTES = 1024


def key_of(user: object) -> UserKey:
    return UserKey("default", user_tag(b"a secret for measuring", "default", str(user)))


def comparison_of(rng: np.random.Generator, size: int, payload_bytes: int) -> Comparison:
    evidence = np.round(rng.normal(size=size) * 2**24) / 2**24
    return Comparison(str(uuid.uuid4()), rng.bytes(16), BASIS, 0, 1.8e9, evidence, rng.bytes(payload_bytes))


async def used_bytes(raw: Redis) -> int:
    """Returns MEMORY USAGE of all keys together: names, values, their headers and times to live."""
    names = [name async for name in raw.scan_iter(count=1000)]
    pipeline = raw.pipeline(transaction=False)
    for name in names:
        pipeline.memory_usage(name, samples=0)
    return sum(await pipeline.execute())


async def measure_memory(store: RedisStore, raw: Redis, rng: np.random.Generator, users: int, comparisons: int) -> None:
    print(f"\nmemory, mean over {users} users of {comparisons} comparisons each")
    print(f"{'doubles of evidence':>20} {'payload':>8} {'sum, bytes':>11} {'per comparison, bytes':>22} {'AOF per comparison':>19}")
    for size in SIZES:
        for payload_bytes in PAYLOADS:
            await raw.flushall()
            keys = [key_of(f"{size} {payload_bytes} {n}") for n in range(users)]
            for key in keys:
                await store.add_comparison(key, comparison_of(rng, size, payload_bytes))
            sum_bytes = await raw.memory_usage(keys[0].sum(BASIS), samples=0)
            before, file_before = await used_bytes(raw), await file_bytes(raw)
            for key in keys:
                for _ in range(comparisons):
                    await store.add_comparison(key, comparison_of(rng, size, payload_bytes))
            added = users * comparisons
            each = (await used_bytes(raw) - before) / added
            each_in_file = (await file_bytes(raw) - file_before) / added
            print(f"{size:>20} {payload_bytes:>8} {sum_bytes:>11} {each:>22.0f} {each_in_file:>19.0f}")


def families_of(bundle: Path | None) -> dict[str, int]:
    """Returns doubles of evidence by family: of a bundle, or of the sizes that trainers choose if nobody chooses others."""
    if bundle is not None:
        families, _ = read_families((bundle / "families.json").read_bytes(), (bundle / "families.npz").read_bytes())
        return {name: families[name].evidence_size for name in families.names}
    return {"bradley_terry": 0, "micro": 12, "vrf": 2 * 16, "sparse_moe": 13, "additive": evidence_size(12), "sparserm": 0}


async def measure_families(store: RedisStore, raw: Redis, rng: np.random.Generator, sizes: Mapping[str, int]) -> None:
    """Prints the sum of a user who learns under all families at once, and the most evidence that stays below the target."""

    async def bytes_of(size: int) -> int:
        key = key_of(f"families {size}")
        await store.add_comparison(key, comparison_of(rng, size, 0))
        return int(await raw.memory_usage(key.sum(BASIS), samples=0) or 0)

    await raw.flushall()
    total = sum(sizes.values())
    print(f"\nall families: {', '.join(f'{name} {size}' for name, size in sizes.items())}")
    taken = {size: await bytes_of(size) for size in {total, *range(64, 160)}}
    most = max(size for size, used in taken.items() if used < TARGET_BYTES)
    print(f"{total:>20} doubles: the sum takes {taken[total]:,} bytes")
    print(f"{most:>20} doubles are the most below {TARGET_BYTES:,} bytes: {taken[most]:,} bytes")
    key = key_of("last member")
    await store.write_decision(key, str(uuid.uuid4()), b"record", 86_400.0, "concise")
    print(f"{'':>20} the member that served last takes {await raw.memory_usage(key.last, samples=0)} bytes, where hysteresis is on")


async def file_bytes(raw: Redis) -> int:
    return int((await raw.info("persistence"))["aof_current_size"])


async def measure_decisions(store: RedisStore, raw: Redis, rng: np.random.Generator, users: int) -> None:
    print("\nper decision: record, pointer and index entry, mean over 20 a user")
    print(f"{'record, bytes':>20} {'in Redis, bytes':>16}")
    for record_bytes in (200, 1000, 4000):
        await raw.flushall()
        before = await used_bytes(raw)
        for n in range(users):
            for _ in range(20):
                await store.write_decision(key_of(n), str(uuid.uuid4()), rng.bytes(record_bytes), 86_400.0)
        print(f"{record_bytes:>20} {(await used_bytes(raw) - before) / (20 * users):>16.0f}")


async def add_latencies_ms(store: RedisStore, rng: np.random.Generator, adds: int, in_flight: int) -> tuple[list[float], float]:
    """Returns each add's milliseconds, and adds per second, with `in_flight` callers adding to users of their own."""
    waiting = [comparison_of(rng, 56, 200) for _ in range(adds)]
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
    rng = np.random.default_rng(1)
    latencies: dict[tuple[Fsync, int], list[float]] = {}
    rates: dict[tuple[Fsync, int], list[float]] = {}
    policies: tuple[Fsync, ...] = ("always", "everysec")
    for _ in range(ROUNDS):
        for fsync in policies:
            async with EmbeddedRedis(folder / fsync, fsync=fsync) as server:
                store = RedisStore(server.url, max_connections=IN_FLIGHT)
                await add_latencies_ms(store, rng, 100, IN_FLIGHT)
                for in_flight in (1, IN_FLIGHT):
                    each, rate = await add_latencies_ms(store, rng, adds, in_flight)
                    latencies.setdefault((fsync, in_flight), []).extend(each)
                    rates.setdefault((fsync, in_flight), []).append(rate)
                await store.aclose()
    print(f"\nadd_comparison, 56 doubles, payload 200 bytes, {ROUNDS} rounds of {adds}")
    print(f"{'appendfsync':>20} {'in flight':>10} {'p50, ms':>8} {'p99, ms':>8} {'adds/s':>7}")
    for (fsync, in_flight), each in latencies.items():
        cuts = statistics.quantiles(each, n=100)
        print(f"{fsync:>20} {in_flight:>10} {cuts[49]:>8.2f} {cuts[98]:>8.2f} {statistics.median(rates[fsync, in_flight]):>7.0f}")


async def measure_start(folder: Path) -> None:
    began = time.perf_counter()
    async with EmbeddedRedis(folder) as server, Redis.from_url(server.url) as raw:
        took_s = time.perf_counter() - began
        about = await raw.info("server")
        name = about.get("server_name", "redis")
        print(f"{name} {about.get(f'{name}_version')}, allocator {(await raw.info('memory'))['mem_allocator']}, start {took_s:.2f} s")


async def main(users: int, comparisons: int, adds: int, bundle: Path | None) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await measure_start(folder / "start")
        async with EmbeddedRedis(folder / "memory", fsync="everysec") as server, Redis.from_url(server.url, protocol=2) as raw:
            store = RedisStore(server.url)
            await raw.config_set("auto-aof-rewrite-percentage", 0)  # a rewrite would shrink the file under the measurement
            await measure_families(store, raw, rng, families_of(bundle))
            await measure_memory(store, raw, rng, users, comparisons)
            await measure_decisions(store, raw, rng, users)
            await store.aclose()
        await measure_latency(folder / "latency", adds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--comparisons", type=int, default=50)
    parser.add_argument("--adds", type=int, default=2000)
    parser.add_argument("--bundle", type=Path)
    options = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(options.users, options.comparisons, options.adds, options.bundle))
