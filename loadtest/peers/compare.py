"""Attune beside its peers, in alternating rounds: requests/s, latency, and the CPU time of a request of whoever answers.

    python -m loadtest.peers.compare gateways BUNDLE [--peers plain litellm tensorzero] [--streamed]   one local upstream behind all of them
    python -m loadtest.peers.compare scorers BUNDLE [--peers litserve bentoml infinity]                the same texts, the same model

`loadtest/peers/install.sh` makes a virtual environment for each peer below `--venvs`; a peer without one is left out. In every round each
target runs once with each number of clients, in random order, for `--seconds`; ratios are of medians over rounds. Whoever is
not measured is stopped meanwhile (SIGSTOP): what seven servers do unasked would be in each other's tails. The CPU time is that of the
target's whole process tree, store included, until it has done what it left for later; only then does the next one begin. What was
refused (429, 503) is not counted. `attune` scores answers after it has sent them, which no peer does: so many a second at most, by default
(`ATTUNE_SCORE_LATER_PER_S`). `attune, members known` scores one in ten and no more than that, as by default once 200 answers of each member
are known; `attune, all scored` scores all, without a bound; `attune, unscored` none. A bucket is full at the beginning of each block, so a
short block is charged for more than an hour of traffic is. All of it shares one machine, so only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from attune.models.seam.bundle import read_bundle
from loadtest.peers.targets import Target, cpu_s, gateways, scorers
from loadtest.raw_http import Arrivals, run_arrivals, run_block

LOOK_S = 0.5
RESTING = 0.1
"""Share of a core below which a target has nothing left to do; its checks of itself need a twentieth."""
REST_S = 120.0


@dataclass(frozen=True, slots=True)
class Block:
    """One target for a few seconds: answers, the latency of each, seconds, and CPU time, seconds."""

    per_s: float
    latencies_s: list[float]
    cpu_s: float


async def block(target: Target, clients: int, seconds: float) -> Block:
    """Runs one target for a while; what it has to catch up with after having been stopped is done before the first request."""
    with target.running():
        await asyncio.sleep(LOOK_S)
        return await measured(target, clients, seconds)


async def measured(target: Target, clients: int, seconds: float) -> Block:
    """Returns what a target that runs does in a while."""
    idle_s = -cpu_s(target.process)
    await asyncio.sleep(LOOK_S)
    before_s, started_s = cpu_s(target.process), time.perf_counter()
    idle_s += before_s
    latencies_s = await run_block(target.port, target.requests, clients, seconds, target.name)
    elapsed_s = time.perf_counter() - started_s
    return Block(len(latencies_s) / elapsed_s, latencies_s, await cpu_at_rest(target.process, idle_s) - before_s)


async def cpu_at_rest(process: psutil.Process, idle_s: float) -> float:
    """Returns `cpu_s` once nothing is left to do: answers that wait to be scored would slow whoever is measured next, and cost nobody.

    `idle_s` is what the process used in as long a look before it was asked anything: a peer that polls is never at rest.
    """
    used_s, end_s = cpu_s(process), time.perf_counter() + REST_S
    while time.perf_counter() < end_s:
        await asyncio.sleep(LOOK_S)
        before_s, used_s = used_s, cpu_s(process)
        if used_s - before_s < RESTING * LOOK_S + 1.5 * idle_s:
            return used_s
    raise SystemExit(f"a target still worked {REST_S:g} s after its last request")


def compare(targets: list[Target], options: argparse.Namespace) -> None:
    """Runs all rounds and prints the table."""
    blocks: dict[tuple[str, int], list[Block]] = {}
    draw = random.Random(options.seed)
    for target in targets:
        asyncio.run(block(target, max(options.clients), 1.0))
    for _ in range(options.rounds):
        for clients in options.clients:
            for target in draw.sample(targets, len(targets)):
                blocks.setdefault((target.name, clients), []).append(asyncio.run(block(target, clients, options.seconds)))
    print("\n| clients | target | requests/s | p50 ms | p99 ms | CPU ms a request | requests/s of Attune's | CPU, Attune's of it |")
    print("|---|---|---|---|---|---|---|---|")
    for clients in options.clients:
        own = blocks["attune", clients]
        for target in targets:
            found = blocks[target.name, clients]
            p50, p99 = np.percentile([latency for each in found for latency in each.latencies_s], [50, 99])
            rate = median(each.per_s for each in own) / median(each.per_s for each in found)
            cost = cpu_ms(own) / max(cpu_ms(found), 1e-9)
            cells = (f"{median(each.per_s for each in found):.1f}", f"{1e3 * p50:.1f}", f"{1e3 * p99:.1f}", f"{cpu_ms(found):.2f}")
            print(f"| {clients} | {target.name} | {' | '.join(cells)} | {rate:.2f} | {cost:.2f} |", flush=True)


def compare_arrivals(targets: list[Target], options: argparse.Namespace) -> None:
    """Prints what each target makes of requests that come at random times, at each rate."""
    found: dict[tuple[str, float], list[Arrivals]] = {}
    draw = random.Random(options.seed)
    for number in range(options.rounds):
        for per_s in options.open_loop:
            for target in draw.sample(targets, len(targets)):
                found.setdefault((target.name, per_s), []).append(asyncio.run(arrivals(target, per_s, options.seconds, number)))
    print("\n| requests/s, open loop | target | answered | p50 ms | p99 ms | refused | unfinished |\n|---|---|---|---|---|---|---|")
    for per_s in options.open_loop:
        for target in targets:
            each = found[target.name, per_s]
            latencies_s = [latency for one in each for latency in one.latencies_s] or [float("nan")]
            p50, p99 = np.percentile(latencies_s, [50, 99])
            lost = f"{sum(one.refused for one in each)} | {sum(one.unfinished for one in each)}"
            print(f"| {per_s:g} | {target.name} | {len(latencies_s)} | {1e3 * p50:.1f} | {1e3 * p99:.1f} | {lost} |", flush=True)


async def arrivals(target: Target, per_s: float, seconds: float, seed: int) -> Arrivals:
    """Runs one target for a while, as `block` does, and waits until it is at rest."""
    with target.running():
        await asyncio.sleep(LOOK_S)
        idle_s = -cpu_s(target.process)
        await asyncio.sleep(LOOK_S)
        idle_s += cpu_s(target.process)
        found = await run_arrivals(target.port, target.requests, per_s, seconds, seed)
        await cpu_at_rest(target.process, idle_s)
        return found


def cpu_ms(blocks: list[Block]) -> float:
    """Returns CPU time a request, ms, over all rounds."""
    return 1e3 * sum(each.cpu_s for each in blocks) / max(1, sum(len(each.latencies_s) for each in blocks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gateways", "scorers"])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", nargs="+", default=["plain", "litellm", "tensorzero", "litserve", "bentoml", "infinity"])
    parser.add_argument("--venvs", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--open-loop", type=float, nargs="*", default=[], metavar="PER_S", help="also at these rates of random arrivals")
    parser.add_argument("--streamed", action="store_true", help="gateways are asked for streams")
    parser.add_argument("--law", choices=["equal", "skewed"], default="skewed")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="bundles that Attune alone is measured with too, such as int8")
    parser.add_argument("--responses", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    with ExitStack() as parts:
        if options.what == "gateways":
            targets = gateways(bundle, options.peers, options.venvs, parts, streamed=options.streamed)
        else:
            targets = scorers(
                bundle, options.peers, options.venvs, parts, law=options.law, responses=options.responses, beside=options.beside
            )
        for target in targets:
            target.stop()
        print(f"{options.what}: {', '.join(target.name for target in targets)}; {options.rounds} rounds of {options.seconds:g} s")
        if options.clients:
            compare(targets, options)
        if options.open_loop:
            compare_arrivals(targets, options)


if __name__ == "__main__":
    main()
