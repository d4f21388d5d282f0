"""Attune beside its peers, in alternating rounds: requests/s, latency, and the CPU time of a request of whoever answers.

    python -m loadtest.peers.compare gateways BUNDLE [--peers plain litellm] [--streamed]     one local upstream behind all of them
    python -m loadtest.peers.compare scorers BUNDLE [--peers litserve]                                 the same graph, the same token ids

`loadtest/peers/install.sh` makes a virtual environment for each peer below `--venvs`; a peer without one is left out. In every round each
target runs once with each number of clients, in random order, for `--seconds`; ratios are of medians over rounds. The CPU time is that of
the target's whole process tree, store included, until it has done what it left for later; only then does the next one begin. What was
refused (429, 503) is not counted. `attune` scores answers after it has sent them, which no peer does: so many a second at most, by default
(`ATTUNE_SCORE_LATER_PER_S`). `attune, members known` scores one in ten and no more than that, as by default once 200 answers of each member
are known; `attune, all scored` scores all, without a bound; `attune, unscored` none. A bucket is full at the beginning of each block, so a
short block is charged for more than an hour of traffic is. All of it shares one machine, so only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from attune.models.seam.bundle import Bundle, read_bundle
from loadtest.peers import fixed_upstream
from loadtest.workloads import ScoreWork, make_requests

HERE = Path(__file__).resolve().parent

START_S = 180.0
REFUSED_S = 0.2
LOOK_S = 0.5
RESTING = 0.1
"""Share of a core below which a target has nothing left to do; its checks of itself need a twentieth."""
REST_S = 120.0


@dataclass(frozen=True, slots=True)
class Target:
    """One server under test: its process, where it listens, and the requests that it is sent, ready to write."""

    name: str
    process: psutil.Process
    port: int
    requests: list[bytes]


@dataclass(frozen=True, slots=True)
class Block:
    """One target for a few seconds: answers, the latency of each, seconds, and CPU time, seconds."""

    per_s: float
    latencies_s: list[float]
    cpu_s: float


def free_port() -> int:
    """Returns a port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def http(path: str, body: object, host: str = "127.0.0.1", key: str = "none") -> bytes:
    """Returns a whole request."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nauthorization: Bearer {key}\r\n"
    return head.encode() + f"content-length: {len(content)}\r\n\r\n".encode() + content


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Returns the status of one answer, read to its end."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        while int(await reader.readline(), 16):
            await reader.readuntil(b"\r\n")
        await reader.readuntil(b"\r\n")
    else:
        length = next(int(line.split(b":")[1]) for line in lower.split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


async def run_block(port: int, requests: list[bytes], clients: int, seconds: float, name: str = "the server") -> list[float]:
    """Returns the latencies, seconds, of so many clients, each with a connection of its own."""
    latencies_s: list[float] = []
    end_s = time.perf_counter() + seconds

    async def client(number: int) -> None:
        draw = random.Random(number)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end_s:
            sent_s = time.perf_counter()
            status = await exchange(reader, writer, draw.choice(requests))
            if status == 200:
                latencies_s.append(time.perf_counter() - sent_s)
            elif status in {429, 503}:  # it refuses what it cannot do in time, and is not asked again at once
                await asyncio.sleep(REFUSED_S)
            else:
                raise SystemExit(f"{name} answered {status}")
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return latencies_s


async def block(target: Target, clients: int, seconds: float) -> Block:
    """Runs one target for a while."""
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


def cpu_s(process: psutil.Process) -> float:
    """Returns the CPU time that a process and all below it have used."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


# --- targets ----------------------------------------------------------------------------------------------------------


@contextmanager
def started(name: str, command: list[str], port: int, requests: list[bytes], **changes: str) -> Iterator[Target]:
    """Yields a server once it answers one of its requests with 200; it is ended afterwards."""
    log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ATTUNE_")} | changes
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        asyncio.run(until_answered(process, port, requests[0], log, name))
        yield Target(name, psutil.Process(process.pid), port, requests)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):  # what it started and left behind, as LitServe does
            os.killpg(process.pid, signal.SIGKILL)


async def until_answered(process: subprocess.Popen[bytes], port: int, request: bytes, log: object, name: str) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(30):
                status = await exchange(reader, writer, request)
            writer.close()
            if status == 200:
                return
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        await asyncio.sleep(0.3)
    log.seek(0)  # type: ignore[attr-defined]
    raise SystemExit(f"{name} did not answer:\n{log.read().decode(errors='replace')[-3000:]}")  # type: ignore[attr-defined]


def attune(bundle: Path, requests: list[bytes], parts: ExitStack, **changes: str) -> Target:
    port, data = free_port(), parts.enter_context(tempfile.TemporaryDirectory())
    command = [sys.executable, "-m", "attune.service", "serve", "--port", str(port), "--bundle", str(bundle), "--data-dir", data]
    quiet = {"ATTUNE_LOG_LEVEL": "warning"}
    return parts.enter_context(started("attune", command, port, requests, **quiet, **changes))


