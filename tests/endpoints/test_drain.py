"""The end of a server: streams get an error event before they are cut, and requests that come meanwhile end in time as well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from attune.service.settings import Settings
from tests.endpoints.conftest import PROMPT, running
from tests.endpoints.streams import events
from tests.endpoints.test_streaming import listening
from tests.endpoints.voices import voices
from tests.stores import FreshStore

ASK = {"user": "u1", "prompt": PROMPT, "member": "warm", "stream": True}


async def test_a_stream_that_cannot_finish_ends_with_an_error_event(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].gate.clear()
    members["warm"].held_from = 1
    async with running(settings_of(), FreshStore(), members) as service, listening(service) as client:
        async with client.stream("POST", "/generate", json=ASK) as answer:
            told = events(answer)
            assert (await anext(told))[0] == "decision"
            service.app.state.live.phase = "draining"
            service.app.state.in_flight.end_within(2.2)
            last = [name async for name, _ in told][-1]
        assert last == "error"
        problem = await service.post("/generate", {**ASK, "stream": False}, status=504)
        assert problem["code"] == "deadline-exceeded"


@pytest.mark.parametrize("candidates", [1, 2])
async def test_what_is_under_way_without_a_stream_ends_as_well(settings_of: Callable[..., Settings], candidates: int):
    members = voices()
    members["warm"].gate.clear()
    async with running(settings_of(), FreshStore(), members) as service:
        asked = asyncio.ensure_future(service.post("/generate", {**ASK, "stream": False, "candidates": candidates}, status=504))
        await members["warm"].began.wait()
        service.app.state.in_flight.end_within(2.2)
        problem = await asked
        assert (problem["code"], problem["detail"]) == ("deadline-exceeded", "the members did not finish before the request's deadline")
        assert members["warm"].open_streams == 0


async def test_while_the_end_is_announced_requests_are_taken_and_readyz_says_it(settings_of: Callable[..., Settings]):
    async with running(settings_of(), FreshStore()) as service:
        service.app.state.live.phase = "draining"
        service.app.state.in_flight.end_within(10)
        problem = await service.get("/readyz", status=503)
        assert (problem["phase"], problem["detail"]) == ("draining", "the service is draining")
        assert await service.metric("attune_ready") == 0
        answers = await asyncio.gather(*(service.client.get("/users/u1") for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}
