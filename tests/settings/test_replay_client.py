"""`attune replay` against a scripted server: it waits while the server is busy, goes on with the cursor, and says why it stopped."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from attune.service.replay_client import MAX_WAITS, ReplayFailed, replay_logs


def answer(done: bool, cursor: str | None, replayed: int = 5, users: int = 1) -> httpx.Response:
    counts = {"users": users, "replayed": replayed, "without_texts": 1, "unusable": 0, "damaged": 1}
    return httpx.Response(200, json={"basis": "b", "done": done, "cursor": cursor, **counts})


BUSY = httpx.Response(429, headers={"retry-after": "7"})


def run(responses: list[httpx.Response], **who: Any) -> tuple[list[str], list[dict[str, Any]], list[float], list[str | None]]:
    bodies: list[dict[str, Any]] = []
    keys: list[str | None] = []
    waited: list[float] = []

    def serve(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        keys.append(request.headers.get("authorization"))
        return responses[min(len(bodies), len(responses)) - 1]

    client = httpx.Client(base_url="http://attune", transport=httpx.MockTransport(serve))
    arguments = {"tenant": None, "user": None, "key": ""} | who
    said = [str(each) for each in replay_logs("http://attune", client=client, wait=waited.append, **arguments)]
    return said, bodies, waited, keys


def test_it_goes_on_with_the_cursor_until_it_is_done():
    said, bodies, _, keys = run([answer(False, "0:1/"), answer(False, "0:2/"), answer(True, None)], tenant="t", key="secret")
    assert [body["cursor"] for body in bodies] == [None, "0:1/", "0:2/"]
    assert {body["tenant"] for body in bodies} == {"t"}
    assert keys == ["Bearer secret"] * 3
    assert said[-1].startswith("done: 15 comparisons of 3 users replayed under basis b, 3 without texts, ")
    assert said[-1].endswith("3 users with a damaged record, which the server's log names")


def test_it_waits_while_the_server_is_busy_and_asks_the_same_again():
    by_a_proxy = httpx.Response(503, headers={"retry-after": "Sat, 28 Nov 2026 21:00:00 GMT"})
    _, bodies, waited, keys = run([answer(False, "0:1/"), BUSY, httpx.Response(503), by_a_proxy, answer(True, None)])
    assert [body["cursor"] for body in bodies] == [None, "0:1/", "0:1/", "0:1/", "0:1/"]
    assert waited == [7.0, 1.0, 1.0]
    assert keys == [None] * 5


NO_KEY = {"code": "unauthenticated", "detail": "this API key is not known"}


@pytest.mark.parametrize(
    ("response", "message", "goes_on"),
    [
        (BUSY, "answered 429 ", True),
        (httpx.Response(502, text="<html>bad gateway</html>"), "answered 502 unreadable: <html>bad gateway</html>$", True),
        (
            httpx.Response(403, text="no"),
            "403 unreadable: no; --key-env NAME names the .* variable that holds an API key that has the right$",
            False,
        ),
        (
            httpx.Response(401, json=NO_KEY),
            "401 unauthenticated: this API key is not known; --key-env NAME .* an API key of the server$",
            False,
        ),
        (httpx.Response(404, json={"code": "not-found", "detail": "nothing here"}), "404 not-found: nothing here$", False),
        *((httpx.Response(200, text=text), "answered, and not what was replayed", False) for text in ("<html>", "[]", '{"cursor": null}')),
    ],
)
def test_it_stops_with_the_reason_and_says_whether_to_try_again(response: httpx.Response, message: str, goes_on: bool):
    with pytest.raises(ReplayFailed, match=message) as caught:
        run([response])
    assert caught.value.goes_on is goes_on


def test_a_server_that_stays_busy_is_waited_for_only_so_often():
    waited: list[float] = []
    client = httpx.Client(base_url="http://attune", transport=httpx.MockTransport(lambda _: BUSY))
    with pytest.raises(ReplayFailed):
        list(replay_logs("http://attune", tenant=None, user=None, key="", client=client, wait=waited.append))
    assert len(waited) == MAX_WAITS
