"""Writes that are acknowledged only if the server has handed them to the kernel, and what became of the last one.

    write ──> room? ──> script ──> INFO ──> same server as before, last write well? ──> acknowledged
                                      └ one question for all writes that end in one turn of the loop

A server writes its file before it replies (under `everysec` unless its disk stalls), but replies all the same where that write fails: a
full disk, a quota, an input or output error. Asked afterwards, it says so. A server that died between reply and question says nothing of
what the one before it answered, so the write is made again: every script knows its request and gives the same answer. `WAITAOF` would ask
in the same round trip, and answers under `appendfsync always` alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from attune.service.errors import StoreUnavailable
from attune.service.state.scripts import LAST_WRITE
from attune.service.state.wire import Wire, heard

_log = structlog.get_logger(__name__)
T = TypeVar("T")

_TRIES = 3


@dataclass(frozen=True, slots=True)
class WriteHealth:
    """What became of the last write: whether it was acknowledged, how many seconds ago, and why not."""

    ok: bool
    age_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Told:
    run: bytes | None  # None where it does not say
    wrote: bool


class Durable:
    """Makes writes through a wire.

    Args:
        wire: to Redis.
        ask: whether to ask after every write if it is in the kernel.
        must_tell: whether a write counts only if that is known, as of a server that Attune runs. Another one may refuse to say, or be
            several behind one address: then it is not asked any more.
        no_room: says why nothing should be written now, or None.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        ask: bool,
        must_tell: bool = True,
        no_room: Callable[[], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._ask = ask
        self._must_tell = must_tell
        self._no_room = no_room or (lambda: None)
        self._clock = clock
        self._run: bytes | None = None
        self._asking: asyncio.Task[_Told] | None = None
        self._last: tuple[bool, float, str] | None = None

    @property
    def health(self) -> WriteHealth | None:
        """What became of the last write of this process; None before the first."""
        if self._last is None:
            return None
        ok, at_s, reason = self._last
        return WriteHealth(ok, self._clock() - at_s, reason)

    async def write(self, operation: str, work: Callable[[], Awaitable[T]], *, twice: bool = True, ask: bool = True) -> T:
        """Returns what `work` returns, once it is known to be in the kernel where that is asked for.

        Args:
            operation: its name for observation and messages.
            work: sends commands.
            twice: whether it may be sent again: whether a second time changes nothing and answers the same.
            ask: whether to wait for the server's word about its file. Without it a write is lost only if it is the one that meets the end
                of a disk: a server whose last write failed refuses those that come after.

        Raises:
            StoreUnavailable: it is not acknowledged; it may or may not have happened.
            Overloaded: see `Wire.run`; this says nothing of the store and does not count as a failed write.
        """
        try:
            result = await self._written(operation, work, twice, ask)
        except StoreUnavailable as error:
            self._last = False, self._clock(), error.detail
            raise
        self._last = True, self._clock(), ""
        return result

    async def _written(self, operation: str, work: Callable[[], Awaitable[T]], twice: bool, ask: bool) -> T:  # noqa: FBT001 - passed on
        reason = self._no_room()
        if reason is not None:
            raise StoreUnavailable(f"the store has no room: {reason}")
        if not (ask and self._ask):
            return await self._wire.run(operation, work)
        tries = _TRIES if twice else 1
        for left in reversed(range(tries)):
            before = self._run or (await self._told()).run
            result = await self._wire.run(operation, work)
            told = await self._told()
            if not told.wrote:
                raise StoreUnavailable(f"Redis at {self._wire.where} could not write its file, so {operation} is not acknowledged")
            if told.run == before or told.run is None:
                return result
            if not left and twice and not self._must_tell:
                self._ask_no_more("several processes answer")
                return result
        raise StoreUnavailable(f"Redis at {self._wire.where} was started again while {operation} was written")

    async def _told(self) -> _Told:
        """Returns what the server says from now on; callers of one turn of the loop share a question."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._question(), name="redis confirm")
            self._asking.add_done_callback(heard)
        return await asyncio.shield(self._asking)

    async def _question(self) -> _Told:
        self._asking = None  # who comes later has written later, and needs a question of its own
        run, status = await self._wire.run("confirm", lambda: self._wire.script(LAST_WRITE, (), ()))
        if status == b"untold" and not self._must_tell:
            self._ask_no_more("INFO is refused, or does not say")
            return _Told(None, wrote=True)
        self._run = bytes(run)
        return _Told(self._run, status in {b"ok", b"off"})

    def _ask_no_more(self, reason: str) -> None:
        if self._ask:
            _log.info("the store does not tell whether its file was written", store=self._wire.where, reason=reason)
        self._ask = False
