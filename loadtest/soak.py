"""A server for minutes at 60 % of what it can do: memory, descriptors, tasks and the store's size, a line a minute.

    python -m loadtest.soak --bundle FOLDER                      ten minutes
    python -m loadtest.soak --bundle FOLDER --minutes 5 --share 0.6

Capacity is measured first, with closed loops on the same mixture of requests; then requests are begun at a share of that pace whatever
the answers take. Users are a fixed number, so that everything that still grows in the last half is a leak or a log that is not full yet:
the logs' bound is set low for that reason. The server, a member's upstream and the store are started here.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from attune.service.members.upstream_pool import KEEPALIVE_S
from loadtest.own_server import OwnServer
from loadtest.upstream import running_upstream
from loadtest.upstream_modes import MODES

USERS = 200
LOG_ENTRIES = 20
REST_S = KEEPALIVE_S + 5.0
"""After so long without requests, connections that wait for the next one are closed on both sides."""
MORE = 2.0
"""Tasks and descriptors that a server at rest may have more than before: those of a check of itself that is under way."""
PROMPT = "How do I make pancakes for four people on a Sunday morning?"
MIXTURE = ("/score", "/score", "/feedback", "/feedback", "/generate", "stream", "/route", "/users", "leave")
"""One round of requests; `leave` is a stream whose caller goes after the first piece."""


@dataclass
class Traffic:
    """Requests of the mixture, one after another."""

    url: str
    http: aiohttp.ClientSession
    statuses: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()

    async def one(self) -> None:
        """Makes the next request and counts its status."""
        number = next(self._numbers)
        kind, user = MIXTURE[number % len(MIXTURE)], f"soak-{number % USERS}"
        began_s = time.perf_counter()
        try:
            status = await self._ask(kind, user, number)
        except (aiohttp.ClientError, TimeoutError) as error:
            status = type(error).__name__
        self.statuses[status] += 1
        self.took_s.append(time.perf_counter() - began_s)

    async def _ask(self, kind: str, user: str, number: int) -> str:
        if kind == "/users":
            async with self.http.get(f"{self.url}/users/{user}") as answer:
                await answer.read()
                return str(answer.status)
        body: dict[str, object] = {"user": user, "prompt": f"{PROMPT} {number % 97}"}
        if kind == "/score":
            body["responses"] = [f"Answer {n}: mix flour, milk and eggs." for n in range(4)]
        elif kind == "/feedback":
            body |= {"chosen_text": f"Mix {number % 89}.", "rejected_text": "No.", "event_id": f"soak-{number}"}
        else:
            body |= {"max_tokens": 16, "stream": kind in {"stream", "leave"}} if kind != "/route" else {}
        path = kind if kind.startswith("/") else "/generate"
        async with self.http.post(f"{self.url}{path}", json=body) as answer:
            if kind == "leave":
                await answer.content.readany()
                answer.close()
            else:
                await answer.read()
            return str(answer.status)


async def capacity_per_s(traffic: Traffic, clients: int, seconds: float) -> float:
    """Returns answers per second of closed loops."""
    ends_s = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < ends_s:
            await traffic.one()

    await asyncio.gather(*(client() for _ in range(clients)))
    return traffic.statuses["200"] / seconds


async def at_pace(traffic: Traffic, per_s: float, seconds: float) -> None:
    """Begins requests at this pace for so long and waits for their ends."""
    began_s, begun = time.perf_counter(), 0
    async with asyncio.TaskGroup() as group:
        while (passed_s := time.perf_counter() - began_s) < seconds:
            due = int(passed_s * per_s)
            for _ in range(due - begun):
                group.create_task(traffic.one())
            begun = due
            await asyncio.sleep(0.01)


async def measured(server: OwnServer, http: aiohttp.ClientSession) -> dict[str, float]:
    """Returns what the server holds now."""
    process, store = psutil.Process(server.pid), psutil.Process(server.store_pid)
    async with http.get(f"{server.url}/metrics") as answer:
        metrics = dict(line.rsplit(" ", 1) for line in (await answer.text()).splitlines() if not line.startswith("#"))
    return {
        "RSS MiB": process.memory_info().rss / 2**20,
        "descriptors": process.num_fds(),
        "tasks": float(metrics["attune_asyncio_tasks"]),
        "in flight": float(metrics["attune_http_requests_in_flight"]),
        "store RSS MiB": store.memory_info().rss / 2**20,
        "store file MiB": sum(file.stat().st_size for file in (server.folder / "redis" / "appendonlydir").iterdir()) / 2**20,
        "server CPU s": sum(process.cpu_times()[:2]),
    }


async def soak(bundle: Path, minutes: int, share: float, clients: int) -> bool:
    """Prints a line a minute; returns whether nothing failed and nothing is left open in the end."""
    async with running_upstream() as upstream:
        upstream.answers(MODES["good"])
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            described = {"kind": "openai", "model": "good", "base_url": upstream.base_url}
            roster = Path(folder) / "roster.json"
            roster.write_text(json.dumps({"one": described, "two": described}), encoding="utf-8")
            settings = {"ATTUNE_BUNDLE": str(bundle), "ATTUNE_ROSTER": str(roster), "ATTUNE_MAX_LOG_ENTRIES": str(LOG_ENTRIES)}
            timeout, limit = aiohttp.ClientTimeout(total=60), aiohttp.TCPConnector(limit=0)
            async with (
                OwnServer(Path(folder) / "data", settings) as server,
                aiohttp.ClientSession(timeout=timeout, connector=limit) as http,
            ):
                await capacity_per_s(Traffic(server.url, http), clients, 5)
                alone = Traffic(server.url, http)
                capacity = await capacity_per_s(alone, clients, 20)
                print(f"capacity {capacity:.0f} answers/s with {clients} clients; {share:.0%} of it for {minutes} minutes")
                await asyncio.sleep(REST_S)
                first = await measured(server, http)
                print("minute  " + "  ".join(f"{name:>14}" for name in first) + "    p50 ms    p99 ms  answers", flush=True)
                _print(0, first, Traffic(server.url, http))
                total, soaked = Counter(alone.statuses), 0
                for minute in range(1, minutes + 1):
                    traffic = Traffic(server.url, http)
                    await at_pace(traffic, share * capacity, 60)
                    upstream.turns.clear()
                    total += traffic.statuses
                    soaked += traffic.statuses["200"]
                    _print(minute, await measured(server, http), traffic)
                await asyncio.sleep(REST_S)
                last = await measured(server, http)
                left = {name: last[name] - first[name] for name in ("tasks", "descriptors", "in flight")}
                failed = failures(total, soaked)
                print(f"after {REST_S:g} s of rest, more than at first: " + ", ".join(f"{more:.0f} {name}" for name, more in left.items()))
                print(f"answers {dict(total)}; {', '.join(failed) or 'nothing failed'}", flush=True)
                return max(left.values()) <= MORE and not failed


def failures(total: Counter[str], soaked: int) -> list[str]:
    """Returns what is wrong with the answers, those while capacity was measured among them; nothing is, where all is well.

    Args:
        total: answers by status.
        soaked: how many were 200 in the minutes themselves: a server that answered nobody has shown nothing.
    """
    wrong = [f"{count} x {status}" for status, count in sorted(total.items()) if status not in {"200", "429"}]
    return [*wrong, *([] if soaked else ["nothing was answered in these minutes"])]


def _print(minute: int, found: dict[str, float], traffic: Traffic) -> None:
    took_ms = sorted(1000 * took_s for took_s in traffic.took_s) or [0.0]
    quantiles = [took_ms[int(share * (len(took_ms) - 1))] for share in (0.5, 0.99)]
    numbers = "  ".join(f"{value:14.1f}" for value in found.values())
    print(f"{minute:6}  {numbers}  {quantiles[0]:8.1f}  {quantiles[1]:8.1f}  {dict(traffic.statuses)}", flush=True)


def main() -> None:
    """Parses arguments and soaks; ends with 1 if a request failed, or the server at rest has more open than it had before the minutes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundle", type=Path, required=True)
    options.add_argument("--minutes", type=int, default=10)
    options.add_argument("--share", type=float, default=0.6)
    options.add_argument("--clients", type=int, default=16)
    given = options.parse_args()
    sys.exit(0 if asyncio.run(soak(given.bundle.resolve(), given.minutes, given.share, given.clients)) else 1)


if __name__ == "__main__":
    main()
