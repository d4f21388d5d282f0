"""Streams: the decision first and kept by then, pieces as they come, the whole answer last; errors before and after; readers who leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from attune.service.errors import MemberFailed
from attune.service.http.streaming import EventStream
from attune.service.settings import Settings
from attune.service.state.store import Exported, UserKey
from tests.endpoints.conftest import LONG, PROMPT, SHORT, Service, running
from tests.endpoints.streams import events
from tests.endpoints.voices import SAYINGS, voices
from tests.socket_server import on_socket
from tests.stores import FreshStore, HeldStore

ASK: dict[str, Any] = {"user": "u1", "prompt": PROMPT, "stream": True}


@contextlib.asynccontextmanager
async def listening(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """Serves the application on a real socket, where a disconnect is one; its lifespan is already running."""
    async with on_socket(service.app, leave_s=5) as (url, _), httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
async def wired(service: Service):
    async with listening(service) as client:
        yield client


async def test_a_stream_begins_with_the_decision_and_ends_with_the_whole_answer(service: Service, wired: httpx.AsyncClient):
    async with wired.stream("POST", "/generate", json=ASK | {"candidates": 2}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        found = [event async for event in events(answer)]
    names = [name for name, _ in found]
    assert (names[0], names[-1], set(names[1:-1])) == ("decision", "done", {"token"})
    decision, done = found[0][1], found[-1][1]
    assert answer.headers["x-decision-id"] == decision["decision_id"] == done["decision_id"]
    assert answer.headers["x-attune-member"] == decision["routing"]["member"]
    for candidate in done["candidates"]:
        pieces = [data["text"] for name, data in found if name == "token" and data["index"] == candidate["index"]]
        assert tuple(pieces) == SAYINGS[candidate["member"]]
        assert "".join(pieces) == candidate["text"]
    pair = {"user": "u1", "chosen": done["candidates"][0]["candidate_id"], "rejected": done["candidates"][1]["candidate_id"]}
    assert (await service.post("/feedback", pair))["result"] == "applied"


async def test_the_decision_is_kept_before_its_first_event_and_its_candidates_when_they_are_finished(
    service: Service, wired: httpx.AsyncClient
):
    voice = service.members["warm"]
    voice.gate.clear()
    voice.held_from = 1
    async with wired.stream("POST", "/generate", json=ASK | {"member": "warm"}) as answer:
        stream = events(answer)
        name, decision = await anext(stream)
        assert name == "decision"
        kept = await service.get(f"/decisions/{decision['decision_id']}")
        assert (kept["candidates"], kept["routing"]) == ([], decision["routing"])
        voice.gate.set()
        (done,) = [data async for name, data in stream if name == "done"]
    kept = await service.get(f"/decisions/{decision['decision_id']}")
    assert [candidate["text"] for candidate in kept["candidates"]] == [candidate["text"] for candidate in done["candidates"]]


async def test_pieces_come_as_they_are_written(service: Service, wired: httpx.AsyncClient):
    voice = service.members["warm"]
    voice.gate.clear()
    voice.held_from = 1
    async with wired.stream("POST", "/generate", json=ASK | {"member": "warm"}) as answer:
        stream = events(answer)
        await anext(stream)
        name, data = await anext(stream)
        assert (name, data["text"], data["member"]) == ("token", SAYINGS["warm"][0], "warm")
        voice.gate.set()
        name, data = await anext(stream)
        assert (name, data["text"]) == ("token", SAYINGS["warm"][1])


async def test_a_member_that_breaks_off_ends_the_stream_with_an_error_event(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].failure, members["warm"].fails_after = MemberFailed("broke off", {"warm": "broke off"}), 2
    async with running(settings_of(), FreshStore(), members) as service, listening(service) as wired:
        async with wired.stream("POST", "/generate", json=ASK | {"member": "warm"}) as answer:
            found = [event async for event in events(answer)]
        assert answer.status_code == 200
        assert [name for name, _ in found] == ["decision", "token", "token", "error"]
        problem = found[-1][1]
        assert (problem["code"], problem["status"], problem["request_id"]) == ("member-failed", 502, answer.headers["x-request-id"])
        assert await service.metric("attune_errors_total", code="member-failed") == 1


async def test_a_stream_that_passes_its_deadline_ends_with_an_error_event(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].gate.clear()
    members["warm"].held_from = 1
    settings = settings_of(generate_deadline_ms=1000, root_path="/attune")
    async with running(settings, FreshStore(), members) as service, listening(service) as wired:
        async with wired.stream("POST", "/generate", json=ASK | {"member": "warm"}) as answer:
            found = [event async for event in events(answer)]
        assert [name for name, _ in found] == ["decision", "token", "error"]
        assert (found[-1][1]["code"], found[-1][1]["type"]) == ("deadline-exceeded", "/attune/errors/deadline-exceeded")
        assert members["warm"].open_streams == 0


async def test_a_request_that_is_refused_before_the_start_is_no_stream(service: Service, wired: httpx.AsyncClient):
    answer = await wired.post("/generate", json=ASK | {"candidates": 99})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


async def test_when_the_reader_of_a_stream_leaves_the_member_is_left_and_nothing_else_is_lost(service: Service, wired: httpx.AsyncClient):
    voice = service.members["warm"]
    voice.gate.clear()
    voice.held_from = 1
    async with wired.stream("POST", "/generate", json=ASK | {"member": "warm"}) as answer:
        _, decision = await anext(events(answer))
        await voice.began.wait()
    await voice.left.wait()
    assert voice.open_streams == 0
    await service.serving.leases.idle()
    assert await service.metric("attune_member_requests_total", member="warm", result="cancelled") == 1
    kept = await service.get(f"/decisions/{decision['decision_id']}")
    assert kept["candidates"] == []
    problem = await service.post(
        "/feedback",
        {"user": "u1", "chosen": decision["decision_id"][:-1] + "1", "rejected": decision["decision_id"][:-1] + "2"},
        status=404,
    )
    assert problem["code"] == "unknown-candidate"
    voice.gate.set()
    await service.post("/generate", {"user": "u1", "prompt": PROMPT})


async def test_when_the_caller_of_a_plain_generation_leaves_the_member_is_left_too(service: Service, wired: httpx.AsyncClient):
    voice = service.members["warm"]
    voice.gate.clear()
    asking = asyncio.ensure_future(wired.post("/generate", json={"user": "u1", "prompt": PROMPT, "member": "warm"}))
    await voice.began.wait()
    asking.cancel()
    await voice.left.wait()
    assert voice.open_streams == 0
    await service.serving.leases.idle()
    assert await service.metric("attune_http_requests_total", route="/generate", status="499") == 1


async def test_a_comparison_whose_caller_leaves_while_it_is_added_is_added(settings_of: Callable[..., Settings]):
    store = HeldStore()
    liked = {"user": "u1", "prompt": PROMPT, "chosen_text": SHORT, "rejected_text": LONG, "event_id": "e1"}
    async with running(settings_of(), store) as service, listening(service) as wired:
        telling = asyncio.ensure_future(wired.post("/feedback", json=liked))
        await store.reached.wait()
        telling.cancel()
        await service.serving.leases.idle()  # the request is over, the add is not
        store.gate.set()
        await store.changed.wait()
        assert (await service.get("/users/u1"))["user"]["comparisons"] == 1
        assert (await service.post("/feedback", liked))["result"] == "duplicate"


async def test_shutting_down_waits_for_a_comparison_that_is_being_added(settings_of: Callable[..., Settings]):
    store = HeldStore()
    liked = {"user": "u1", "prompt": PROMPT, "chosen_text": SHORT, "rejected_text": LONG, "event_id": "e1"}
    async with asyncio.TaskGroup() as group:
        async with running(settings_of(), store) as service:
            telling = group.create_task(service.client.post("/feedback", json=liked))
            await store.reached.wait()
            asyncio.get_running_loop().call_soon(store.gate.set)
        assert store.changed.is_set()
    assert telling.done()


async def test_what_has_begun_is_closed_even_if_the_reader_left_before_the_first_event():
    closed = []

    async def pages() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def lines() -> AsyncGenerator[bytes, None]:
        yield b"{}\n"

    async def away(_message: object) -> None:
        raise OSError("the reader left")

    async def nothing() -> dict[str, str]:
        return {"type": "http.disconnect"}

    begun = pages()
    assert await anext(begun) == 1
    with pytest.raises(OSError, match="the reader left"):
        await EventStream(lines(), begun=begun)({"type": "http"}, nothing, away)
    assert closed == [True]


class Watched(FreshStore):
    """A store that counts the exports that were closed."""

    closed = 0

    async def export(self, key: UserKey) -> AsyncGenerator[Exported, None]:
        try:
            async for entry in super().export(key):
                yield entry
        finally:
            self.closed += 1


async def test_an_export_whose_reader_leaves_before_its_first_line_is_closed_at_once(settings_of: Callable[..., Settings]):
    store = Watched()
    async with running(settings_of(), store) as service:
        await service.post("/feedback", {"user": "u1", "prompt": PROMPT, "chosen_text": SHORT, "rejected_text": LONG})
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/users/u1/export", "query_string": b""}

        bodies: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def stays() -> dict[str, Any]:
            while not bodies:
                await asyncio.Event().wait()
            return bodies.pop()

        async def away(_message: object) -> None:
            raise OSError("the reader left")

        with contextlib.suppress(OSError):
            await service.app({**scope, "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1)}, stays, away)
        assert store.closed == 1
