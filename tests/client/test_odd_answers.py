"""Answers that no Attune wrote, or that end before their time: each is a failure with a line for people."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from attune.client import AsyncClient, AttuneFailed, Client, Done, Token
from attune.client.bodies import Lines

ASKS = [("user", "ada"), ("portfolio",), ("forget", "ada"), ("take_back", "ada", "e"), ("export", "ada"), ("prefer", "ada", "a")]


def refused(kind: type[Client | AsyncClient], answer: httpx.Response, method: str, *arguments: str) -> AttuneFailed:
    """Returns the failure that a client makes of an answer."""
    transport = httpx.MockTransport(lambda _request: answer)
    options = {"over": "b"} if method == "prefer" else {}

    async def ask() -> None:
        async with AsyncClient("http://attune", retries=0, transport=transport) as client:
            await getattr(client, method)(*arguments, **options)

    def ask_at_once() -> None:
        with Client("http://attune", retries=0, transport=transport) as client:
            getattr(client, method)(*arguments, **options)

    with pytest.raises(AttuneFailed) as failed:
        asyncio.run(ask()) if kind is AsyncClient else ask_at_once()
    return failed.value


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("asked", ASKS, ids=lambda asked: asked[0])
def test_a_page_in_place_of_an_answer_is_a_failure_in_one_line(kind, asked):
    page = "<!doctype html>\n<html>\n<h1>\x1b[31mSign in</h1>"
    failed = refused(kind, httpx.Response(200, text=page), *asked)
    assert str(failed) == "200 unreadable: <!doctype html> <html> <h1> [31mSign in</h1>"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("asked", ASKS, ids=lambda asked: asked[0])
def test_a_server_that_moved_says_where_to(kind, asked):
    moved = httpx.Response(301, headers={"location": "https://attune.example/"}, text="<html>moved")
    assert str(refused(kind, moved, *asked)) == "301 unreadable: sends callers on to https://attune.example/"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "body", ['{"ok": true}', '{"user": {"name": "ada"}}', '{"user": {"id": 1, "comparisons": 1}}', "[1]", "null", "1", "", "[" * 100_000]
)
def test_json_of_another_server_is_a_failure(kind, body):
    failed = refused(kind, httpx.Response(200, text=body), "user", "ada")
    assert (failed.status, failed.code, failed.detail) == (200, "unreadable", body[:200] or "empty body")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_export_that_was_cut_short_is_a_failure_with_its_problem(kind):
    problem = {"status": 503, "code": "store-unavailable", "detail": "Redis did not answer", "request_id": "r"}
    lines = "".join(f"{json.dumps(line)}\n" for line in ({"type": "user", "id": "ada"}, {"error": problem}))
    failed = refused(kind, httpx.Response(200, text=lines), "export", "ada")
    assert (str(failed), failed.request_id) == ("503 store-unavailable: Redis did not answer", "r")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("body", ["", '{"user": {"id": "ada"}}\n', '{"type": "sum"}\n'])
def test_what_does_not_begin_as_an_export_is_none(kind, body):
    assert refused(kind, httpx.Response(200, text=body), "export", "ada").code == "unreadable"


def test_lines_end_at_line_feeds_alone_wherever_the_pieces_are_cut():
    text = "one\u2028\x85\x0b\ntwo ü\r\n\nfour\n"
    data = text.encode()
    for size in range(1, len(data) + 1):
        lines = Lines()
        found = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
        assert found == ["one\u2028\x85\x0b", "two ü", "", "four"]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_stream_whose_texts_hold_line_ends_of_unicode_is_read(kind):
    odd = "one\u2028two\x85three"
    whole = {
        "bundle": "b",
        "personalization": "prior",
        "user": {"id": "ada", "comparisons": 0},
        "routing": {"policy": "sample", "member": "m"},
        "candidates": [{"index": 0, "member": "m", "text": odd}],
    }
    told = {"token": {"index": 0, "member": "m", "text": odd}, "done": whole}
    body = "".join(f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n" for name, data in told.items())
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=body.encode()))

    async def ask() -> list[object]:
        async with AsyncClient("http://attune", transport=transport) as client:
            return [event async for event in client.stream("ada", "hello")]

    if kind is AsyncClient:
        token, done = asyncio.run(ask())
    else:
        with Client("http://attune", transport=transport) as client:
            token, done = client.stream("ada", "hello")
    assert isinstance(token, Token)
    assert isinstance(done, Done)
    assert (token.text, done.answer.text) == (odd, odd)
