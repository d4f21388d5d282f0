"""Faults of upstreams and of callers: every misbehaviour of a server, slow clients, and more connections than there is room for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.parse
from collections import Counter
from contextlib import AsyncExitStack

import aiohttp

from loadtest.chaos.account import Account, session
from loadtest.chaos.stores import Scene
from loadtest.chaos.table_row import FaultRow
from loadtest.own_server import OwnServer
from loadtest.upstream import Upstream, running_upstream
from loadtest.upstream_modes import COMPLETE, ENDLESS, MODES

TEXT = "Hello there!"
BESIDES_S = 15.0
PROMPT = "tell me about tea"


async def upstreams_misbehave(scene: Scene) -> FaultRow:
    """A member for every misbehaviour beside one that is well; each is asked for by name and may be stood in for."""
    async with AsyncExitStack() as stack:
        upstreams = {mode: await stack.enter_async_context(running_upstream()) for mode in MODES}
        for mode, upstream in upstreams.items():
            upstream.answers(MODES[mode])
        limits = {"first_event_s": 1.0, "first_text_s": 1.5, "between_events_s": 1.0, "total_s": 4.0}
        roster = {mode: {"kind": "openai", "model": mode, "base_url": upstream.base_url, **limits} for mode, upstream in upstreams.items()}
        place = scene.folder / "misbehaving.json"
        place.write_text(json.dumps(roster), encoding="utf-8")
        server = await stack.enter_async_context(OwnServer(scene.folder / "data", scene.settings | {"ATTUNE_ROSTER": str(place)}))
        http = await stack.enter_async_context(session())
        statuses: Counter[str] = Counter()
        wrong: list[str] = []
        slowest_s = 0.0
        places = asyncio.Semaphore(8)

        async def ask(mode: str, *, stream: bool) -> None:
            nonlocal slowest_s
            async with places:
                began_s = asyncio.get_running_loop().time()
                said = await _asked(http, server, {"member": mode, "stream": stream})
                slowest_s = max(slowest_s, asyncio.get_running_loop().time() - began_s)
            statuses[said[0]] += 1
            if is_wrong(mode, said):
                wrong.append(mode)

        async with asyncio.TaskGroup() as group:
            for mode in MODES:
                for stream in (False, True):
                    group.create_task(ask(mode, stream=stream))
        stood_in = [await _asked(http, server, {"policy": "uniform"}) for _ in range(6)]
        left = await _all_left(upstreams)
        found = {"wrong": len(wrong), "connections left open": left}
        row = FaultRow("upstreams that misbehave", dict(statuses), found, slowest_s, ok=not any(found.values()))
        return row.and_also("others stand in", all(status == "200" and text for status, text in stood_in))


def is_wrong(mode: str, said: tuple[str, str]) -> bool:
    """Returns whether a status and text are not what was promised: an answer in time, no error of ours, and the text where it is whole."""
    return said[0] in {"500", "none"} or (mode in COMPLETE and said != ("200", TEXT))


async def _asked(http: aiohttp.ClientSession, server: OwnServer, more: dict[str, object]) -> tuple[str, str]:
    """Returns the status, an error event's own in a stream, and the text."""
    body = {"user": "chaos", "prompt": PROMPT, "max_tokens": 16} | more
    try:
        async with http.post(f"{server.url}/generate", json=body) as answer:
            content = await answer.text()
    except (aiohttp.ClientError, TimeoutError):
        return "none", ""
    if answer.status != 200:
        return str(answer.status), ""
    if not body.get("stream"):
        return "200", json.loads(content)["candidates"][0]["text"]
    events = [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in _events(content)]
    kind, last = events[-1]
    return ("200", last["candidates"][0]["text"]) if kind == "done" else (str(last.get("status", "none")), "")


def _events(content: str) -> list[tuple[str, str]]:
    blocks = [block.split("\n", 1) for block in content.split("\n\n") if block.startswith("event: ")]
    return [(kind, data) for kind, data in blocks]


async def _all_left(upstreams: dict[str, Upstream]) -> int:
    """Returns how many requests still hold a connection open; those that are kept for reuse do not count."""
    busy = ("hangs", "stalls", "comments-only", *ENDLESS)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            for mode in busy:
                for turn in upstreams[mode].turns:
                    await turn.left.wait()
    return sum(not turn.left.is_set() for mode in busy for turn in upstreams[mode].turns if turn.method == "POST")


async def slow_callers(scene: Scene) -> FaultRow:
    """Half heads and half bodies, 150 of each, whose callers go on a byte at a time, while others send feedback."""
    async with OwnServer(scene.folder / "data", scene.settings) as server, session() as http:
        where = urllib.parse.urlsplit(server.url)
        head = b"POST /score HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        halves = {"head": b"POST /score HTTP/1.1\r\nhost: localhost\r\nx: ", "body": head + b"content-length: 1000\r\n\r\n{"}
        held = []
        for part in halves.values():
            for _ in range(150):
                reader, writer = await asyncio.open_connection(where.hostname, where.port)
                writer.write(part)
                held.append((reader, writer))
        account, stop = Account(server.url), asyncio.Event()

        async def drip() -> None:
            while not stop.is_set():
                for _, writer in held:
                    with contextlib.suppress(ConnectionError):
                        writer.write(b" ")
                await asyncio.sleep(0.5)

        async with asyncio.TaskGroup() as group:
            group.create_task(drip())
            for _ in range(scene.clients):
                group.create_task(account.client(http, stop))
            ended = asyncio.gather(*(reader.read() for reader, _ in held), return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BESIDES_S + scene.seconds):
                    await ended
            stop.set()
        still = sum(not reader.at_eof() and reader.exception() is None for reader, _ in held)
        for _, writer in held:
            writer.close()
        await account.settle(http, scene.settle_s)
        found = await account.compare(http) | {"slow ones still there": still}
        row = FaultRow("slow callers", dict(account.statuses), found, account.slowest_s, ok=not any(found.values()))
        return row.and_also("others were served", account.statuses["200"] > 0)


async def overload(scene: Scene) -> FaultRow:
    """Fifty times the connections that are useful, all of them sending feedback."""
    async with OwnServer(scene.folder / "data", scene.settings) as server, session() as http:
        account, stop = Account(server.url), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(50 * scene.clients):
                group.create_task(account.client(http, stop))
            await asyncio.sleep(scene.seconds)
            async with session() as other, other.get(f"{server.url}/livez") as answer:
                alive = answer.status == 200
            stop.set()
        await account.settle(http, 2 * scene.settle_s)
        found = await account.compare(http) | {"5xx": sum(count for status, count in account.statuses.items() if status.startswith("5"))}
        row = FaultRow("overload", dict(account.statuses), found, account.slowest_s, ok=not any(found.values()))
        return row.and_also("/livez answered", alive)
