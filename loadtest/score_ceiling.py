"""Scoring throughput of Attune against the ceiling that raw ONNX Runtime sets on the same texts, alternating in one run.

    python -m loadtest.score_ceiling BUNDLE                              the batcher, in this process, as the scorer's own process has it
    python -m loadtest.score_ceiling BUNDLE --url http://127.0.0.1:8000  a running server, through POST /score

For equal and skewed lengths (`workloads`) and for 1, 4 and 32 texts a request, `--clients` concurrent clients (32) take requests from one
seeded list. The ceiling is one session in this process on the same texts, as arrays made beforehand, sorted by length over all of them and
cut at the best budget. A round is one pass of either, in turn first; absolute figures drift with the machine, so only the ratio within a
round counts, by the clock and by the CPU time of whoever scores (with --url all of the server's processes, as its /metrics say). Then the
skewed texts, one a request, in an open loop at 70 % of the capacity just measured: latencies in mean batches of the server, beside those
of a queue without any overhead, which no server that takes requests in their order and gains nothing by batches can better.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import httpx
import numpy as np
import onnxruntime

from attune.models.seam.bundle import Bundle, read_bundle
from attune.models.seam.padding import pad
from attune.models.seam.precision import choose_scorer
from attune.service.batching.calibrate import calibrate
from attune.service.batching.engines import open_engine
from attune.service.batching.session import installed_runtime
from attune.service.batching.submission import BatchReport
from attune.service.cores import usable_cores
from loadtest.raw_http import exchange, http
from loadtest.reaching import reaching
from loadtest.workloads import LAWS, Pass, ScoreWork, fastest, make_requests, raw_sessions, roomy_batcher, run_raw, sorted_batches, summary

DEADLINE_S = 120.0

LOAD = 0.7
"""Share of the capacity at which requests come in the open loop."""


@dataclass(frozen=True, slots=True)
class Batches:
    """What a server has run so far: batches, and the seconds that they took."""

    count: float
    seconds: float


@dataclass(frozen=True, slots=True)
class ServedScorer:
    """What is measured: how a request is sent, how much CPU time its scorer has used, seconds, and which batches it has run."""

    send: Callable[[ScoreWork], Awaitable[None]]
    cpu_s: Callable[[], Awaitable[float]]
    batches: Callable[[], Awaitable[Batches]]


async def run_clients(requests: Sequence[ScoreWork], clients: int, served: ServedScorer) -> Pass:
    """Lets `clients` take requests from one list until none is left."""
    left = iter(requests)
    latencies_s = []

    async def client() -> None:
        for request in left:
            sent_s = time.perf_counter()
            await served.send(request)
            latencies_s.append(time.perf_counter() - sent_s)

    cpu_s, started_s = await served.cpu_s(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(clients, len(requests))):
            group.create_task(client())
    elapsed_s = time.perf_counter() - started_s
    return Pass(elapsed_s, await served.cpu_s() - cpu_s, latencies_s)


async def run_open_loop(requests: Sequence[ScoreWork], per_s: float, seconds: float, served: ServedScorer, seed: int) -> None:
    """Sends requests at random times, `per_s` on average, whatever is still unanswered, and prints their latencies."""
    draw, before = random.Random(seed), await served.batches()
    latencies_s: list[float] = []
    arrivals: list[tuple[float, int]] = []

    async def one(request: ScoreWork, due_s: float) -> None:
        await served.send(request)
        latencies_s.append(time.perf_counter() - due_s)  # not from when it could be written: a generator that is late hides nothing

    started_s = due_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while due_s - started_s < seconds:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            request = draw.choice(requests)
            arrivals.append((due_s, tokens_of(request)))
            group.create_task(one(request, due_s))
            due_s += draw.expovariate(per_s)
    after = await served.batches()
    batch_s = (after.seconds - before.seconds) / max(1.0, after.count - before.count)
    p50, p99 = np.percentile(latencies_s, [50, 99])
    print(
        f"open loop at {per_s:.1f} requests/s for {seconds:g} s: p50 {1e3 * p50:.0f} ms, p99 {1e3 * p99:.0f} ms; "
        f"mean batch {1e3 * batch_s:.1f} ms, p99 is {p99 / batch_s:.1f} mean batches"
    )
    token_s = LOAD / per_s / np.mean([tokens_of(request) for request in requests])
    p50, p99 = np.percentile(queued_s(arrivals, float(token_s)), [50, 99])
    print(
        f"the same arrivals, each served alone in their order at the capacity of before, and nothing else to do: "
        f"p50 {1e3 * p50:.0f} ms, p99 {1e3 * p99:.0f} ms, {p99 / batch_s:.1f} mean batches"
    )


def tokens_of(request: ScoreWork) -> int:
    """Returns how many tokens a request has."""
    return sum(len(row) for row in request.rows)


def queued_s(arrivals: Sequence[tuple[float, int]], token_s: float) -> list[float]:
    """Returns how long each of `(when, tokens)` stays with one server that takes `token_s` a token (Lindley's recursion)."""
    free_s, stays_s = -math.inf, []
    for due_s, tokens in arrivals:
        free_s = max(free_s, due_s) + tokens * token_s
        stays_s.append(free_s - due_s)
    return stays_s


async def own_batcher(bundle: Bundle, options: argparse.Namespace, parts: AsyncExitStack) -> ServedScorer:
    """Returns the batcher in this process, calibrated as the service does."""
    precision, file = choose_scorer(bundle.scorers, options.precision)
    engine = open_engine(bundle.path / file.file, precision, threads=options.threads, require_gpu=False)
    found = calibrate(engine, max_text_tokens=bundle.template.max_tokens)
    print(f"calibrated: {found.told()}, overhead {found.overhead_tokens:.0f} tokens")
    reports: list[BatchReport] = []
    _, batcher = roomy_batcher(
        engine,
        max_text_tokens=bundle.template.max_tokens,
        budget_tokens=found.budget_tokens,
        overhead_tokens=found.overhead_tokens,
        tokens_per_s=found.tokens_per_s,
        on_batch=reports.append,
    )
    batcher.start()
    parts.push_async_callback(batcher.aclose)

    async def send(request: ScoreWork) -> None:
        await batcher.submit(request.rows, DEADLINE_S)

    async def cpu_s() -> float:
        return time.process_time()

    async def batches() -> Batches:
        return Batches(len(reports), sum(report.inference_s for report in reports))

    return ServedScorer(send, cpu_s, batches)


async def running_server(options: argparse.Namespace, parts: AsyncExitStack) -> ServedScorer:
    """Returns a running server; requests are bytes made beforehand on connections that are kept, since who asks works on the same cores."""
    users, port = random.Random(options.seed), urlsplit(options.url).port or 80
    client = await parts.enter_async_context(httpx.AsyncClient(base_url=options.url, timeout=DEADLINE_S, trust_env=False))
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    made: dict[int, bytes] = {}

    def written(request: ScoreWork) -> bytes:
        if id(request) not in made:
            body = {"user": f"load-{users.randrange(1000)}", "prompt": request.prompt, "responses": request.responses}
            made[id(request)] = http("/score", body | ({"family": options.family} if options.family else {}), key=options.key or "none")
        return made[id(request)]

    async def send(request: ScoreWork) -> None:
        content = written(request)
        while free and free[-1][0].at_eof():  # the server has closed it while only the ceiling was measured
            free.pop()[1].close()
        reader, writer = free.pop() if free else await asyncio.open_connection(urlsplit(options.url).hostname, port)
        status = await exchange(reader, writer, content)
        if status != httpx.codes.OK:
            raise SystemExit(f"POST /score answered {status}")
        free.append((reader, writer))

    async def metric(name: str) -> float:
        found = re.search(rf"^{name} (\S+)", (await client.get("/metrics")).text, re.MULTILINE)
        return float(found[1]) if found else math.nan

    async def cpu_s() -> float:
        return await metric("process_cpu_seconds_total")

    async def batches() -> Batches:
        return Batches(await metric("attune_inference_seconds_count"), await metric("attune_inference_seconds_sum"))

    return ServedScorer(send, cpu_s, batches)


async def compare(
    options: argparse.Namespace,
    sessions: Mapping[str, onnxruntime.InferenceSession],
    requests: Sequence[ScoreWork],
    served: ServedScorer,
) -> tuple[list[float], float]:
    """Runs one round to warm up and `options.rounds` that count; prints them; returns served / raw of each, and requests/s served."""
    rows = [row for request in requests for row in request.rows]
    name, budget = fastest(sessions, rows)
    batches = [pad(batch) for batch in sorted_batches(rows, budget)]
    await run_clients(requests, options.clients, served)
    raws, throughs = [], []
    for number in range(options.rounds):
        # The order within a round changes, so that a machine that slows down steadily favours neither.
        raw = run_raw(sessions[name], batches) if number % 2 == 0 else None
        through = await run_clients(requests, options.clients, served)
        raws.append(raw or run_raw(sessions[name], batches))
        throughs.append(through)
    pairs = list(zip(raws, throughs, strict=True))
    ratios = [raw.elapsed_s / through.elapsed_s for raw, through in pairs]
    p50, p99 = np.percentile([latency for through in throughs for latency in through.latencies_s], [50, 99])
    print(
        "; ".join(
            [
                summary("of raw by the clock", ratios, ".3f"),
                summary("by CPU time", [raw.cpu_s / through.cpu_s for raw, through in pairs], ".3f"),
                summary("texts/s", [len(rows) / each.elapsed_s for each in throughs], ".1f"),
                summary("CPU ms a text", [1e3 * each.cpu_s / len(rows) for each in throughs], ".2f"),
                f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms",
            ]
        ),
        flush=True,
    )
    return ratios, len(requests) / median(each.elapsed_s for each in throughs)


async def measure(options: argparse.Namespace, bundle: Bundle) -> float:
    """Prints every cell and the open loop; returns the least median ratio."""
    _, file = choose_scorer(bundle.scorers, options.precision)
    sessions = raw_sessions(bundle.path / file.file, options.threads)
    provider = next(iter(sessions.values())).get_providers()[0]
    print(
        f"{bundle.id}, {file.file} on {provider}, {options.threads} threads, {installed_runtime()}; {options.clients} clients of ", end=""
    )
    print(options.url or "a batcher in this process")
    least, encoder = math.inf, bundle.text_encoder()
    async with AsyncExitStack() as parts:
        served = await (running_server(options, parts) if options.url else own_batcher(bundle, options, parts))
        for law in options.laws:
            for responses in options.responses:
                requests = make_requests(encoder, law=law, texts=options.texts, responses=responses, seed=options.seed)
                lengths = [len(row) for request in requests for row in request.rows]
                told = f"{len(lengths)} texts, {min(lengths)}-{max(lengths)} tokens, mean {np.mean(lengths):.0f}"
                print(f"\n{law}, {responses} a request: {told}")
                ratios, per_s = await compare(options, sessions, requests, served)
                least = min(least, median(ratios))
                if (law, responses) == ("skewed", 1) and options.open_loop_s:
                    await run_open_loop(requests, LOAD * per_s, options.open_loop_s, served, options.seed)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a bundle's directory; with --url, the one that the server serves")
    parser.add_argument("--url", help="a running server; without it the batcher is measured in this process")
    parser.add_argument("--key", help="API key of the server")
    parser.add_argument("--family", help="family to score with; by default the server's")
    parser.add_argument("--precision", help="of the scorer, and of the ceiling; by default the bundle's first")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of the ceiling, and of a batcher in this process")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--texts", type=int, default=192, help="texts of one pass")
    parser.add_argument("--laws", nargs="+", choices=LAWS, default=list(LAWS))
    parser.add_argument("--responses", type=int, nargs="+", default=[1, 4, 32], help="texts of a request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open-loop-s", type=float, default=10.0, help="how long the open loop runs; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 if a median ratio is below this")
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    with reaching(options.url) if options.url else nullcontext():
        least = asyncio.run(measure(options, bundle))
    if least < options.at_least:
        print(f"median ratio {least:.3f} is below {options.at_least}")
        sys.exit(1)


if __name__ == "__main__":
    main()
