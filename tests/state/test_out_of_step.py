"""Replies are told by their place: one that its command cannot have says that the places are wrong."""

from __future__ import annotations

import asyncio

import pytest

from attune.service.state.wire import Wire
from tests.state.test_one_connection import answered_by


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    """Returns the words of the next command."""
    words = []
    for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


@pytest.mark.parametrize(
    ("command", "cannot", "can", "read"),
    [
        (("MGET", "a", "b"), b":5\r\n", b"*2\r\n$1\r\nx\r\n$-1\r\n", [b"x", None]),
        (("MGET", "a", "b"), b"*1\r\n$1\r\nx\r\n", b"*2\r\n$1\r\nx\r\n$-1\r\n", [b"x", None]),
        (("HMGET", "h", "a"), b"*2\r\n$-1\r\n$-1\r\n", b"*1\r\n$1\r\nx\r\n", [b"x"]),
        (("EVALSHA", "0" * 40, 0), b"$-1\r\n", b"*1\r\n$4\r\nkept\r\n", [b"kept"]),
        (("GET", "a"), b"*0\r\n", b"$1\r\nx\r\n", b"x"),
        (("PTTL", "a"), b"$1\r\nx\r\n", b":7\r\n", 7),
    ],
)
async def test_a_reply_that_its_command_cannot_have_ends_the_connection_and_both_are_asked_again(
    command: tuple[str, ...], cannot: bytes, can: bytes, read: object
) -> None:
    async def serve(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while words := await read_command(reader):
            writer.write(b"$3\r\ntwo\r\n" if words[0] == b"ECHO" else can if number else cannot)

    async with answered_by(serve) as port:
        wire = Wire(f"redis://127.0.0.1:{port}", max_connections=4, timeout_s=30.0, observe=lambda *_told: None)
        asked = (wire.run("test", lambda words=words: wire.command(*words)) for words in (command, ("ECHO", "two")))
        assert await asyncio.gather(*asked) == [read, b"two"]
        await wire.aclose()
