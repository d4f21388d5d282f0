"""Commands to one server over one connection: written when they are made, and answered in their order.

    command ──> bytes on the connection, a future at the end of the line ··· reply ──> the future at its head

A server answers the commands of a connection in the order in which they came, so a reply is told by its place, and a caller who left leaves
its place behind: whatever comes for it is dropped. A reply that its command cannot have says that the order is lost, and ends the
connection: what follows would be anybody's. A server that is a replica by now is left as soon as nothing waits for it. redis-py opens the
connection (address, TLS, login, database) and says what a reply means. Its own way of running commands takes a connection, a timer, a
reading task and a check of health for each, which was most of what a command cost this process; here one timer watches the command that has
waited longest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import BusyLoadingError, InvalidResponse, MasterDownError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

Meaning = Callable[[Any], Any]

_TEXT, _NUMBER, _LIST = (bytes, type(None)), (int,), (list,)
_FORMS: Mapping[Any, tuple[type, ...]] = {
    **dict.fromkeys(("GET", "HGET", "LINDEX"), _TEXT),
    **dict.fromkeys(("EXISTS", "HEXISTS", "PTTL", "PEXPIRE", "UNLINK", "ZREM"), _NUMBER),
    **dict.fromkeys(("EVAL", "EVALSHA", "SCAN", "HSCAN", "HGETALL", "MGET", "HMGET", "ZRANGE"), _LIST),
}
"""What a reply that is no error can be, for commands whose reply is read: every script of this folder returns a list."""

_ELSEWHERE: Mapping[type[Exception], str] = {ReadOnlyError: "READONLY", MasterDownError: "MASTERDOWN", BusyLoadingError: "LOADING"}
"""What a replica answers, and a server that becomes one: its name may lead to another by now."""

_VALUES_FROM = {"MGET": 1, "HMGET": 2}
"""Commands that are answered with a value for each argument from this one on."""


class OneConnection:
    """A client of one server; it connects at its first command, and again after its connection broke.

    Args:
        pool: makes connections; it holds none.
        timeout_s: for connecting where that is needed, a command and its reply together.
    """

    def __init__(self, pool: ConnectionPool, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._meanings: Mapping[Any, Meaning] = Redis(connection_pool=pool).response_callbacks
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None

    def execute_command(self, *args: Any) -> Awaitable[Any]:
        """Returns what gives the reply to one command, in the form that redis-py gives it.

        Raises, when it is awaited:
            ResponseError: the server refused the command; the connection serves on.
            RedisConnectionError: the connection broke; the command may or may not have been run. Or the server is
                a replica, or loads its data: its name may lead to another one by now, so the next command connects anew.
            TimeoutError: the reply did not come in time. The connection is closed, and every other command on it has broken.
        """
        line, until_s = self._line, asyncio.get_running_loop().time() + self._timeout_s
        if line is None or line.closed:
            return self._over_a_new_one(args, until_s)
        return line.ask(args, self._meanings.get(args[0]), until_s)

    async def _over_a_new_one(self, args: tuple[Any, ...], until_s: float) -> Any:
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="redis connect")
            self._connecting.add_done_callback(self._connected)
        # Everybody waits for one connection, and whoever leaves does not take it from the others.
        line = await asyncio.shield(self._connecting)
        if line.closed:
            raise RedisConnectionError("the connection was closed at once")
        return await line.ask(args, self._meanings.get(args[0]), until_s)

    async def _connect(self) -> _Line:
        connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return _Line(connection)

    def _connected(self, task: asyncio.Task[_Line]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._line = task.result()

    def after_sent(self, then: Callable[[], None]) -> None:
        """Calls `then` once all that was sent until now was answered, or its connection broke: at once where nothing waits."""
        if self._line is None:
            then()
        else:
            self._line.after_sent(then)

    async def aclose(self) -> None:
        """Closes the connection once every command on it was answered, those included whose callers have left, or has had its time."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
        line, self._line = self._line, None
        if line is not None:
            await line.aclose()


def _refusal(said: str) -> Exception:
    """Returns the error that a server answered with, as redis-py names it."""
    try:
        error: Exception = BaseParser.parse_error(said)  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001  of some it reads the rest, `MOVED` for one, and raises what it finds there instead
        error = ResponseError(said)
    return error


def _can_have(name: Any, words: int, reply: Any) -> bool:
    """Returns whether a reply can be that of a command of this name and so many words."""
    forms = _FORMS.get(name)
    if forms is None:
        return True
    return type(reply) in forms and (name not in _VALUES_FROM or len(reply) == words - _VALUES_FROM[name])


