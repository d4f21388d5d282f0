"""A chat with an ordinary picture has room where a member passes pictures, and all such chats together are bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from attune.service.settings import Settings
from tests.batching.serving import until
from tests.endpoints.conftest import PROMPT, SHORT, Service, running
from tests.endpoints.voices import Voice, voices
from tests.stores import FreshStore

CHAT = "/v1/chat/completions"
MIB = 2**20


class Seeing(Voice):
    """A member whose server takes pictures."""

    passes = frozenset({"images"})


def with_picture(size: int) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size}}
    return {"model": "auto", "user": "u", "messages": [{"role": "user", "content": [{"type": "text", "text": PROMPT}, picture]}]}


async def test_a_chat_may_be_as_large_as_what_members_pass_also_after_a_reload(settings_of: Callable[..., Settings]):
    members = voices()
    response = {"model": "auto", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "A" * 3 * MIB}]}]}
    async with running(settings_of(), FreshStore(), members) as service:
        told = await service.post(CHAT, with_picture(3 * MIB), 413)
        assert "the limit is 2,097,152 (ATTUNE_MAX_BODY_BYTES)" in told["error"]["message"]
        members["warm"] = Seeing("warm", ("yes .",))
        await service.post("/admin/reload", {})
        answer = await service.post(CHAT, with_picture(3 * MIB))
        assert answer["choices"][0]["member"] == "warm"
        assert (await service.post("/v1/responses", response))["output"]
        told = await service.post(CHAT, with_picture(50 * MIB), 413)
        assert "the limit is 52,428,800 (ATTUNE_MAX_BODY_BYTES)" in told["error"]["message"]
        told = await service.post("/score", {"user": "u", "prompt": "A" * 3 * MIB, "responses": [SHORT]}, 413)
        assert "the limit is 2,097,152" in told["detail"]
        members["warm"] = Voice("warm", ("yes .",))
        await service.post("/admin/reload", {})
        await service.post(CHAT, with_picture(3 * MIB), 413)


async def test_a_limit_that_is_set_holds_whatever_members_pass(settings_of: Callable[..., Settings]):
    async with running(settings_of(max_body_bytes=MIB), FreshStore(), {**voices(), "warm": Seeing("warm", ("yes .",))}) as service:
        assert "the limit is 1,048,576" in (await service.post(CHAT, with_picture(2 * MIB), 413))["error"]["message"]


async def test_chats_with_pictures_are_refused_together_and_take_no_room_from_others(settings_of: Callable[..., Settings]):
    members = {**voices(), "warm": Seeing("warm", ("yes .",))}
    members["warm"].gate.clear()
    async with running(settings_of(large_bodies_bytes=100 * MIB), FreshStore(), members) as service:
        body = json.dumps(with_picture(40 * MIB)).encode()
        send = {"content": body, "headers": {"content-type": "application/json"}}
        held = [asyncio.ensure_future(service.client.post(CHAT, **send)) for _ in range(2)]
        await until(lambda: in_flight(service) == 2)
        refused = await service.client.post(CHAT, **send)
        assert refused.status_code == 429
        assert "104,857,600 bytes together (ATTUNE_LARGE_BODIES_BYTES)" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        await service.post("/score", {"user": "u", "prompt": PROMPT, "responses": [SHORT]})
        members["warm"].gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*held)] == [200, 200]
        assert (await service.client.post(CHAT, **send)).status_code == 200


def in_flight(service: Service) -> int:
    count: int = service.app.state.in_flight.count
    return count


@pytest.mark.parametrize("value", [1, 1023])
def test_a_limit_for_no_request_at_all_is_refused(value: int):
    with pytest.raises(ValueError, match="needs at least 1,024 bytes, or 0"):
        Settings(max_body_bytes=value)
