"""Scoring throughput of Attune against the ceiling that raw ONNX Runtime sets on the same texts, alternating in one run.

    python loadtest/score_ceiling.py BUNDLE                              the batcher, in this process
    python loadtest/score_ceiling.py BUNDLE --url http://127.0.0.1:8000  a running server, through POST /score

`--clients` concurrent clients (32) take requests of `--responses` texts each (4) from one seeded list; a text has 16 to 256
tokens, prompt included. The ceiling is one session in this process on the same texts, as arrays made beforehand, sorted by
length and cut at a budget of padded tokens: the fastest of five budgets and two sets of session options, tried on a quarter
of the requests. A round is one pass of either; absolute figures drift with the machine, so only the ratio within a round
counts. The CPU time that a text costs the one who scores it (with --url the server, as its /metrics say) is printed beside
it: on a machine that others use as well it is the steadier figure, though threads that spin while they wait count too.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from attune.models.seam.bundle import read_bundle
from attune.models.seam.padding import pad
from attune.models.seam.text import Encoded, TextEncoder
from attune.service.batching.batcher import Batcher
from attune.service.batching.calibrate import calibrate, filler
from attune.service.batching.cores import usable_cores
from attune.service.batching.session import CPU, CUDA, ScorerSession, installed_runtime, session_options, with_options
from attune.service.batching.submission import BatchReport

BUDGETS = (128, 256, 512, 1024, 2048)
DEADLINE_S = 120.0
WORDS = [
    *("the", "a", "and", "of", "to", "in", "it", "is", "you", "that", "he", "was", "for", "on", "are", "with", "as", "his", "they", "be"),
    *("one", "have", "this", "from", "word", "what", "some", "can", "out", "other", "were", "all", "there", "when", "use", "your", "how"),
    *("water", "call", "first", "who", "may", "down", "side", "been", "now", "find", "any", "new", "work", "part", "take", "place", "year"),
]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One request: the texts a client sends, and what the scorer makes of them."""

    prompt: str
    responses: list[str]
    rows: list[Encoded]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over all requests: wall-clock and CPU time of the one who scores, and each request's latency, seconds."""

    elapsed_s: float
    cpu_s: float
    latencies_s: list[float]


def make_requests(encoder: TextEncoder, *, count: int, responses: int, seed: int, longest: int) -> list[ScoreRequest]:
    """Returns requests whose texts have lengths drawn uniformly from 16 tokens to `longest`."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        prompt = " ".join(draw.choices(WORDS, k=draw.randint(4, 10)))
        texts = [_response(encoder, prompt, draw, draw.randint(16, longest)) for _ in range(responses)]
        made.append(ScoreRequest(prompt, texts, encoder.candidates(prompt, texts)))
    return made


def _response(encoder: TextEncoder, prompt: str, draw: random.Random, tokens: int) -> str:
    words = draw.choices(WORDS, k=tokens)
    for _ in range(8):  # a word is one token in most vocabularies; where it is not, a few corrections come close enough
        over = len(encoder.candidates(prompt, [" ".join(words)])[0]) - tokens
        if over <= 0:
            break
        del words[max(1, len(words) - over) :]
    return " ".join(words)


# --- the ceiling ------------------------------------------------------------------------------------------------------


def sorted_batches(rows: Sequence[Encoded], budget_tokens: int) -> Iterator[list[Encoded]]:
    """Yields all rows, shortest first, in batches of at most `budget_tokens` padded tokens."""
    batch: list[Encoded] = []
    for row in sorted(rows, key=len):
        if batch and len(row) * (len(batch) + 1) > budget_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def raw_sessions(path: Path, threads: int) -> dict[str, onnxruntime.InferenceSession]:
    """Returns the graph in a session with the runtime's own options, and in one with the service's."""
    defaults = onnxruntime.SessionOptions()
    defaults.intra_op_num_threads = threads
    available = onnxruntime.get_available_providers()
    providers = [with_options(name) for name in (CUDA, CPU) if name in available]
    options = {"the runtime's options": defaults, "the service's options": session_options(threads)}
    return {name: onnxruntime.InferenceSession(path, each, providers=providers) for name, each in options.items()}


def run_raw(session: onnxruntime.InferenceSession, batches: Sequence[dict[str, NDArray[np.int64]]]) -> Pass:
    """Runs the arrays through the session and nothing else."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    for arrays in batches:
        session.run(None, arrays)
    return Pass(time.perf_counter() - started_s, time.process_time() - cpu_s, [])


