"""Connections that wait for their next request: how long they are kept, and which of them make room for others."""

from __future__ import annotations

import asyncio
import time

from attune.service.http.bounds import Bounds
from tests.batching.serving import until
from tests.http.served import OK, served

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


async def test_idle_connections_make_room_for_new_ones():
    async with served(Bounds(most=8, kept_free=2)) as service:
        idle = [await service.connect() for _ in range(6)]
        for reader, writer in idle:
            writer.write(GET)
            assert (await reader.read(len(OK))) == OK
        for _ in range(10):
            assert (await service.told(LAST_GET)).startswith(OK)
        for _, writer in idle:
            writer.close()


async def test_of_idle_connections_the_one_that_rests_longest_makes_room():
    async with served(Bounds(most=8, kept_free=2)) as service:
        idle = [await service.connect() for _ in range(6)]
        for turn in (0, 1):  # the first one asks once more after the others
            for reader, writer in idle[: 6 - 5 * turn]:
                writer.write(GET)
                assert await reader.readuntil(b"fine")
        for longest in idle[1:4]:
            assert (await service.told(LAST_GET)).startswith(OK)
            idle.append(await service.connect())
            assert await asyncio.wait_for(longest[0].read(), 5) == b""
            assert not any(reader.at_eof() for reader, _ in (idle[0], *idle[idle.index(longest) + 1 :]))
            await until(lambda: len(service.connections) == 6)
        for _, writer in idle:
            writer.close()


async def test_an_idle_connection_is_kept_as_long_as_the_setting_says():
    async with served(Bounds(most=64), keep_alive_s=1) as service:
        began_s = time.monotonic()
        assert (await service.told(GET)).startswith(OK)  # read until the server closes
        assert time.monotonic() - began_s >= 1
