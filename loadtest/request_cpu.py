"""CPU time of one request by its kind, ms: of the event loop, of other threads (the scorer), and of children (the store).

    python -m loadtest.request_cpu BUNDLE [--beside NAME=CHECKOUT ...] [--tracing] [--requests 150] [--clients 8] [--rounds 3]

Kinds: a chat through `/v1`, whole and streamed, `/route`, `/score` of one text, and `/feedback` by ids. `--beside` runs another checkout of
this repository in the same rounds, `--tracing` this one with its spans exported to a collector that throws them away, and a plain proxy is
there for the chats. Medians over rounds, and the least; answers are not scored
later (`ATTUNE_SCORE_LATER_SHARE=0`, `ATTUNE_SCORE_LATER_UNTIL=0`), so that the scorer's work is not spread over whoever comes next.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median

import psutil

from attune.models.seam.bundle import read_bundle
from loadtest import collector as span_collector
from loadtest.peers import fixed_upstream
from loadtest.peers.targets import HERE, Target, attune, started
from loadtest.raw_http import free_port, http

PROMPT = "How do I boil an egg?"
RESPONSE = "Put it in boiling water for seven minutes, then into cold water, and peel it."
KINDS = ("chat", "stream", "route", "score", "feedback")
USERS = 30


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Returns the body of one answer, which must be 200."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lower, body = head.lower(), b""
    if b"transfer-encoding: chunked" in lower:
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    else:
        length = next(int(line.split(b":")[1]) for line in lower.split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
    if int(head.split(b" ", 2)[1]) != 200:
        raise SystemExit(f"{head.decode()}{body.decode(errors='replace')[:500]}")
    return body


def bodies(*, own: bool) -> dict[str, list[bytes]]:
    """Returns requests of every kind that needs nothing from before."""
    found: dict[str, list[bytes]] = {kind: [] for kind in KINDS}
    for user in (f"load-{number}" for number in range(USERS)):
        chat = {"model": "auto" if own else "fixed", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20}
        chat |= {"user": user} if own else {}
        found["chat"].append(http("/v1/chat/completions", chat))
        found["stream"].append(http("/v1/chat/completions", chat | {"stream": True}))
        if own:
            found["route"].append(http("/route", {"user": user, "prompt": PROMPT}))
            found["score"].append(http("/score", {"user": user, "prompt": PROMPT, "responses": [RESPONSE]}))
    return {kind: requests for kind, requests in found.items() if requests}


async def pairs(port: int) -> list[dict[str, str]]:
    """Returns a pair of candidates for each user, as feedback names them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    for user in (f"load-{number}" for number in range(USERS)):
        body = await ask(reader, writer, http("/generate", {"user": user, "prompt": PROMPT, "candidates": 2, "max_tokens": 20}))
        chosen, rejected = (candidate["candidate_id"] for candidate in json.loads(body)["candidates"])
        found.append({"user": user, "chosen": chosen, "rejected": rejected})
    writer.close()
    return found


async def drive(port: int, requests: list[bytes], clients: int) -> None:
    """Sends all requests, each client one after the other."""
    left = iter(requests)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in left:
            await ask(reader, writer, request)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))


def used_ms(process: psutil.Process) -> tuple[float, float, float]:
    """Returns CPU time so far: of the main thread, of all other threads, of all children."""

    def threads(pid: int) -> dict[int, float]:
        found = {}
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e6
            except OSError:  # it has ended meanwhile
                continue
        return found

    own = threads(process.pid)
    children = sum(sum(threads(child.pid).values()) for child in process.children(recursive=True))
    return own[process.pid], sum(own.values()) - own[process.pid], children


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--beside", nargs="*", default=[], help="NAME=CHECKOUT")
    parser.add_argument("--tracing", action="store_true", help="also with spans of every request, exported over OTLP")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as parts:
        above = free_port()
        upstream = [sys.executable, fixed_upstream.__file__, str(above)]
        parts.enter_context(started("upstream", upstream, above, [http("/v1/chat/completions", {})]))
        base = f"http://127.0.0.1:{above}/v1"
        roster = Path(parts.enter_context(tempfile.TemporaryDirectory())) / "roster.json"
        names = read_bundle(options.bundle).portfolio.names
        roster.write_text(json.dumps({name: {"kind": "openai", "base_url": base, "model": "fixed"} for name in names}), encoding="utf-8")
        asked: dict[str, tuple[Target, dict[str, list[bytes]]]] = {}
        own = bodies(own=True)
        changes = {"ATTUNE_ROSTER": str(roster), "ATTUNE_SCORE_LATER_SHARE": "0", "ATTUNE_SCORE_LATER_UNTIL": "0"}
        for name, tree in (("attune", None), *(each.split("=", 1) for each in options.beside)):
            where = {} if tree is None else {"PYTHONPATH": f"{tree}/src:{tree}"}
            asked[name] = attune(options.bundle, own["route"], parts, **changes, **where), own
        if options.tracing:
            sink = free_port()
            collector = [sys.executable, span_collector.__file__, str(sink)]
            parts.enter_context(started("collector", collector, sink, [http("/v1/traces", {})]))
            traced = {"ATTUNE_TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink}"}
            asked["traced"] = attune(options.bundle, own["route"], parts, **changes, **traced), own
        port = free_port()
        plain = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "plain_proxy:app", "--port", str(port), "--log-level", "warning"]
        others = bodies(own=False)
        asked["plain"] = parts.enter_context(started("plain", plain, port, others["chat"], UPSTREAM=base)), others
        measure(asked, options)


def measure(asked: dict[str, tuple[Target, dict[str, list[bytes]]]], options: argparse.Namespace) -> None:
    """Runs all rounds and prints the table."""
    known = {}
    if "feedback" in options.kinds:
        known = {name: asyncio.run(pairs(target.port)) for name, (target, _) in asked.items() if name != "plain"}
    events, draw = count(), random.Random(1)
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for number in range(options.rounds + 1):  # the first warms
        for kind in options.kinds:
            for name in draw.sample(list(asked), len(asked)):
                target, requests = asked[name]
                if kind == "feedback" and name in known:
                    told = [draw.choice(known[name]) | {"event_id": f"load-{next(events)}"} for _ in range(options.requests)]
                    sent = [http("/feedback", each) for each in told]
                elif kind in requests:
                    sent = [draw.choice(requests[kind]) for _ in range(options.requests)]
                else:
                    continue
                before = used_ms(target.process)
                asyncio.run(drive(target.port, sent, options.clients))
                spent = [(after - earlier) / len(sent) for earlier, after in zip(before, used_ms(target.process), strict=True)]
                if number:
                    found.setdefault((kind, name), []).append((*spent, sum(spent)))
    print("| kind | target | event loop | other threads | children | all, median | all, least |\n|---|---|--:|--:|--:|--:|--:|")
    for (kind, name), rounds in sorted(found.items(), key=lambda item: (KINDS.index(item[0][0]), list(asked).index(item[0][1]))):
        medians = [median(column) for column in zip(*rounds, strict=True)]
        cells = " | ".join(f"{value:.2f}" for value in (*medians, min(each[-1] for each in rounds)))
        print(f"| {kind} | {name} | {cells} |")


if __name__ == "__main__":
    main()
