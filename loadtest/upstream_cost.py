"""CPU time that one answer of an upstream costs this process, streamed and in one piece, with one client and with eight.

    python -m loadtest.upstream_cost [--answers 400] [--pieces 20]

The upstream runs in a process of its own, so that its time is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection

import uvloop

from attune.service.members.member import ChatTurn, GenerationRequest
from attune.service.members.openai import OpenAIMember
from attune.service.members.roster import Roster
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from loadtest.upstream import Turn, running_upstream


def serve(ready: Connection, pieces: int) -> None:
    async def script(turn: Turn) -> None:
        words = [f"word{index} " for index in range(pieces)]
        if not turn.body.get("stream"):
            return await turn.whole("".join(words), "stop", (7, pieces))
        await turn.head()
        for word in words:
            await turn.text(word)
            await asyncio.sleep(0.0005)  # a write of its own for each, as a model does
        return await turn.finish()

    async def main() -> None:
        async with running_upstream() as upstream:
            upstream.answers(script)
            ready.send(upstream.base_url)
            await asyncio.Event().wait()

    asyncio.run(main())


async def measure(base_url: str, answers: int, clients: int, *, streamed: bool) -> float:
    """Milliseconds of CPU an answer."""
    async with UpstreamPool(environ={}) as pool:
        roster = Roster({"member": OpenAIMember("member", OpenAISpec(base_url=base_url, model="m"), pool)})
        request = GenerationRequest((ChatTurn("user", "Hello there"),), 512, streamed=streamed)

        async def client(count: int) -> None:
            for _ in range(count):
                async for _ in roster.stream(["member"], request, asyncio.get_running_loop().time() + 60.0):
                    pass

        await client(20)
        began_s = time.process_time()
        await asyncio.gather(*(client(answers // clients) for _ in range(clients)))
        return 1000 * (time.process_time() - began_s) / (answers // clients * clients)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=400)
    parser.add_argument("--pieces", type=int, default=20)
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, options.pieces), daemon=True)
    server.start()
    base_url = here.recv()
    print("clients  streamed  in one piece   (ms of CPU an answer)")
    for clients in (1, 8):
        streamed, whole = (uvloop.run(measure(base_url, options.answers, clients, streamed=kind)) for kind in (True, False))
        print(f"{clients:7}  {streamed:8.2f}  {whole:12.2f}")
    server.terminate()


if __name__ == "__main__":
    main()