def gateways(bundle: Bundle, peers: list[str], venvs: Path, parts: ExitStack, *, streamed: bool = False) -> list[Target]:
    """Returns Attune and its peers as gateways in front of one upstream."""
    above = free_port()
    upstream = parts.enter_context(
        started("upstream", [sys.executable, fixed_upstream.__file__, str(above)], above, [http("/v1/chat/completions", {})])
    )
    folder = Path(parts.enter_context(tempfile.TemporaryDirectory()))
    base = f"http://127.0.0.1:{above}/v1"
    roster = {name: {"kind": "openai", "base_url": base, "model": "fixed"} for name in bundle.portfolio.names}
    (folder / "roster.json").write_text(json.dumps(roster), encoding="utf-8")
    message = [{"role": "user", "content": "How do I boil an egg?"}]

    def chats(model: str, **more: str) -> list[bytes]:
        return [http("/v1/chat/completions", {"model": model, "messages": message, "max_tokens": 20, "stream": streamed, **more})]

    auto = [request for user in range(100) for request in chats("auto", user=f"load-{user}")]
    at = {"ATTUNE_ROSTER": str(folder / "roster.json")}
    # A member is known after 200 of its answers, which takes longer than a block: from the first answer here, so that every block is alike.
    known = attune(bundle.path, auto, parts, ATTUNE_SCORE_LATER_UNTIL="0", **at)
    unscored = attune(bundle.path, auto, parts, ATTUNE_SCORE_LATER_SHARE="0", ATTUNE_SCORE_LATER_UNTIL="0", **at)
    new = attune(bundle.path, auto, parts, ATTUNE_SCORE_LATER_SHARE="1", **at)
    every = attune(bundle.path, auto, parts, ATTUNE_SCORE_LATER_SHARE="1", ATTUNE_SCORE_LATER_PER_S="0", **at)
    names = {"attune, members known": known, "attune, all scored": every, "attune, unscored": unscored}
    targets = [new, *(replace(target, name=name) for name, target in names.items())]
    del upstream
    if "plain" in peers:
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "--app-dir",
            str(HERE),
            "plain_proxy:app",
            "--port",
            str(port),
            "--log-level",
            "warning",
        ]
        targets.append(parts.enter_context(started("plain", command, port, chats("fixed"), UPSTREAM=base)))
    if "litellm" in peers and (venvs / "litellm/bin/litellm").exists():
        port, config = free_port(), folder / "litellm.yaml"
        config.write_text((HERE / "litellm.yaml").read_text(encoding="utf-8").replace("PORT", str(above)), encoding="utf-8")
        command = [str(venvs / "litellm/bin/litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        more = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
        targets.append(parts.enter_context(started("litellm", command, port, chats("fixed"), **more)))
    return targets


def scorers(bundle: Bundle, peers: list[str], venvs: Path, parts: ExitStack, *, law: str, responses: int) -> list[Target]:
    """Returns Attune and its peers as scorers of the same texts."""
    made = make_requests(bundle.text_encoder(), law=law, texts=192, responses=responses, seed=1)

    def score(number: int, request: ScoreWork) -> bytes:
        return http("/score", {"user": f"load-{number}", "prompt": request.prompt, "responses": request.responses})

    # The family whose one head the peers compute; Attune's graph computes all of them all the same.
    targets = [attune(bundle.path, [score(number, request) for number, request in enumerate(made)], parts)]
    ids = [http("/predict", {"ids": [list(row.input_ids) for row in request.rows]}) for request in made]
    if "litserve" in peers and (venvs / "litserve/bin/python").exists():
        port = free_port()
        command = [str(venvs / "litserve/bin/python"), str(HERE / "litserve_scorer.py"), str(bundle.path), str(port)]
        targets.append(parts.enter_context(started("litserve", command, port, ids, PYTHONPATH="")))
    return targets


# --- rounds -------------------------------------------------------------------------------------------------------------


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


def cpu_ms(blocks: list[Block]) -> float:
    """Returns CPU time a request, ms, over all rounds."""
    return 1e3 * sum(each.cpu_s for each in blocks) / max(1, sum(len(each.latencies_s) for each in blocks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gateways", "scorers"])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", nargs="+", default=["plain", "litellm", "litserve"])
    parser.add_argument("--venvs", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--streamed", action="store_true", help="gateways are asked for streams")
    parser.add_argument("--law", choices=["equal", "skewed"], default="skewed")
    parser.add_argument("--responses", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    with ExitStack() as parts:
        if options.what == "gateways":
            targets = gateways(bundle, options.peers, options.venvs, parts, streamed=options.streamed)
        else:
            targets = scorers(bundle, options.peers, options.venvs, parts, law=options.law, responses=options.responses)
        print(f"{options.what}: {', '.join(target.name for target in targets)}; {options.rounds} rounds of {options.seconds:g} s")
        compare(targets, options)


if __name__ == "__main__":
    main()
