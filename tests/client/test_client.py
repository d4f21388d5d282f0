"""The clients against a real server on a socket: the same story told by both, repeats that do no harm, and failures that can be read."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from attune.client import AsyncClient, AttuneFailed, AttuneUnreachable, Client, Done, Started, Token, requests
from attune.client.events import Events
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, bundle, running, settings_of
from tests.socket_server import on_socket

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

Calling = Callable[..., Awaitable[object]]


@pytest.fixture
async def url(settings_of) -> AsyncIterator[str]:
    """Where the application listens, started as a server of its own on this loop."""
    async with running(settings_of()) as service, on_socket(service.app) as (url, _):
        yield url


@pytest.fixture(params=[Client, AsyncClient])
async def call(request, url) -> AsyncIterator[Calling]:
    """Returns a function that calls a method of one client or the other."""
    client = request.param(url, timeout_s=20)

    async def do(method: str, *arguments: object, **options: object) -> object:
        function = getattr(client, method)
        if isinstance(client, AsyncClient):
            if inspect.isasyncgenfunction(function):
                return [event async for event in function(*arguments, **options)]
            return await function(*arguments, **options)
        if inspect.isgeneratorfunction(function):
            return await asyncio.to_thread(lambda: list(function(*arguments, **options)))
        return await asyncio.to_thread(function, *arguments, **options)

    yield do
    await (client.aclose() if isinstance(client, AsyncClient) else asyncio.to_thread(client.close))


async def test_what_a_product_does_works_with_both_clients(call):
    scored = await call("score", "ada", PROMPT, [SHORT, LONG], explain=True)
    assert scored.personalization == "prior"
    assert scored.best.index in {0, 1}
    assert scored.scores[0].explanation

    pair = await call("generate", "ada", PROMPT, candidates=2)
    one, other = pair.candidates
    told = await call("prefer", "ada", one, over=other, event_id="first")
    again = await call("prefer", "ada", one, over=other, event_id="first")
    assert (told.result, again.result, again.user.comparisons) == ("applied", "duplicate", 1)
    assert (await call("prefer_text", "ada", PROMPT, WARM, over=SHORT)).user.comparisons == 2

    assert (await call("user", "ada")).comparisons == 2
    assert any(line.get("event_id") == "first" for line in await call("export", "ada"))
    await call("take_back", "ada", "first")
    assert (await call("user", "ada")).comparisons == 1
    assert sum((await call("route", "ada", PROMPT)).routing.propensities.values()) == pytest.approx(1)
    assert {member.name for member in (await call("portfolio")).members} == {"concise", "detailed", "warm"}
    receipts = [await call("forget", "ada") for _ in range(2)]
    assert [(receipt.deleted["keys"] > 0, receipt.deleted_before) for receipt in receipts] == [(True, False), (False, True)]
    assert (await call("user", "ada")).comparisons == 0


@pytest.mark.parametrize("name", ["..", ".", "...", "a/../b", "a b", "ü/ß?#", "-x", "%2e%2e", "'\"\\"])
async def test_a_user_of_any_name_is_meant_as_it_stands(call, name):
    await call("prefer_text", "ada", PROMPT, WARM, over=SHORT, event_id="kept")
    told = await call("prefer_text", name, PROMPT, WARM, over=SHORT, event_id=name)
    assert ((await call("user", name)).user["id"], told.event_id) == (name, name)
    assert (await call("export", name))[0]["id"] == name
    taken = await call("take_back", name, name)
    assert (taken.event_id, taken.user.id, taken.user.comparisons) == (name, name, 0)
    assert (await call("forget", name)).deleted["keys"] > 0
    assert (await call("user", "ada")).comparisons == 1


async def test_taking_back_an_event_called_by_dots_deletes_nobody(call):
    await call("prefer_text", "ada", PROMPT, WARM, over=SHORT)
    assert (await call("user", "line\u2028\nline")).user["id"] == "line\u2028\nline"
    for event in ("..", "."):
        with pytest.raises(AttuneFailed, match="404 unknown-event"):
            await call("take_back", "ada", event)
    for of, event in (("", "x"), ("ada", "")):
        with pytest.raises(ValueError, match="is empty"):
            await call("take_back", of, event)
    assert (await call("user", "ada")).comparisons == 1


async def test_texts_with_line_ends_of_unicode_are_exported_and_told_line_by_line(call):
    odd = "one\u2028two\x85three\x0cfour\r\nfive\u2029"
    told = {"user": "ada", "prompt": odd, "chosen_text": f"{odd} yes", "rejected_text": odd, "event_id": odd[:4]}
    assert [line["result"] for line in await call("feedback_batch", [told, told])] == ["applied", "duplicate"]
    kept = [line for line in await call("export", "ada") if line["type"] == "comparison"]
    assert [(line["prompt"], line["chosen_text"]) for line in kept] == [(odd, f"{odd} yes")]


async def test_every_form_of_feedback_is_sent_by_both_clients(call):
    made = await call("generate", "ada", PROMPT, candidates=3)
    first, second, third = made.candidates
    assert (await call("rate", "ada", first, 1.0, event_id="thumb")).result == "applied"
    assert (await call("rate", "ada", first, 1.0, event_id="thumb")).result == "duplicate"
    assert (await call("rank", "ada", [third, first, second])).agreement
    assert (await call("keep", "ada", second, over=first, how="regenerate")).user.comparisons == 3
    rated = {"prompt": PROMPT, "response_text": WARM, "rating": 0.0}
    lines = await call("feedback_batch", [{"user": "ada", **rated}, {"user": "ada", **rated, "rating": 2}])
    assert (lines[0]["result"], lines[1]["code"]) == ("applied", "invalid-request")
    assert (await call("feedback", "ada", **rated)).user.comparisons == 5
    for _ in range(2):
        await call("merge", "ada", "ada@example.org")
    assert (await call("user", "ada")).comparisons == 0
    assert (await call("user", "ada@example.org")).comparisons == 5


async def test_a_stream_begins_with_the_decision_and_ends_with_the_whole_answer(call):
    started, *pieces, done = await call("stream", "ada", PROMPT)
    assert isinstance(started, Started)
    assert isinstance(done, Done)
    assert all(isinstance(piece, Token) for piece in pieces)
    assert "".join(piece.text for piece in pieces) == done.answer.text
    assert started.decision.decision_id == done.answer.decision_id


def test_a_refusal_says_each_field_once_also_those_beyond_the_first_of_its_detail():
    errors = [{"field": "a", "message": "is missing"}, {"field": "b", "message": "is 9; at most 8"}]
    assert (
        str(AttuneFailed(422, "invalid-request", "a: is missing", errors, None)) == "422 invalid-request: a: is missing; b: is 9; at most 8"
    )


async def test_a_refusal_is_an_error_with_code_fields_and_request_id(call):
    with pytest.raises(AttuneFailed) as refused:
        await call("score", "ada", PROMPT, [])
    assert (refused.value.status, refused.value.code) == (422, "invalid-request")
    assert refused.value.errors[0]["field"] == "responses"
    assert refused.value.request_id
    with pytest.raises(AttuneFailed, match="unknown-candidate"):
        await call("prefer", "ada", "nonsense", over="more nonsense")


def test_feedback_is_sent_again_under_one_event_id_and_a_generation_is_not():
    seen: list[dict[str, object]] = []

    def broken(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        raise httpx.ReadError("connection reset", request=request)

    with Client("http://attune", retries=2, transport=httpx.MockTransport(broken)) as client:
        with pytest.raises(AttuneUnreachable, match="/feedback"):
            client.prefer("ada", "a", over="b")
        assert len(seen) == 3
        assert len({body["event_id"] for body in seen}) == 1
        seen.clear()
        with pytest.raises(AttuneUnreachable):
            client.generate("ada", "hello")
        assert len(seen) == 1


def test_the_wait_after_a_refusal_is_the_one_that_the_server_named():
    refused = httpx.Response(429, headers={"retry-after": "2"})
    assert 2.0 <= requests.pause_s(0, refused, requests.generate("ada", "hello")) <= 2.5
    assert requests.pause_s(0, httpx.Response(429, headers={"retry-after": "3600"}), requests.generate("ada", "hello")) is None
    assert requests.pause_s(0, httpx.Response(422), requests.feedback("ada", None)) is None


def test_a_page_of_a_proxy_is_an_error_and_no_crash():
    page = httpx.MockTransport(lambda _request: httpx.Response(502, text="<html>Bad gateway"))
    with (
        Client("http://attune", retries=0, transport=page) as client,
        pytest.raises(AttuneFailed, match="502 unreadable: <html>Bad gateway"),
    ):
        client.portfolio()


@pytest.mark.parametrize("data", ["<html>Bad gateway", "[" * 100_000, "[1]", "null"])
def test_what_a_proxy_writes_into_an_answer_is_an_error_and_no_crash(data):
    page = httpx.MockTransport(lambda _request: httpx.Response(502, text=data))
    with Client("http://attune", retries=0, transport=page) as client, pytest.raises(AttuneFailed, match="502 unreadable: "):
        client.portfolio()
    events = Events()
    assert list(events.feed(f"data: {data}")) == []
    with pytest.raises(AttuneFailed, match="502 unreadable: "):
        list(events.feed(""))


def test_an_error_in_the_middle_of_a_stream_is_raised():
    events = Events()
    assert list(events.feed("event: error")) == []
    assert list(events.feed('data: {"status": 502, "code": "member-failed", "detail": "gone"}')) == []
    with pytest.raises(AttuneFailed, match="502 member-failed: gone"):
        list(events.feed(""))


def test_both_clients_have_the_same_methods_with_the_same_arguments():
    def methods(kind: type) -> dict[str, list[str]]:
        return {name: list(inspect.signature(one).parameters) for name, one in vars(kind).items() if not name.startswith("_")}

    one, other = methods(Client), methods(AsyncClient)
    other["close"] = other.pop("aclose")
    assert one == other


@pytest.mark.parametrize("made", [Client, AsyncClient])
@pytest.mark.parametrize("key", ["secret\nx-other: 1", "secret key", "sécret"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(made, key):
    with pytest.raises(ValueError, match="signs that no key has") as caught:
        made("http://127.0.0.1:1", key)
    assert key not in str(caught.value)


def both(handler: Callable[[httpx.Request], httpx.Response]) -> list[Calling]:
    """Returns how to call each of the two clients of a server that answers so."""

    async def with_one(method: str, *arguments: object) -> object:
        with Client("http://attune", retries=1, transport=httpx.MockTransport(handler)) as client:
            found = getattr(client, method)(*arguments)
            return list(found) if method == "stream" else found

    async def with_other(method: str, *arguments: object) -> object:
        async with AsyncClient("http://attune", retries=1, transport=httpx.MockTransport(handler)) as client:
            found = getattr(client, method)(*arguments)
            return [event async for event in found] if method == "stream" else await found

    return [with_one, with_other]


async def test_a_stream_that_ends_in_the_middle_or_finds_nobody_is_no_answer():
    def unreached(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused", request=request)

    token = b'event: token\ndata: {"index": 0, "member": "warm", "text": "He"}\n\n'
    for call in both(lambda _request: httpx.Response(200, content=token)):
        with pytest.raises(AttuneUnreachable, match="ended its answer to POST /generate before it was whole"):
            await call("stream", "ada", "hello")
    for call in both(unreached):
        with pytest.raises(AttuneUnreachable, match="did not answer POST /generate: connection refused"):
            await call("stream", "ada", "hello")


async def test_what_has_not_arrived_is_sent_again_whatever_it_is_and_a_batch_has_event_ids_of_its_own():
    seen: list[httpx.Request] = []

    def unreached(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        raise httpx.ConnectError("refused", request=request)

    for call in both(unreached):
        with pytest.raises(AttuneUnreachable):
            await call("generate", "ada", "hello")
    assert len(seen) == 4
    seen.clear()
    for call in both(unreached):
        with pytest.raises(AttuneUnreachable):
            await call("feedback_batch", [{"user": "ada", "event_id": None}, {"user": "ada", "event_id": "mine"}])
    sent = [[json.loads(line)["event_id"] for line in request.content.splitlines()] for request in seen]
    assert sent[0] == sent[1]
    assert sent[2] == sent[3]
    assert all(first and second == "mine" for first, second in sent)
