"""Requests as bytes made beforehand, sent over connections of their own: what asks must cost less than what answers.

    http(path, body) ─> bytes ─> exchange(reader, writer) ─> status         run_block: so many clients for so long

Answers are read to their end and not parsed. HTTP/1.1 to this machine alone, `Content-Length` and chunks.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time

REFUSED_S = 0.2


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
