"""Requests as bytes made beforehand, sent over connections of their own: what asks must cost less than what answers.

    http(path, body) ─> bytes ─> exchange(reader, writer) ─> status         run_block: so many clients for so long
                                                                            run_arrivals: so many a second, whoever still waits

Answers are read to their end and not parsed. HTTP/1.1, `Content-Length` and chunks.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from dataclasses import dataclass, field

REFUSED_S = 0.2
LATE_S = 3.0
"""What is not answered so long after the last arrival counts as unfinished."""


@dataclass(slots=True)
class Arrivals:
    """What became of requests that came at random times: latencies from when each was due, seconds, and how many had no answer."""

    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0
    unfinished: int = 0


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


async def run_block(
    port: int, requests: list[bytes], clients: int, seconds: float, name: str = "the server", host: str = "127.0.0.1"
) -> list[float]:
    """Returns the latencies, seconds, of so many clients, each with a connection of its own."""
    latencies_s: list[float] = []
    end_s = time.perf_counter() + seconds

    async def client(number: int) -> None:
        draw = random.Random(number)
        reader, writer = await asyncio.open_connection(host, port)
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


async def run_arrivals(port: int, requests: list[bytes], per_s: float, seconds: float, seed: int) -> Arrivals:
    """Sends requests at random times (Poisson), `per_s` on average, whatever still waits; a connection is opened where none is free.

    A latency begins when the request was due, not when it could be written, so that a generator that is late hides nothing.
    """
    draw, found, free = random.Random(seed), Arrivals(), list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()

    async def one(request: bytes, due_s: float) -> None:
        while free and free[-1][0].at_eof():
            free.pop()[1].close()
        reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
        if await exchange(reader, writer, request) == 200:
            found.latencies_s.append(time.perf_counter() - due_s)
        else:
            found.refused += 1
        free.append((reader, writer))

    asked = set[asyncio.Task[None]]()
    due_s = time.perf_counter()
    end_s = due_s + seconds
    while due_s < end_s:
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        asked.add(asyncio.create_task(one(draw.choice(requests), due_s)))
        due_s += draw.expovariate(per_s)
    done, late = await asyncio.wait(asked, timeout=LATE_S)
    found.unfinished = len(late)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in done:
        task.result()
    for _, writer in free:
        writer.close()
    return found
