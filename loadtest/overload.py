"""What overload leaves of capacity: answers per second at 10 and 50 times the connections that capacity needs, against it, in one run.

    python -m loadtest.overload --url http://127.0.0.1:8000                 /score, /feedback and /generate of a server that runs
    python -m loadtest.overload --url … --routes /score stream --rounds 3 --seconds 10

Routes are /score, /feedback, /generate, /route, /rerank and /v1/chat/completions; `stream` is the last one as a stream of events.

Each round measures capacity and then every multiple, so that a machine that drifts drifts for both. Clients are closed loops over kept
connections; after a 429 they come back when `Retry-After` says. The client's own share of the processor is printed: on a machine that it
shares with the server, that share is part of every loss. CPU time of the server per answer, without its store, does not depend on it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import resource
import statistics
import time
import urllib.parse
import urllib.request
from collections import Counter
from dataclasses import dataclass, field

import uvloop

from loadtest.reaching import reaching

LENGTH = re.compile(rb"content-length: (\d+)")
RETRY = re.compile(rb"retry-after: (\d+)")
PROMPT = "How do I make pancakes for four people on a Sunday morning?"
LEVELS = (1, 10, 50)
STREAM = "stream"


@dataclass
class Seen:
    """What the clients of one measurement saw."""

    connections: int
    seconds: float
    statuses: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0

    @property
    def goodput(self) -> float:
        """Good answers per second."""
        return self.statuses["200"] / self.seconds

    @property
    def cost_s(self) -> float:
        """CPU time of the server per good answer, what it spent on all others included; seconds."""
        return self.server_cpu_s / max(1, self.statuses["200"])

    def quantile_ms(self, share: float) -> float:
        """A quantile of how long good answers took, milliseconds."""
        return 1000 * sorted(self.took_s)[int(share * (len(self.took_s) - 1))] if self.took_s else float("nan")


class OverloadTarget:
    """A server and the requests that it is sent."""

    def __init__(self, url: str, key: str, candidates: int, max_tokens: int) -> None:
        split = urllib.parse.urlsplit(url)
        self.url, self.host, self.port = url, split.hostname or "127.0.0.1", split.port or 80
        self._key = f"x-api-key: {key}\r\n" if key else ""
        self._candidates, self._max_tokens = candidates, max_tokens
        self._numbers = itertools.count()
        self._run = f"{time.time():.3f}"

    def request(self, route: str) -> bytes:
        """Returns the bytes of one request; each feedback is an event of its own."""
        number = next(self._numbers)
        user = f"overload-{number % 256}"
        body: dict[str, object]
        if route == "/score":
            body = {"user": user, "prompt": PROMPT, "responses": [f"{PROMPT} Answer {n}: mix flour, milk and eggs." for n in range(4)]}
        elif route == "/feedback":
            body = {"user": user, "prompt": PROMPT, "chosen_text": "Mix.", "rejected_text": "No.", "event_id": f"{self._run}-{number}"}
        elif route == "/route":
            body = {"user": user, "prompt": PROMPT}
        elif route == "/rerank":
            body = {"user": user, "query": PROMPT, "documents": [f"Document {n}: mix flour, milk and eggs." for n in range(4)]}
        elif route in {"/v1/chat/completions", STREAM}:
            message = {"role": "user", "content": PROMPT}
            body = {"user": user, "model": "auto", "messages": [message], "max_tokens": self._max_tokens, "stream": route == STREAM}
        else:
            body = {"user": user, "prompt": PROMPT, "candidates": self._candidates, "max_tokens": self._max_tokens}
        route = "/v1/chat/completions" if route == STREAM else route
        content = json.dumps(body).encode()
        head = f"POST {route} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\n{self._key}"
        return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content

    def cpu_s(self) -> float:
        """Returns the CPU time that the server has used, all threads."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=120) as answer:
            found = re.search(rb"^process_cpu_seconds_total ([0-9.e+]+)$", answer.read(), re.MULTILINE)
        return float(found[1]) if found else float("nan")