def fastest(sessions: Mapping[str, onnxruntime.InferenceSession], rows: Sequence[Encoded]) -> tuple[str, int]:
    """Prints texts/s of each session and budget, the better of two passes in turn, and returns the fastest pair."""
    cut = {budget: [pad(batch) for batch in sorted_batches(rows, budget)] for budget in BUDGETS}
    taken_s: dict[tuple[str, int], float] = {}
    for key in 2 * [(name, budget) for budget in BUDGETS for name in sessions]:
        taken_s[key] = min(taken_s.get(key, math.inf), run_raw(sessions[key[0]], cut[key[1]]).elapsed_s)
    for name in sessions:
        print(f"raw with {name}, texts/s by budget: {', '.join(f'{each}: {len(rows) / taken_s[name, each]:.1f}' for each in BUDGETS)}")
    return min(taken_s, key=lambda key: taken_s[key])


# --- what is served ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Served:
    """What is measured against the ceiling: how a request is sent, and how much CPU time its scorer has used so far, seconds."""

    send: Callable[[ScoreRequest], Awaitable[None]]
    cpu_s: Callable[[], Awaitable[float]]


async def run_clients(requests: Sequence[ScoreRequest], clients: int, served: Served) -> Pass:
    """Lets `clients` take requests from one list until none is left."""
    left = iter(requests)
    latencies_s = []

    async def client() -> None:
        for request in left:
            sent_s = time.perf_counter()
            await served.send(request)
            latencies_s.append(time.perf_counter() - sent_s)

    started_s, cpu_s = time.perf_counter(), await served.cpu_s()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return Pass(time.perf_counter() - started_s, await served.cpu_s() - cpu_s, latencies_s)


async def measure_batcher(
    options: argparse.Namespace,
    raws: Mapping[str, onnxruntime.InferenceSession],
    session: ScorerSession,
    requests: Sequence[ScoreRequest],
    longest: int,
) -> list[float]:
    """Alternates the ceiling with the batcher, calibrated and with a session made as the service does."""
    calibration = calibrate(session, max_text_tokens=longest)
    measured = ", ".join(f"{budget}: {speed:,.0f}" for budget, speed in calibration.measured.items())
    print(
        f"calibrated in {calibration.elapsed_s:.1f} s: {calibration.budget_tokens} tokens, overhead {calibration.overhead_tokens:.0f} "
        f"(tokens/s {measured})"
    )
    reports: list[BatchReport] = []
    batcher = Batcher(
        session,
        max_items=4096,
        max_tokens=1 << 20,
        max_text_tokens=longest,
        budget_tokens=calibration.budget_tokens,
        overhead_tokens=calibration.overhead_tokens,
        tokens_per_s=calibration.tokens_per_s,
        canary=filler(4),
        on_batch=reports.append,
    )
    batcher.start()

    async def send(request: ScoreRequest) -> None:
        await batcher.submit(request.rows, DEADLINE_S)

    async def cpu_s() -> float:
        return time.process_time()

    try:
        ratios = await alternate(options, raws, requests, Served(send, cpu_s))
    finally:
        await batcher.aclose()
    real, padding = sum(report.real_tokens for report in reports), sum(report.padded_tokens for report in reports)
    texts = sum(report.items for report in reports) / len(reports)
    print(f"{len(reports)} batches, {texts:.1f} texts a batch, padded/real {padding / real:.3f}")
    return ratios


async def measure_server(
    options: argparse.Namespace, raws: Mapping[str, onnxruntime.InferenceSession], requests: Sequence[ScoreRequest]
) -> list[float]:
    """Alternates the ceiling with a running server."""
    headers = {"authorization": f"Bearer {options.key}"} if options.key else {}
    limits = httpx.Limits(max_connections=options.clients, max_keepalive_connections=options.clients)
    users = random.Random(options.seed)
    counted = 0
    async with httpx.AsyncClient(base_url=options.url, headers=headers, limits=limits, timeout=DEADLINE_S, trust_env=False) as client:

        async def send(request: ScoreRequest) -> None:
            nonlocal counted
            body = {"user": f"load-{users.randrange(1000)}", "prompt": request.prompt, "responses": request.responses}
            if options.family:
                body["family"] = options.family
            answer = await client.post("/score", json=body)
            if answer.status_code != httpx.codes.OK:
                raise SystemExit(f"POST /score answered {answer.status_code}: {answer.text[:500]}")
            counted += answer.json()["usage"]["tokens"]

        async def cpu_s() -> float:
            answer = await client.get("/metrics")
            found = re.search(r"^process_cpu_seconds_total (\S+)", answer.text, re.MULTILINE)
            return float(found[1]) if found else math.nan

        ratios = await alternate(options, raws, requests, Served(send, cpu_s))
    sent = sum(len(row) for request in requests for row in request.rows) * (options.rounds + 1)
    print(f"tokens: {sent:,} in the candidates sent, {counted:,} counted by the server (prompt rows included where the family reads them)")
    return ratios


