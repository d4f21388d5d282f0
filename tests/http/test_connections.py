"""Connections over real sockets: what a stranger may send and hold open, and that every answer is read."""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest

from attune.service.http.bounds import Bounds
from attune.service.http.refusals import Refusals, Thinned
from attune.service.observe.metrics import Metrics
from tests.batching.serving import until
from tests.http.served import OK, served

ROOMY = Bounds(most=64, kept_free=4)
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


def without_dates(answer: bytes) -> bytes:
    return re.sub(rb"date: [^\r]*\r\n", b"", answer)


# --- heads ------------------------------------------------------------------------------------------------------------


async def test_a_head_without_end_is_431_after_its_bound_and_costs_no_more():
    async with served(Bounds(most=64, head_bytes=32_768, linger_bytes=100_000)) as service:
        _, writer = await service.connect()
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        sent = 0
        try:
            while sent < 50_000_000:
                writer.write(b"a" * 65_536)
                await writer.drain()
                sent += 65_536
        except ConnectionError:
            pass
        assert sent < 20_000_000  # what socket buffers hold beyond the 100,000 bytes that are dropped
        assert service.refused == [("head-too-large", "127.0.0.1")]
        assert (await service.told(LAST_GET)).startswith(OK)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(5_000)) + b"\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"a" * 1_000_000 + b"\r\nx\r\n0\r\n\r\n",
    ],
    ids=["one header", "many headers", "the path", "a trailer", "a chunk's extension"],
)
async def test_whatever_the_parser_gathers_before_a_request_is_bounded(head: bytes):
    async with served(ROOMY) as service:
        answer = await service.told(head)
        assert not answer.startswith(OK)
        assert [why for why, _ in service.refused] == ["head-too-large"]


async def test_a_large_body_right_behind_its_head_is_no_large_head():
    async with served(ROOMY) as service:
        size = 1_000_000
        head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % size
        assert (await service.told(head + b"a" * size)).startswith(OK)


