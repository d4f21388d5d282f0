"""What a stream answers that has not begun: a status and an error as without a stream, or a sign of life; and who leaves meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from attune.service.members.member import OneMemberFailed, PromptFiltered
from attune.service.settings import Settings
from attune.service.usecases.member_answers import PING_S
from tests.endpoints.conftest import PROMPT, Service, running
from tests.endpoints.test_streaming import listening
from tests.endpoints.voices import voices
from tests.stores import FreshStore

NATIVE: tuple[str, dict[str, Any]] = ("/generate", {"user": "u1", "prompt": PROMPT, "member": "warm"})
CHAT: tuple[str, dict[str, Any]] = ("/v1/chat/completions", {"model": "warm", "messages": [{"role": "user", "content": PROMPT}]})
FAILURES: dict[str, Any] = {
    "a member that fails": OneMemberFailed("warm", "connect", "no connection"),
    "a member that asks for time": OneMemberFailed("warm", "cooling-down", "HTTP 429", retry_after_s=37.0),
    "a filter": PromptFiltered("member 'warm': its server's filter refuses the conversation"),
    "a bug": ZeroDivisionError("none of the service's errors"),
}


@pytest.fixture
async def wired(service: Service):
    async with listening(service) as client:
        yield client


def _but_for_its_id(body: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in body.items() if name != "request_id"}
    if isinstance(plain.get("error"), dict):
        plain["error"] = _but_for_its_id(plain["error"])
    return plain


@pytest.mark.parametrize("asked", [NATIVE, CHAT], ids=["native", "chat"])
@pytest.mark.parametrize("why", FAILURES)
async def test_what_fails_before_the_first_piece_is_answered_as_without_a_stream(
    settings_of: Callable[..., Settings], asked: tuple[str, dict[str, Any]], why: str
):
    (path, body), answers = asked, []
    for stream in (False, True):
        members = voices()
        members["warm"].failure = FAILURES[why]
        async with running(settings_of(), FreshStore(), members) as service:
            answers.append(await service.client.post(path, json=body | {"stream": stream}))
            assert await service.metric("attune_http_requests_total", route=path, status=str(answers[-1].status_code)) == 1
            assert members["warm"].open_streams == 0
    plain, streamed = answers
    assert streamed.status_code == plain.status_code >= 400
    assert streamed.headers["content-type"] == plain.headers["content-type"]
    assert streamed.headers.get("retry-after") == plain.headers.get("retry-after")
    assert _but_for_its_id(streamed.json()) == _but_for_its_id(plain.json())


@pytest.mark.parametrize("asked", [NATIVE, CHAT], ids=["native", "chat"])
async def test_a_deadline_that_passes_before_the_first_piece_is_a_504(
    settings_of: Callable[..., Settings], asked: tuple[str, dict[str, Any]]
):
    members, (path, body) = voices(), asked
    members["warm"].gate.clear()
    async with running(settings_of(generate_deadline_ms=1000), FreshStore(), members) as service:
        answer = await service.client.post(path, json=body | {"stream": True})
        assert answer.status_code == 504
        assert "deadline-exceeded" in answer.text
        assert members["warm"].open_streams == 0


async def test_a_stream_is_named_after_the_member_that_stands_in(settings_of: Callable[..., Settings]):
    members = voices()
    async with running(settings_of(), FreshStore(), members) as service:
        for name in members:  # of three, at least two were not drawn
            for member in members.values():
                member.failure = None if member.id == name else OneMemberFailed(member.id, "connect", "away")
            answer = await service.client.post("/generate", json={"user": "u1", "prompt": PROMPT, "stream": True})
            assert answer.headers["x-attune-member"] == name


async def test_a_caller_who_leaves_before_the_first_piece_leaves_the_member_too(service: Service, wired: httpx.AsyncClient):
    voice = service.members["warm"]
    voice.gate.clear()
    asking = asyncio.ensure_future(wired.post(NATIVE[0], json=NATIVE[1] | {"stream": True}))
    await voice.began.wait()
    assert not asking.done()
    asking.cancel()
    await voice.left.wait()
    assert voice.open_streams == 0
    await service.serving.leases.idle()
    assert await service.metric("attune_http_requests_total", route="/generate", status="499") == 1


@pytest.mark.parametrize("asked", [NATIVE, CHAT], ids=["native", "chat"])
async def test_a_member_that_is_silent_for_long_is_not_waited_for_and_its_failure_ends_the_stream(
    service: Service, wired: httpx.AsyncClient, asked: tuple[str, dict[str, Any]]
):
    (path, body), voice, loop = asked, service.members["warm"], asyncio.get_running_loop()
    voice.gate.clear()
    voice.failure, voice.fails_after = FAILURES["a member that fails"], 1

    async def silence_ends() -> None:
        await voice.began.wait()
        real = loop.time
        loop.time = lambda: real() + PING_S  # type: ignore[method-assign]  # the loop's own clock goes forward

    async with asyncio.TaskGroup() as group:
        group.create_task(silence_ends())
        async with wired.stream("POST", path, json=body | {"stream": True}) as answer:
            told = []
            async for line in answer.aiter_lines():
                told.append(line)
                if line.startswith(":"):
                    voice.gate.set()
    assert (answer.status_code, answer.headers["x-attune-member"]) == (200, "warm")
    first = next(index for index, line in enumerate(told) if line.startswith(":"))
    assert any("error" in line and "no connection" in line for line in told[first:])
