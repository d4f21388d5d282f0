"""How each command goes to Redis: so many at once, finished whatever its caller does, repeated once, its failure translated.

    caller ──> permit ──> command ──> reply or StoreUnavailable
    reads  ──> gathered until the loop has gone round ──> one MGET ──> each its own records

A caller may leave at any await. Over one connection (`OneConnection`) that leaves nothing behind. redis-py's pools, which serve Sentinel
and clusters, would take the connection back with a reply unread and hand that to the next caller (redis-py #2624, #2665): there a task
awaits the command to its end. Exceptions of redis-py are translated here and nowhere else; what a command means is not known here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from attune.service.errors import AttuneError, Overloaded, StoreUnavailable
from attune.service.state.connect import connect
from attune.service.state.scripts import Script

T = TypeVar("T")

KEYS_AT_ONCE = 512
"""A command that reads is not longer than this, unless one read alone is."""


class Wire:
    """Commands to one Redis, Sentinel or Cluster.

    Args:
        url: see `service.state.connect`.
        max_connections: commands in flight at most; more wait for `timeout_s`, then fail.
        timeout_s: for a permit, for connecting, and for each reply.
        observe: told of every operation: name, seconds, whether it was answered.
    """

    def __init__(self, url: str, *, max_connections: int, timeout_s: float, observe: Callable[[str, float, bool], None]) -> None:
        self._connected = connect(url, max_connections=max_connections, timeout_s=timeout_s)
        self._permits = asyncio.Semaphore(max_connections)
        self._max_connections = max_connections
        self._timeout_s = timeout_s
        self._observe = observe
        self._tasks: set[asyncio.Task[Any]] = set()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._closed = False

    @property
    def where(self) -> str:
        """The server, as messages may name it."""
        return self._connected.where

    @property
    def clustered(self) -> bool:
        """Whether keys of one command must be on one slot."""
        return self._connected.clustered

    async def aclose(self) -> None:
        """Waits for commands under way, those included whose callers have left, and closes every connection."""
        self._closed = True
        if self._under_way:
            self._idle.clear()
            await self._idle.wait()
        await self._connected.aclose()

    async def run(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Returns what `work` returns.

        A caller who leaves leaves its commands to the server: one that was sent is run, and holds its permit until it is answered. Work of
        several commands that must not end between two of them needs a task of its own (`Runtime.finish`).

        Args:
            operation: its name for observation and messages.
            work: sends commands through `command` and `script`.

        Raises:
            Overloaded: no permit came free in time; nothing was sent.
            StoreUnavailable: the store is closed, or Redis did not answer or refused.
        """
        await self._admitted()
        if self._connected.after_sent is not None:
            return await self._owned(operation, work)
        task = asyncio.create_task(self._owned(operation, work), name=f"redis {operation}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(heard)
        return await asyncio.shield(task)

    async def _admitted(self) -> None:
        """Takes a permit and is under way, which `_owned` ends; its caller starts it without an await between."""
        self._check_open()
        await self._permit()
        try:
            self._check_open()  # it may have been closed while this caller waited, and its connections would open again
        except StoreUnavailable:
            self._permits.release()
            raise
        self._under_way += 1

    async def _permit(self) -> None:
        """Takes a permit. A wait is observed as `permit`, apart from operations: it is this process that is busy, not Redis."""
        if not self._permits.locked():
            await self._permits.acquire()
            return
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._permits.acquire()
        except TimeoutError as error:
            self._observe("permit", time.perf_counter() - began, False)
            raise Overloaded(
                f"{self._max_connections} of {self._max_connections} places at the store were taken for {self._timeout_s:g} s",
                self._timeout_s,
            ) from error
        self._observe("permit", time.perf_counter() - began, True)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"the store at {self._connected.where} is closed")

    async def _owned(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        began, answered = time.perf_counter(), False
        left = False  # by its caller, which says nothing of the store
        try:
            result = await work()
            answered = True
        except asyncio.CancelledError:
            left = True
            raise
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"Redis at {self._connected.where} did not answer {operation}: {_reason(error)}") from error
        finally:
            if left and self._connected.after_sent is not None:
                self._connected.after_sent(self._permits.release)
            else:
                self._permits.release()
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
            if not left:
                self._observe(operation, time.perf_counter() - began, answered)
        return result

    async def command(self, *args: Any) -> Any:
        """Returns the reply to one command; sent once more, over another connection, if the first broke.

        A server that restarted or was demoted costs nobody a request that way. Every command that is sent here may be repeated:
        it leaves the same state the second time, and where the answer matters (`add_comparison`, `take_back`) the script knows the
        request by its token and gives the answer that was lost. Both times together end within the limit, whatever hangs.
        """
        if self._connected.limit_s is None:
            return await self._sent(args)
        async with asyncio.timeout(self._connected.limit_s):
            return await self._sent(args)

    async def _sent(self, args: tuple[Any, ...]) -> Any:
        try:
            return await self._connected.client.execute_command(*args)
        except RedisConnectionError:
            return await self._connected.client.execute_command(*args)

    async def scan(self, pattern: str, place: tuple[int, int], count: int) -> tuple[list[bytes], tuple[int, int] | None]:
        """Returns some names of keys that match, and the place to go on from: number of the node and its cursor; None after the last.

        A cluster is gone through one primary after the other, in the order of their names.
        """
        number, cursor = place
        arguments = ("SCAN", cursor, "MATCH", pattern, "COUNT", count)
        if not self.clustered:
            following, names = await self.command(*arguments)
            return names, (0, int(following)) if int(following) else None
        cluster: Any = self._connected.client
        async with asyncio.timeout(self._connected.limit_s):
            await cluster.initialize()
            nodes = sorted(cluster.get_primaries(), key=lambda node: str(node.name))
            if number >= len(nodes):
                return [], None
            cursors, names = await cluster.execute_command(*arguments, target_nodes=nodes[number])
        following = int(next(iter(cursors.values())))
        if following:
            return names, (number, following)
        return names, (number + 1, 0) if number + 1 < len(nodes) else None

    async def info(self, section: str) -> list[Mapping[str, Any]]:
        """Returns what each primary tells in this section of INFO; nothing where the server refuses the question.

        Managed servers and narrow rights refuse it; that is no failure of the store, and is not counted as one.
        """
        cluster: Any = self._connected.client
        try:
            if not self.clustered:
                return [await self.command("INFO", section)]
            async with asyncio.timeout(self._connected.limit_s):
                await cluster.initialize()
                asked = [cluster.execute_command("INFO", section, target_nodes=node) for node in cluster.get_primaries()]
                return list(await asyncio.gather(*asked))
        except ResponseError:
            return []

    async def script(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> list[Any]:
        result: list[Any] = await script.run(self.command, keys, arguments)
        return result


def heard(task: asyncio.Task[Any]) -> None:
    """Takes note of how a task ended that several may wait for: where all of them have left, nobody else asks for its failure."""
    if not task.cancelled():
        task.exception()


class Reads:
    """Reads of strings that are asked for in one turn of the event loop, as one command.

    On a cluster, where one command reaches one slot, each read is a command of its own.

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
            given = iter(records)
            each = [list(islice(given, len(wanted))) for wanted, _ in gathered]
        except Exception as error:  # noqa: BLE001  a defect too concerns those who asked: nobody else awaits this task
            for _, answer in gathered:
                if not answer.done():  # its caller may have left
                    answer.set_exception(type(error)(error.detail) if isinstance(error, AttuneError) else error)
            return
        except BaseException:
            for _, answer in gathered:
                answer.cancel()
            raise
        for (_, answer), found in zip(gathered, each, strict=True):
            if not answer.done():
                answer.set_result(found)


def _reason(error: BaseException) -> str:
    """Returns the kind of an error and, for a reply, its code: messages of Redis can quote keys and values."""
    words = str(error).split(maxsplit=1)
    code = words[0] if words and words[0].isupper() and words[0].isalpha() else ""
    return f"{type(error).__name__} {code}".rstrip()
