"""What an answer's head and body become on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from attune.service.http.answer_writer import AnswerWriter

HEAD, INTERIM = b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"


class RecordedTransport(asyncio.Transport):
    """Keeps each write as one segment."""

    def __init__(self) -> None:
        super().__init__()
        self.segments: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.segments.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.segments.append(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def writer_on(transport: RecordedTransport) -> AnswerWriter:
    return AnswerWriter(transport, asyncio.get_running_loop(), transport.close)


async def test_a_head_and_its_body_are_one_segment_and_later_pieces_are_written_at_once() -> None:
    transport = RecordedTransport()
    writer = writer_on(transport)
    for data in (HEAD, b"first", b"second"):
        writer.write(data)
    assert transport.segments == [HEAD + b"first", b"second"]
    await asyncio.sleep(0)
    writer.write(HEAD)
    writer.write(b"")
    assert transport.segments == [HEAD + b"first", b"second", HEAD]


async def test_a_head_whose_body_is_still_to_come_is_written_in_the_same_turn() -> None:
    transport = RecordedTransport()
    writer = writer_on(transport)
    writer.write(HEAD)
    assert transport.segments == []
    await asyncio.sleep(0)
    assert transport.segments == [HEAD]
    writer.write(b"body")
    assert transport.segments == [HEAD, b"body"]


async def test_an_interim_answer_comes_before_the_head() -> None:
    transport = RecordedTransport()
    writer = writer_on(transport)
    writer.write(INTERIM)
    writer.write(HEAD)
    writer.write(b"body")
    assert b"".join(transport.segments) == INTERIM + HEAD + b"body"
    await asyncio.sleep(0)
    assert b"".join(transport.segments) == INTERIM + HEAD + b"body"


async def test_a_head_without_a_body_is_on_its_way_before_the_connection_closes() -> None:
    transport = RecordedTransport()
    writer = writer_on(transport)
    writer.write(HEAD)
    writer.close()
    assert (transport.segments, transport.closed, writer.asked) == ([HEAD], True, True)
    await asyncio.sleep(0)
    assert transport.segments == [HEAD]


async def test_nothing_is_written_to_a_connection_that_was_lost_meanwhile() -> None:
    transport = RecordedTransport()
    writer = writer_on(transport)
    writer.write(HEAD)
    transport.closed = True
    await asyncio.sleep(0)
    assert transport.segments == []
    for data in (HEAD, b"body", b"more"):
        writer.write(data)
    assert transport.segments == []


async def test_a_head_that_is_flushed_is_written_once() -> None:
    transport = RecordedTransport()
    writer = writer_on(transport)
    writer.write(HEAD)
    writer.flush()
    assert transport.segments == [HEAD]
    await asyncio.sleep(0)
    writer.write(HEAD)
    writer.write(b"body")
    assert transport.segments == [HEAD, HEAD + b"body"]
