"""Reads that are asked for in one turn of the event loop go to Redis as one command.

    read ─┐
    read ─┼─ names of keys, gathered until the loop has gone round ──> one MGET ──> each its own records
    read ─┘

On a cluster, where one command reaches one slot, each read is a command of its own. What a record means is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from attune.service.errors import AttuneError
from attune.service.state.wire import Wire

KEYS_AT_ONCE = 512
"""A command is not longer than this, unless one read alone is."""


class Reads:
    """Gathers reads of strings.

    Args:
        wire: to Redis.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waiting: list[tuple[Sequence[str], asyncio.Future[list[bytes | None]]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def get(self, names: Sequence[str]) -> list[bytes | None]:
        """Returns the string of each key, None where there is none.

        Raises:
            StoreUnavailable, Overloaded: see `Wire.run`.
        """
        if self._wire.clustered:
            return await self._wire.run("read", lambda: self._wire.command("MGET", *names))
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._send)
        answer: asyncio.Future[list[bytes | None]] = loop.create_future()
        self._waiting.append((names, answer))
        return await answer

    def _send(self) -> None:
        gathered, self._waiting = self._waiting, []
        while gathered:
            size = many = 0
            while many < len(gathered) and (not many or size + len(gathered[many][0]) <= KEYS_AT_ONCE):
                size += len(gathered[many][0])
                many += 1
            task = asyncio.create_task(self._fetch(gathered[:many]), name="redis reads")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            gathered = gathered[many:]

    async def _fetch(self, gathered: Sequence[tuple[Sequence[str], asyncio.Future[list[bytes | None]]]]) -> None:
        names = [name for wanted, _ in gathered for name in wanted]
        try:
            records: list[bytes | None] = await self._wire.run("read", lambda: self._wire.command("MGET", *names))
        except AttuneError as error:
            for _, answer in gathered:
                if not answer.done():  # its caller may have left
                    answer.set_exception(type(error)(error.detail))
            return
        except BaseException:
            for _, answer in gathered:
                answer.cancel()
            raise
        at = 0
        for wanted, answer in gathered:
            if not answer.done():
                answer.set_result(records[at : at + len(wanted)])
            at += len(wanted)
