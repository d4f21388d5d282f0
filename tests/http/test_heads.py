"""Heads that say something twice: trailers beside headers, an absolute target beside `Host`, an upgrade beside a body."""

from __future__ import annotations

import pytest

from attune.service.http.bounds import Bounds
from attune.service.http.heads import as_written, by_name, in_origin_form
from tests.http.served import OK, served

ROOMY = Bounds(most=64, kept_free=4)
UPGRADE = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
"""As Java's HttpClient and curl's --http2 offer it with every first request to a server without TLS."""
LAST = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "framing", [b"content-length: 5\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_the_body_of_a_request_that_offers_another_protocol_is_read(framing: bytes, at_once: bool):
    async with served(ROOMY) as service:
        head, _, body = (b"POST /heard HTTP/1.1\r\nhost: x\r\n" + UPGRADE + framing).partition(b"\r\n\r\n")
        reader, writer = await service.connect()
        writer.write(head + b"\r\n\r\n" + (body if at_once else b""))
        if not at_once:
            await writer.drain()
            writer.write(body)
        answer = await reader.readuntil(b"body: hello")
        assert answer.startswith(OK)
        writer.write(LAST)  # and the connection goes on
        assert (await reader.read()).startswith(OK)
        writer.close()
        assert service.refused == []


async def test_what_follows_an_offer_of_another_protocol_is_the_next_request():
    async with served(ROOMY) as service:
        answer = await service.told(b"GET /heard HTTP/1.1\r\nhost: x\r\n" + UPGRADE + b"\r\n" + LAST)
        assert answer.count(OK) == 2


async def test_as_many_offers_as_fit_into_one_piece_are_passed_over(caplog: pytest.LogCaptureFixture):
    async with served(ROOMY) as service:
        offer = b"GET / HTTP/1.1\r\nconnection:upgrade\r\nupgrade:h2c\r\n\r\n"
        assert (await service.told(600 * offer + LAST)).count(OK) == 601
        assert not caplog.records


async def test_nobody_who_speaks_http_1_0_is_sent_a_word_to_go_on():
    async with served(ROOMY) as service:
        head = b"POST /heard HTTP/1.0\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
        assert (await service.told(head + b"hello")).startswith(OK)


async def test_a_trailer_is_no_header():
    async with served(ROOMY) as service:
        head = b"POST /heard HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        answer = await service.told(head + b"5\r\nhello\r\n0\r\nhost: evil.example\r\nauthorization: Bearer other\r\n\r\n")
        assert answer.endswith(b"host: x\nconnection: close\ntransfer-encoding: chunked\nbody: hello")


async def test_spaces_around_a_header_are_no_part_of_it():
    async with served(ROOMY) as service:
        answer = await service.told(b"GET /heard HTTP/1.1\r\nhost: x\r\nidempotency-key: \t e1 \t \r\nconnection: close\r\n\r\n")
        assert b"\nidempotency-key: e1\n" in answer


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://evil.example/heard", b"evil.example"),
        (b"http://evil.example:8000/heard", b"evil.example:8000"),
        (b"http://[::1]:8000/heard", b"[::1]:8000"),
        (b"/heard", b"localhost"),
    ],
)
async def test_the_host_of_an_absolute_target_goes_before_the_header(target: bytes, host: bytes):
    async with served(ROOMY) as service:
        answer = await service.told(b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        hosts = [line for line in answer.split(b"\r\n\r\n", 1)[1].split(b"\n") if line.startswith(b"host:")]
        assert hosts == [b"host: " + host]


@pytest.mark.parametrize("target", [b"http://evil.example", b"http://evil.example?x=1", b"http://evil.example/?x=1"])
async def test_an_absolute_target_may_leave_its_path_out(target: bytes):
    async with served(ROOMY) as service:
        assert (await service.told(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).startswith(OK)
    assert in_origin_form(target, []) in {b"/", b"/?x=1"}


def test_of_how_a_body_is_coded_every_line_counts_and_of_other_headers_the_last():
    sent = [(b"transfer-encoding", b"gzip"), (b"x", b"1"), (b"transfer-encoding", b"chunked"), (b"x", b"2")]
    assert by_name(sent) == {b"transfer-encoding": b"gzip, chunked", b"x": b"2"}


@pytest.mark.parametrize(("sent", "meant"), [(b"ada", "ada"), ("josé".encode(), "josé"), ("josé".encode("latin-1"), "josé")])
def test_a_header_is_read_in_the_characters_of_its_sender(sent: bytes, meant: str):
    assert as_written(sent.decode("latin-1")) == meant