class _Line(asyncio.Protocol):
    """One open connection, and those who wait for replies on it, first come first.

    Args:
        connection: redis-py's, ready for commands. Its transport is taken over; it is kept because its writer would close with it.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_refusal)
        self._waiting: deque[tuple[asyncio.Future[Any], Meaning | None, float, Any, int]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._asked = 0
        self._afterwards: deque[tuple[int, Callable[[], None]]] = deque()
        self._why: Exception | None = None
        self._demoted = False
        # redis-py has no public way to its transport.
        self._transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        self._transport.set_protocol(self)
        if self._transport.is_closing():  # its end may have been told to the protocol before this one, and be told to nobody again
            self.connection_lost(None)

    @property
    def closed(self) -> bool:
        """Whether it takes no more commands."""
        return self._why is not None or self._demoted or self._transport.is_closing()

    def ask(self, args: tuple[Any, ...], meaning: Meaning | None, until_s: float) -> asyncio.Future[Any]:
        """Sends a command; returns the future of its reply.

        Args:
            args: the command.
            meaning: what redis-py makes of its reply.
            until_s: when it must be there, by the loop's clock; not before that of any earlier command.
        """
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._transport.write(hiredis.pack_command(args))
        self._waiting.append((answer, meaning, until_s, args[0], len(args)))
        self._asked += 1
        if self._watch is None:
            self._watch = self._loop.call_at(until_s, self._look)
        return answer

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._answer(reply)
        except Exception as error:  # noqa: BLE001  no reply, or one that nobody asked for: what follows is anybody's
            self._break(RedisConnectionError(f"the server does not answer in its protocol ({type(error).__name__})"))

    def _answer(self, reply: Any) -> None:
        answer, meaning, _, name, words = self._waiting[0]
        if not isinstance(reply, Exception) and not _can_have(name, words, reply):
            raise InvalidResponse(f"a reply that {name} cannot have")
        self._waiting.popleft()
        if isinstance(reply, Exception) and (said := _ELSEWHERE.get(type(reply))):
            self._demoted = True  # those behind are answered here: what they read may be there
            reply = RedisConnectionError(f"{said} {reply}")
        if self._afterwards:
            self._tell_answered()
        self._tell(answer, meaning, reply)
        if self._demoted and not self._waiting:
            self._break(RedisConnectionError("the server is a replica now, or loads its data"))

    @staticmethod
    def _tell(answer: asyncio.Future[Any], meaning: Meaning | None, reply: Any) -> None:
        if answer.done():  # its caller has left
            return
        if isinstance(reply, Exception):
            answer.set_exception(reply)
            return
        try:
            answer.set_result(reply if meaning is None else meaning(reply))
        except Exception as error:  # noqa: BLE001  whatever redis-py makes of an unexpected reply concerns this caller alone
            answer.set_exception(error)

    def eof_received(self) -> None:
        """Lets the transport close."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(RedisConnectionError(f"the connection was closed ({'by the server' if exc is None else type(exc).__name__})"))
        self._connection._close()  # noqa: SLF001  as its `disconnect` does, which is a coroutine
        if not self._lost.done():
            self._lost.set_result(None)

    def _look(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        until_s = self._waiting[0][2]
        if until_s <= self._loop.time():
            self._break(TimeoutError("no reply within its time"))
        else:
            self._watch = self._loop.call_at(until_s, self._look)

    def _break(self, why: Exception) -> None:
        """Closes the connection; everybody who waits is told why, each by an exception of their own."""
        self._why = self._why or why
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        first = True
        while self._waiting:
            answer = self._waiting.popleft()[0]
            if not answer.done():
                # Those behind one that got no reply may be repeated over another connection; it has had its time.
                told = why if first or not isinstance(why, TimeoutError) else RedisConnectionError("a command before this one got no reply")
                answer.set_exception(type(told)(*told.args))
            first = False
        self._tell_answered()
        self._transport.abort()

    def after_sent(self, then: Callable[[], None]) -> None:
        """See `OneConnection.after_sent`."""
        if self._waiting:
            self._afterwards.append((self._asked, then))
        else:
            then()

    def _tell_answered(self) -> None:
        answered = self._asked - len(self._waiting)
        while self._afterwards and self._afterwards[0][0] <= answered:
            self._afterwards.popleft()[1]()

    async def aclose(self) -> None:
        """Closes the connection once nothing waits on it, and waits until it is."""
        drained = asyncio.Event()
        self.after_sent(drained.set)
        await drained.wait()
        self._break(RedisConnectionError("the connection was closed"))
        await self._lost