async def test_a_body_in_chunks_of_one_byte_is_read():
    async with served(ROOMY) as service:
        head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        assert (await service.told(head + b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n")).startswith(OK)


async def test_a_head_that_is_not_completed_in_time_is_408_and_closed():
    async with served(Bounds(most=64, head_s=0.2)) as service:
        answer = await service.told(b"GET / HTTP/1.1\r\nx: ")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"head-too-slow" in answer


async def test_a_second_request_on_a_kept_connection_has_the_same_time_for_its_head():
    async with served(Bounds(most=64, head_s=0.2)) as service:
        answer = await service.told(GET + b"GET / HTTP/1.1\r\nx: ")
        assert answer.startswith(OK)
        assert b"HTTP/1.1 408 " in answer


async def test_a_head_that_begins_in_the_piece_that_ends_a_body_has_the_same_time():
    async with served(Bounds(most=64, head_s=0.2)) as service:
        reader, writer = await service.connect()
        writer.write(b"POST /heard HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhe")
        await asyncio.sleep(0.05)
        writer.write(b"lloGET / HTTP/1.1\r\nx: ")
        answer = await reader.read()
        assert answer.startswith(OK)
        assert b"HTTP/1.1 408 " in answer
        writer.close()


async def test_a_connection_that_sends_nothing_is_closed():
    async with served(Bounds(most=64, head_s=0.1)) as service:
        assert await service.told(b"") == b""


async def test_what_is_no_http_is_400_and_told_with_its_address():
    async with served(ROOMY) as service:
        assert (await service.told(b"\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert service.refused == [("malformed", "127.0.0.1")]


def test_refusals_are_counted_each_and_logged_once_a_second(capsys):
    now_s = 0.0
    metrics = Metrics()
    refusals = Refusals(metrics, lambda: now_s)
    for _ in range(500):
        refusals("malformed", "10.0.0.1")
    now_s = 1.0
    refusals("malformed", "10.0.0.2")
    lines = [line for line in capsys.readouterr().out.splitlines() if "connection refused" in line]
    assert len(lines) == 2
    assert "10.0.0.2" in lines[1]
    assert "since_last_line=500" in lines[1]
    assert b'attune_connections_refused_total{reason="malformed"} 501.0' in metrics.render()[0]


# --- room -------------------------------------------------------------------------------------------------------------


async def test_half_open_heads_leave_room_for_health_checks():
    async with served(Bounds(most=20, kept_free=4, head_s=30, hurry_s=0.2)) as service:
        held = [await service.connect() for _ in range(30)]
        for _, writer in held:
            writer.write(b"GET / HTTP/1.1\r\nx: ")
        # Those over the bound are closed at once, and those in the part that is kept free soon.
        ended = [reader.read() for reader, _ in held[16:]]
        await asyncio.gather(*ended, return_exceptions=True)
        assert (await service.told(b"GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n")).startswith(OK)
        refused = await service.told(LAST_GET)
        assert refused.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after" in refused
        for _, writer in held:
            writer.close()


async def test_who_is_refused_on_a_place_kept_for_health_checks_does_not_keep_it():
    async with served(Bounds(most=8, kept_free=4, head_s=300, linger_s=300)) as service:
        held = [await service.connect() for _ in range(4)]
        for _, writer in held:
            writer.write(b"GET / HTTP/1.1\r\nx: ")
        for _ in range(4):
            reader, writer = await service.connect()
            writer.write(b"POST /score HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nhalf")
            assert (await reader.read()).startswith(b"HTTP/1.1 429 ")
            held.append((reader, writer))
        await until(lambda: len(service.connections) == 4)
        for _, writer in held:
            writer.close()


async def test_line_breaks_between_requests_keep_no_connection_open():
    async with served(ROOMY, keep_alive_s=1) as service:
        reader, writer = await service.connect()
        writer.write(GET)
        assert await reader.readuntil(b"fine")
        writer.write(b"\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_request_in_the_piece_that_ends_a_body_nobody_read_is_not_cut_off_as_idle():
    async with served(ROOMY, keep_alive_s=1) as service:
        reader, writer = await service.connect()
        writer.write(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n")
        await reader.readuntil(b"too large")
        writer.write(b"helloGET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        await service.began.wait()
        await asyncio.sleep(1.5)  # longer than an idle connection is kept
        service.gate.set()
        assert await reader.readexactly(len(OK)) == OK
        writer.close()


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_a_request_that_takes_longer_than_a_head_may_is_answered():
    async with served(Bounds(most=64, head_s=0.1)) as service:
        asking = asyncio.ensure_future(service.told(b"GET /held HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
        await service.began.wait()
        await asyncio.sleep(0.3)
        service.gate.set()
        assert (await asking).startswith(OK)


async def test_a_caller_that_closes_its_sending_side_gets_its_answer():
    async with served(ROOMY) as service:
        assert (await service.told(GET, end=True)).startswith(OK)
        assert (await service.told(GET + GET, end=True)).count(OK) == 2


async def test_an_answer_that_is_a_head_alone_comes_before_its_connection_ends(caplog: pytest.LogCaptureFixture):
    async with served(ROOMY) as service:
        alone = OK + b"content-length: 4\r\n\r\n"
        assert without_dates(await service.told(HEAD, end=True)) == alone
        assert without_dates(await service.told(GET + HEAD + HEAD, end=True)) == alone + b"fine" + alone + alone
        assert without_dates(await service.told(HEAD + b"\x16\x03\x01\r\n\r\n")).startswith(alone + b"HTTP/1.1 400 ")
        assert not caplog.records


async def test_a_body_that_is_asked_for_and_malformed_is_refused_behind_the_word_to_go_on(caplog: pytest.LogCaptureFixture):
    async with served(ROOMY) as service:
        head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
        answer = await service.told(head + b"2\r\nab\r\nno size\r\n")
        assert answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").startswith(b"HTTP/1.1 400 ")
        assert not caplog.records


async def test_a_caller_that_closes_its_sending_side_and_waits_is_still_there():
    async with served(ROOMY) as service:
        asking = asyncio.ensure_future(service.told(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n", end=True))
        await service.began.wait()
        await asyncio.sleep(1)  # longer than the first probes take
        service.gate.set()
        answer = await asking
        assert answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").startswith(OK)


@pytest.mark.parametrize("behind", [b"", GET])
async def test_a_caller_that_closes_its_sending_side_is_sent_the_events_that_are_still_to_come(behind: bytes):
    async with served(ROOMY) as service:
        asking = asyncio.ensure_future(service.told(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n" + behind, end=True))
        await service.began.wait()
        await asyncio.sleep(1)  # longer than the first probes take
        service.gate.set()
        answer = await asking
        stream, _, rest = answer.partition(b"0\r\n\r\n")
        chunks = stream.partition(b"\r\n\r\n")[2].split(b"\r\n")
        sizes, events = chunks[:-1:2], chunks[1::2]
        assert [int(size, 16) for size in sizes] == [len(event) for event in events]
        assert [event for event in events if event != b":\n\n"] == [b"data: one\n\n", b"data: two\n\n"]
        assert rest.startswith(OK) is bool(behind)


@pytest.mark.parametrize("path", [b"/held", b"/events"])
@pytest.mark.parametrize("behind", [b"", GET, GET + GET[:-4]])
async def test_a_caller_that_is_gone_is_noticed_while_its_answer_is_made(path: bytes, behind: bytes):
    async with served(ROOMY) as service:
        _, writer = await service.connect()
        writer.write(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path + behind)
        await service.began.wait()
        writer.close()
        async with asyncio.timeout(10):
            await service.left.wait()
        assert service.left.is_set()


@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
async def test_an_early_answer_is_read_by_a_caller_that_writes_everything_first(connection: bytes):
    size = 8_000_000
    async with served(ROOMY) as service:
        reader, writer = await service.connect()
        writer.write(b"POST /early HTTP/1.1\r\nhost: x\r\nconnection: %s\r\ncontent-length: %d\r\n\r\n" % (connection, size))
        for _ in range(size // 100_000):
            writer.write(b"a" * 100_000)
            await writer.drain()
        assert (await reader.readuntil(b"too large")).startswith(b"HTTP/1.1 413 ")
        if connection == b"keep-alive":
            writer.write(GET)
            assert await reader.readexactly(len(OK)) == OK
        writer.close()


async def test_what_is_read_after_an_early_answer_is_bounded():
    async with served(Bounds(most=64, linger_bytes=200_000)) as service:
        reader, writer = await service.connect()
        writer.write(b"POST /early HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        assert (await reader.readuntil(b"too large")).startswith(b"HTTP/1.1 413 ")
        chunk, sent = b"186a0\r\n" + b"a" * 100_000 + b"\r\n", 0
        with contextlib.suppress(ConnectionError):
            while sent < 1_000:
                writer.write(chunk)
                await writer.drain()
                sent += 1
        assert sent < 1_000


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"zz\r\n", b"400"),  # no size of a chunk
        (b"1\r\naa\r\n", b"400"),  # a chunk longer than it says
        (b"1;" + b"x" * 100_000, b"431"),
        (b"1\r\na\r\n0\r\n" + b"x: y\r\n" * 20_000, b"431"),
    ],
)
async def test_a_body_that_cannot_be_read_on_is_answered(rest: bytes, status: bytes):
    async with served(ROOMY) as service:
        answer = await service.told(b"POST /fine HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + rest)
        assert answer.startswith(b"HTTP/1.1 %s " % status)
        assert answer.count(b"\r\n\r\n") == 1  # one answer


async def test_a_request_is_answered_before_the_one_behind_it_is_refused():
    async with served(ROOMY) as service:
        answer = await service.told(GET + GET + b"GET /fine HTTP/1.1\r\nx: " + b"a" * 100_000)
        assert answer.count(OK) == 2
        assert answer.split(OK)[2].count(b"HTTP/1.1 431 ") == 1
        reader, writer = await service.connect()
        writer.write(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n")
        await service.began.wait()
        service.gate.set()
        answer = await reader.read()
        assert answer.startswith(OK)
        assert answer.count(b"HTTP/1.1 400 ") == 1
        writer.close()


def test_of_refusals_in_an_overload_some_lines_are_written_and_the_rest_counted():
    now_s = 0.0
    thinned = Thinned(per_s=3, clock=lambda: now_s)
    assert [thinned.left_out() for _ in range(6)] == [0, 0, 0, None, None, None]
    now_s = 1.0
    assert [thinned.left_out() for _ in range(4)] == [3, 0, 0, None]