async def alternate(
    options: argparse.Namespace, sessions: Mapping[str, onnxruntime.InferenceSession], requests: Sequence[ScoreRequest], served: Served
) -> list[float]:
    """Runs one round to warm up and `options.rounds` that count; prints each; returns served / raw of each."""
    rows = [row for request in requests for row in request.rows]
    options_name, budget = fastest(sessions, [row for request in requests[::4] for row in request.rows])
    ceiling = sessions[options_name]
    print(f"ceiling: {options_name}, {budget} padded tokens")
    batches = [pad(batch) for batch in sorted_batches(rows, budget)]
    await run_clients(requests, options.clients, served)
    raws, throughs = [], []
    for number in range(options.rounds):
        # The order within a round changes, so that a machine that slows down steadily favours neither.
        raw = run_raw(ceiling, batches) if number % 2 == 0 else None
        through = await run_clients(requests, options.clients, served)
        raw = raw or run_raw(ceiling, batches)
        raws.append(raw)
        throughs.append(through)
        print(
            f"round {number + 1}: raw {len(rows) / raw.elapsed_s:6.1f} texts/s, served {len(rows) / through.elapsed_s:6.1f} texts/s, "
            f"ratio {raw.elapsed_s / through.elapsed_s:.3f}, by CPU time {raw.cpu_s / through.cpu_s:.3f}",
            flush=True,
        )
    ratios = [raw.elapsed_s / through.elapsed_s for raw, through in zip(raws, throughs, strict=True)]
    summary("raw texts/s", [len(rows) / each.elapsed_s for each in raws], ".1f")
    summary("served texts/s", [len(rows) / each.elapsed_s for each in throughs], ".1f")
    summary("ratio", ratios, ".3f")
    summary("raw CPU ms/text", [1e3 * each.cpu_s / len(rows) for each in raws], ".2f")
    summary("served CPU ms/text", [1e3 * each.cpu_s / len(rows) for each in throughs], ".2f")
    summary("ratio by CPU time", [raw.cpu_s / through.cpu_s for raw, through in zip(raws, throughs, strict=True)], ".3f")
    p50, p99 = np.percentile([latency for through in throughs for latency in through.latencies_s], [50, 99])
    print(f"latency of a request with {options.clients} clients: p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms")
    return ratios


def summary(name: str, values: Sequence[float], form: str) -> None:
    print(f"{name:<19} min {min(values):{form}}  median {median(values):{form}}  max {max(values):{form}}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a bundle's directory; with --url, the one that the server serves")
    parser.add_argument("--url", help="a running server; without it the batcher is measured in this process")
    parser.add_argument("--key", help="API key of the server")
    parser.add_argument("--family", help="family to score with; by default the server's")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=96, help="requests of one pass")
    parser.add_argument("--responses", type=int, default=4, help="texts of a request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 if the median ratio is below this")
    options = parser.parse_args()

    bundle = read_bundle(options.bundle)
    longest = min(256, bundle.template.max_tokens)
    requests = make_requests(bundle.text_encoder(), count=options.requests, responses=options.responses, seed=options.seed, longest=longest)
    lengths = [len(row) for request in requests for row in request.rows]
    raws = raw_sessions(bundle.scorer, usable_cores())
    provider = next(iter(raws.values())).get_providers()[0]
    print(f"{bundle.id} on {provider}, {usable_cores()} threads, {installed_runtime()}")
    print(
        f"{len(lengths)} texts of {min(lengths)}-{max(lengths)} tokens, mean {np.mean(lengths):.0f}; {options.clients} clients of ", end=""
    )
    print(options.url or "a batcher in this process")
    if options.url:
        ratios = asyncio.run(measure_server(options, raws, requests))
    else:
        ratios = asyncio.run(measure_batcher(options, raws, ScorerSession(bundle.scorer), requests, bundle.template.max_tokens))
    if median(ratios) < options.at_least:
        print(f"median ratio {median(ratios):.3f} is below {options.at_least}")
        sys.exit(1)


if __name__ == "__main__":
    main()
