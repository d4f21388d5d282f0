"""Callers that read nothing, or slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from attune.service.http.bounds import Bounds
from attune.service.http.unread import UnreadWatch
from tests.batching.serving import until
from tests.http.served import served

LARGE_GET = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (LARGE_GET, True),
        (3 * LARGE_GET, False),
        (3 * LARGE_GET, True),
        (b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", False),
        (LARGE_GET + b"nonsense\r\n\r\n", False),
    ],
    ids=["half closed", "pipelined", "pipelined and half closed", "to be closed", "refused behind it"],
)
async def test_a_caller_that_reads_nothing_is_cut_off(sent: bytes, end: bool):
    async with served(Bounds(most=64, unread_s=0.2)) as service:
        reader, writer = await service.connect()
        writer.transport.pause_reading()  # the system takes some for it all the same
        writer.write(sent)
        if end:
            writer.write_eof()
        await until(lambda: bool(service.connections))
        await asyncio.sleep(0.5)
        await until(lambda: not service.connections)
        writer.close()
        del reader


class _Loop:
    """Calls what is to be called later when a test says so."""

    def __init__(self) -> None:
        self.later: list[tuple[Callable[..., None], tuple[int, ...]]] = []

    def call_later(self, _seconds: float, call: Callable[..., None], *told: int) -> object:
        self.later.append((call, told))
        return object()

    def passes(self) -> None:
        ((call, told),) = self.later
        self.later.clear()
        call(*told)


class _Buffer:
    def __init__(self) -> None:
        self.left, self.aborted = 0, False

    def get_write_buffer_size(self) -> int:
        return self.left

    def abort(self) -> None:
        self.aborted = True


def test_a_caller_that_reads_slowly_has_as_much_time_again():
    buffer, loop = _Buffer(), _Loop()
    watch = UnreadWatch(buffer, loop, 1.0)  # type: ignore[arg-type]  # what it uses of them
    watch.begin()
    assert not loop.later  # nothing is unread
    buffer.left = 10
    watch.begin()
    watch.begin()
    for buffer.left in (9, 2):
        loop.passes()
        assert not buffer.aborted
    loop.passes()
    assert buffer.aborted
    assert not loop.later


def test_a_caller_that_has_read_everything_is_watched_no_more():
    buffer, loop = _Buffer(), _Loop()
    watch = UnreadWatch(buffer, loop, 1.0)  # type: ignore[arg-type]  # the same
    buffer.left = 10
    watch.begin()
    buffer.left = 0
    loop.passes()
    assert not loop.later
    assert not buffer.aborted
