"""One connection for all commands: replies reach those who asked, whatever becomes of caller, connection and server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import ConnectionPool, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from attune.service.errors import StoreUnavailable
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.one_connection import OneConnection
from attune.service.state.wire import Wire

Served = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answered_by(serve: Served) -> AsyncIterator[int]:
    """Yields the port of a server that serves its connections as told, the number of each first; it knows no Redis."""
    count, writers = 0, []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        number, count = count, count + 1
        writers.append(writer)
        try:
            await serve(number, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for writer in writers:
            writer.close()


async def read_echo(reader: asyncio.StreamReader) -> bytes:
    """Returns the argument of the next `ECHO`."""
    lines = [await reader.readuntil(b"\r\n") for _ in range(5)]
    assert lines[:3] == [b"*2\r\n", b"$4\r\n", b"ECHO\r\n"]
    return lines[4][:-2]


def client_of(port: int, timeout_s: float = 30.0) -> OneConnection:
    pool = ConnectionPool(host="127.0.0.1", port=port, protocol=2, driver_info=None, socket_timeout=None)
    return OneConnection(pool, timeout_s)


def client_at(server: EmbeddedRedis, timeout_s: float = 30.0) -> OneConnection:
    return OneConnection(ConnectionPool.from_url(server.url, protocol=2, socket_timeout=None), timeout_s)


async def test_whoever_asks_gets_the_reply_to_their_own_command_whoever_leaves(server: EmbeddedRedis) -> None:
    client, chance = client_at(server), random.Random(3)

    async def ask(number: int) -> None:
        size = chance.choice((1, 100, 70_000))
        text = f"{number} " * size
        asked = asyncio.ensure_future(client.execute_command("ECHO", text))
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.4:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        else:
            assert await asked == text.encode()

    await asyncio.gather(*map(ask, range(300)))
    assert await client.execute_command("CLIENT", "LIST", "ID", await client.execute_command("CLIENT", "ID"))
    await client.aclose()


async def test_all_commands_share_a_connection_those_of_the_start_too(server: EmbeddedRedis) -> None:
    client = client_at(server)
    ids = await asyncio.gather(*(client.execute_command("CLIENT", "ID") for _ in range(20)))
    assert len(set(ids)) == 1
    await client.aclose()


async def test_a_refused_command_is_told_as_redis_py_tells_it_and_its_neighbours_are_answered(server: EmbeddedRedis) -> None:
    client = client_at(server)
    await client.execute_command("PING")
    before, refused, unknown, after = await asyncio.gather(
        client.execute_command("ECHO", "a"),
        client.execute_command("ECHO"),
        client.execute_command("EVALSHA", "0" * 40, 0),
        client.execute_command("INFO", "server"),
        return_exceptions=True,
    )
    assert before == b"a"
    assert type(refused) is ResponseError
    assert type(unknown) is NoScriptError
    assert isinstance(after, dict)
    assert after["run_id"]
    await client.aclose()


@pytest.mark.parametrize("said", ["MOVED nowhere", "ASK", "", "ERR \udcff", "LOADING", "NOPERM x", "CROSSSLOT"])
async def test_whatever_a_server_refuses_with_reaches_who_asked_and_nobody_else(server: EmbeddedRedis, said: str) -> None:
    client = client_at(server)
    refusing = ("EVAL", b"return redis.error_reply('%b')" % said.encode("utf-8", "surrogateescape"), 0)
    asked = [("CLIENT", "ID"), refusing, ("CLIENT", "ID")]
    number, refused, after = await asyncio.gather(*(client.execute_command(*each) for each in asked), return_exceptions=True)
    assert isinstance(refused, RedisError)
    assert number == after  # over the same connection, which a refusal does not end
    await client.aclose()


async def test_one_who_leaves_while_it_connects_takes_nothing_from_the_others(server: EmbeddedRedis) -> None:
    client = client_at(server)
    leaving = asyncio.ensure_future(client.execute_command("ECHO", "leaving"))
    staying = asyncio.ensure_future(client.execute_command("ECHO", "staying"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == b"staying"
    assert leaving.cancelled()
    await client.aclose()


async def test_what_a_lost_connection_leaves_open_fails_and_the_next_command_connects_again() -> None:
    async def serve(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await read_echo(reader)
        if number == 0:
            await read_echo(reader)
            writer.write(b"$%d\r\n%b\r\n" % (len(first), first))
            await writer.drain()
            return
        writer.write(b"$%d\r\n%b\r\n" % (len(first), first))
        await reader.read()

    async with answered_by(serve) as port:
        client = client_of(port)
        first, second = await asyncio.gather(*(client.execute_command("ECHO", text) for text in ("one", "two")), return_exceptions=True)
        assert first == b"one"
        assert isinstance(second, RedisConnectionError)
        assert await client.execute_command("ECHO", "three") == b"three"
        await client.aclose()


async def test_a_command_without_a_reply_ends_in_time_and_those_behind_it_are_answered_over_another_connection() -> None:
    async def serve(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while text := await read_echo(reader):
            if number:
                writer.write(b"$%d\r\n%b\r\n" % (len(text), text))

    async with answered_by(serve) as port:
        wire = Wire(f"redis://127.0.0.1:{port}", max_connections=4, timeout_s=1.0, observe=lambda *_told: None)
        answers = (wire.run("echo", lambda text=text: wire.command("ECHO", text)) for text in ("one", "two", "three"))
        first, *others = await asyncio.gather(*answers, return_exceptions=True)
        assert isinstance(first, StoreUnavailable)
        assert "TimeoutError" in first.detail
        assert others == [b"two", b"three"]
        await wire.aclose()


@pytest.mark.parametrize("said", [b"+one\r\n+nobody asked\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_server_that_says_what_nobody_asked_for_is_left(said: bytes) -> None:
    left = asyncio.Event()

    async def serve(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = await read_echo(reader)
        writer.write(said if number == 0 else b"$%d\r\n%b\r\n" % (len(text), text))
        await writer.drain()
        await reader.read()
        left.set()

    async with answered_by(serve) as port:
        client = client_of(port)
        await asyncio.gather(client.execute_command("ECHO", "one"), return_exceptions=True)
        async with asyncio.timeout(30):
            await left.wait()
        assert await client.execute_command("ECHO", "two") == b"two"
        await client.aclose()


async def test_closing_waits_for_replies_and_no_longer_than_their_time() -> None:
    asked, ended, reply = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = await read_echo(reader)
        asked.set()
        await reply.wait()
        writer.write(b"$%d\r\n%b\r\n" % (len(text), text))
        while await reader.read(1000):
            pass
        ended.set()

    async with asyncio.timeout(30), answered_by(serve) as port:
        client = client_of(port, 1.0)
        staying, leaving = (asyncio.ensure_future(client.execute_command("ECHO", text)) for text in ("one", "two"))
        await asked.wait()
        leaving.cancel()
        closing = asyncio.ensure_future(client.aclose())
        await asyncio.sleep(0.01)
        assert not closing.done()
        reply.set()
        assert await staying == b"one"
        assert not closing.done()  # the reply to whoever left is still to come, and never does
        await ended.wait()
        await closing


async def test_a_closed_client_leaves_no_connection() -> None:
    ended = asyncio.Event()

    async def serve(_number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = await read_echo(reader)
        writer.write(b"$%d\r\n%b\r\n" % (len(text), text))
        assert await reader.read() == b""
        ended.set()

    async with asyncio.timeout(30), answered_by(serve) as port:
        client = client_of(port)
        assert await client.execute_command("ECHO", "one") == b"one"
        await client.aclose()
        await ended.wait()


async def test_a_command_whose_caller_left_holds_its_place_until_it_is_answered() -> None:
    asked, began, reply = list[bytes](), asyncio.Event(), asyncio.Event()

    async def serve(_number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while text := await read_echo(reader):
            asked.append(text)
            began.set()
            await reply.wait()
            writer.write(b"$%d\r\n%b\r\n" % (len(text), text))

    async with asyncio.timeout(60), answered_by(serve) as port:
        wire = Wire(f"redis://127.0.0.1:{port}", max_connections=3, timeout_s=30.0, observe=lambda *_told: None)
        for number in range(20):
            leaving = asyncio.ensure_future(wire.run("echo", lambda number=number: wire.command("ECHO", str(number))))
            for _ in range(5):
                await asyncio.sleep(0)
            await began.wait()
            leaving.cancel()
        staying = [asyncio.ensure_future(wire.run("echo", lambda text=text: wire.command("ECHO", text))) for text in "abcd"]
        reply.set()
        assert await asyncio.gather(*staying) == [b"a", b"b", b"c", b"d"]
        assert asked == [b"0", b"1", b"2", b"a", b"b", b"c", b"d"]
        await wire.aclose()


async def test_who_leaves_while_it_connects_takes_no_place_for_good() -> None:
    async def serve(_number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while text := await read_echo(reader):
            writer.write(b"$%d\r\n%b\r\n" % (len(text), text))

    async with asyncio.timeout(60), answered_by(serve) as port:
        wire = Wire(f"redis://127.0.0.1:{port}", max_connections=1, timeout_s=30.0, observe=lambda *_told: None)
        for turns in range(6):
            leaving = asyncio.ensure_future(wire.run("echo", lambda: wire.command("ECHO", "leaving")))
            for _ in range(turns):
                await asyncio.sleep(0)
            leaving.cancel()
        assert await wire.run("echo", lambda: wire.command("ECHO", "one")) == b"one"
        await wire.aclose()


async def test_everybody_who_closes_waits_for_what_is_under_way(server: EmbeddedRedis) -> None:
    wire, go = Wire(server.url, max_connections=1, timeout_s=30.0, observe=lambda *_told: None), asyncio.Event()

    async def work() -> bytes:
        await go.wait()
        answer: bytes = await wire.command("ECHO", "one")
        return answer

    running = asyncio.ensure_future(wire.run("echo", work))
    await asyncio.sleep(0)
    closing = [asyncio.ensure_future(wire.aclose()) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert not any(each.done() for each in closing)
    go.set()
    async with asyncio.timeout(30):
        assert await running == b"one"
        await asyncio.gather(*closing)


@pytest.mark.parametrize("url", ["redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/main", "redis://127.0.0.1:1"])
async def test_what_was_let_in_before_the_close_ends_before_it(url: str) -> None:
    wire, told = Wire(url, max_connections=1, timeout_s=30.0, observe=lambda *_told: None), list[str]()

    async def work() -> None:
        await asyncio.sleep(0)
        told.append("ended")

    async def close() -> None:
        await wire.aclose()
        told.append("closed")

    await asyncio.gather(wire.run("work", work), close())
    assert told == ["ended", "closed"]


async def test_no_field_of_the_url_brings_messages_that_answer_nothing() -> None:
    async def serve(_number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while text := await read_echo(reader):  # `HELLO 3`, after which a server may say what nobody asked for, is no `ECHO`
            writer.write(b"$%d\r\n%b\r\n" % (len(text), text))

    async with answered_by(serve) as port:
        wire = Wire(f"redis://127.0.0.1:{port}?protocol=3", max_connections=4, timeout_s=30.0, observe=lambda *_told: None)
        assert await wire.run("echo", lambda: wire.command("ECHO", "one")) == b"one"
        await wire.aclose()


async def test_a_connection_that_broke_is_let_go(server: EmbeddedRedis, recwarn: pytest.WarningsRecorder) -> None:
    client = client_at(server)
    for _ in range(3):
        number = await client.execute_command("CLIENT", "ID")
        with contextlib.suppress(RedisConnectionError):
            await client.execute_command("CLIENT", "KILL", "ID", number, "SKIPME", "no")
            await client.execute_command("CLIENT", "ID")
    await client.aclose()
    gc.collect()
    assert [str(warning.message) for warning in recwarn if issubclass(warning.category, ResourceWarning)] == []


async def test_a_connection_that_ended_before_it_was_taken_over_can_be_closed(server: EmbeddedRedis) -> None:
    class Ended(UnixDomainSocketConnection):
        async def connect(self) -> None:
            await super().connect()
            self._writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    pool = ConnectionPool.from_url(server.url, protocol=2, socket_timeout=None)
    pool.connection_class = Ended
    client = OneConnection(pool, 30.0)
    with pytest.raises(RedisConnectionError):
        await client.execute_command("PING")
    async with asyncio.timeout(30):
        await client.aclose()