async def read_body(reader: asyncio.StreamReader, head: bytes) -> None:
    """Reads an answer to its end, whether it says how long it is or comes in chunks."""
    length = LENGTH.search(head)
    if length is not None:
        await reader.readexactly(int(length[1]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readline()


async def ask(target: OverloadTarget, route: str, counts_s: float, ends_s: float, seen: Seen) -> None:
    """One client: asks until the time is over, on a connection that it keeps; answers between `counts_s` and `ends_s` are counted."""
    reader = writer = None
    while (began_s := time.perf_counter()) < ends_s:
        try:
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection(target.host, target.port)
            writer.write(target.request(route))
            head = await reader.readuntil(b"\r\n\r\n")
            await read_body(reader, head)
        except (OSError, asyncio.IncompleteReadError):
            seen.statuses["dropped"] += time.perf_counter() > counts_s
            writer = None
            await asyncio.sleep(0.2)
            continue
        ended_s = time.perf_counter()
        status = head[9:12].decode()
        if counts_s < ended_s < ends_s:
            seen.statuses[status] += 1
            if status == "200":
                seen.took_s.append(ended_s - began_s)
        if status in {"429", "503"}:
            told = RETRY.search(head)
            await asyncio.sleep(min(float(told[1]) if told else 1.0, max(0.0, ends_s - time.perf_counter())))
        if b"connection: close" in head:
            writer = None
    if writer is not None:
        writer.close()


async def measure(target: OverloadTarget, route: str, connections: int, warm_s: float, seconds: float) -> Seen:
    """Returns what so many clients saw, after a time that is not counted in which limits settle."""
    ends_s = time.perf_counter() + warm_s + seconds
    seen = Seen(connections, seconds)

    async def client(index: int) -> None:
        await asyncio.sleep(index * min(1.0, warm_s / 2) / connections)
        await ask(target, route, ends_s - seconds, ends_s, seen)

    async def cpu() -> None:
        await asyncio.sleep(warm_s)
        before, own = await asyncio.to_thread(target.cpu_s), _own_cpu_s()
        await asyncio.sleep(max(0.0, ends_s - time.perf_counter()))
        seen.server_cpu_s, seen.client_cpu_s = await asyncio.to_thread(target.cpu_s) - before, _own_cpu_s() - own

    await asyncio.gather(cpu(), *(client(index) for index in range(connections)))
    return seen


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Parses arguments and measures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--url", default="http://127.0.0.1:8000")
    options.add_argument("--key", default="")
    options.add_argument("--routes", nargs="+", default=["/score", "/feedback", "/generate"])
    options.add_argument("--connections", type=int, default=16, help="that capacity is measured with")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--seconds", type=float, default=8)
    options.add_argument("--warm-seconds", type=float, default=4)
    options.add_argument("--candidates", type=int, default=1)
    options.add_argument("--max-tokens", type=int, default=8)
    given = options.parse_args()
    with reaching(given.url):
        measure_routes(given)


def measure_routes(given: argparse.Namespace) -> None:
    """Prints one row a measurement and one line of ratios a route."""
    target = OverloadTarget(given.url.rstrip("/"), given.key, given.candidates, given.max_tokens)
    print("route       callers   200/s   429/s  other  p50 ms  p99 ms  server ms/200  client CPU")
    for route in given.routes:
        ratios: dict[int, list[float]] = {level: [] for level in LEVELS}
        by_cpu: dict[int, list[float]] = {level: [] for level in LEVELS}
        for _ in range(given.rounds):
            capacity, cost_s = 0.0, 0.0
            for level in LEVELS:
                seen = uvloop.run(measure(target, route, level * given.connections, given.warm_seconds, given.seconds))
                if level == 1:
                    capacity, cost_s = seen.goodput, seen.cost_s
                ratios[level].append(seen.goodput / capacity if capacity else float("nan"))
                by_cpu[level].append(cost_s / seen.cost_s)
                _print(route, seen)
        told = ", ".join(f"{level} x: {statistics.mean(ratios[level]):.2f} [{min(ratios[level]):.2f}]" for level in LEVELS[1:])
        cost = ", ".join(f"{level} x: {statistics.mean(by_cpu[level]):.2f} [{min(by_cpu[level]):.2f}]" for level in LEVELS[1:])
        print(
            f"{route}: goodput against capacity, mean [least] of {given.rounds} rounds: {told}; by the server's CPU time: {cost}",
            flush=True,
        )


def _print(route: str, seen: Seen) -> None:
    other = sum(count for status, count in seen.statuses.items() if status not in {"200", "429"})
    print(
        f"{route:10} {seen.connections:8,} {seen.goodput:7.1f} {seen.statuses['429'] / seen.seconds:7.1f} {other:6}"
        f" {seen.quantile_ms(0.5):7.0f} {seen.quantile_ms(0.99):7.0f} {1000 * seen.cost_s:14.2f}"
        f" {seen.client_cpu_s / seen.seconds:7.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
