"""A deletion is not undone by what was under way: a generation, a stream, a comparison whose texts are being scored, a late repeat."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable

import pytest
import redis

from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, PROMPT, SHORT, Service, running
from tests.endpoints.voices import voices
from tests.stores import FreshStore

ASK = {"user": "ada", "prompt": PROMPT, "member": "concise"}


async def kept(service: Service, user: str) -> list[str]:
    """Returns the kinds of lines of a user's export."""
    return [json.loads(line)["type"] for line in (await service.client.get(f"/users/{user}/export")).text.splitlines()]


@pytest.mark.parametrize("known", [True, False])
async def test_a_generation_under_way_does_not_bring_a_deleted_user_back(settings_of: Callable[..., Settings], known: bool):
    members = voices()
    async with running(settings_of(), FreshStore(), members) as service:
        if known:
            liked = {"user": "ada", "prompt": PROMPT, "chosen_text": SHORT, "rejected_text": LONG, "event_id": "e1"}
            await service.post("/feedback", liked)
        members["concise"].gate.clear()
        asking = asyncio.create_task(service.post("/generate", ASK))
        await members["concise"].began.wait()
        assert (await service.client.delete("/users/ada")).status_code == 200
        members["concise"].gate.set()
        made = await asking
        assert made["candidates"][0]["text"]
        assert made["candidates"][0]["candidate_id"] is None
        assert await kept(service, "ada") == ["user"]
        again = await service.post("/generate", ASK)
        assert again["candidates"][0]["candidate_id"] is not None


async def test_a_stream_under_way_ends_without_ids_that_could_not_be_learned_from(settings_of: Callable[..., Settings]):
    members = voices()
    async with running(settings_of(), FreshStore(), members) as service:
        members["concise"].gate.clear()
        asking = asyncio.create_task(service.client.post("/generate", json=ASK | {"stream": True}))
        await members["concise"].began.wait()
        assert (await service.client.delete("/users/ada")).json()["deleted"]["decisions"] == 1
        members["concise"].gate.set()
        events = dict(re.findall(r"event: (\w+)\ndata: (.+)", (await asking).text))
        done = json.loads(events["done"])
        assert [done["decision_id"], *(each["candidate_id"] for each in done["candidates"])] == [None, None]
        assert await kept(service, "ada") == ["user"]


async def test_a_chat_that_is_streamed_while_its_user_is_deleted_ends_without_ids(settings_of: Callable[..., Settings]):
    members = voices()
    async with running(settings_of(), FreshStore(), members) as service:
        members["concise"].gate.clear()
        ask = {"user": "ada", "model": "concise", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
        asking = asyncio.create_task(service.client.post("/v1/chat/completions", json=ask))
        await members["concise"].began.wait()
        await service.client.delete("/users/ada")
        members["concise"].gate.set()
        *_, last = [json.loads(line) for line in re.findall(r"data: (\{.+)", (await asking).text)]
        assert (last["attune"]["decision_id"], last["choices"][0]["candidate_id"]) == (None, None)


async def test_an_id_that_could_not_be_written_is_not_given_out(settings_of: Callable[..., Settings]):
    store = FreshStore()
    async with running(settings_of(), store) as service:
        await service.post("/generate", ASK)
        with redis.Redis.from_url(store.url) as admin:
            admin.config_set("maxmemory", 1)  # it reads, and refuses to write
            try:
                answer = await service.client.post("/generate", json=ASK)
                told = await service.client.post(
                    "/feedback", json={"user": "ada", "prompt": PROMPT, "chosen_text": "a", "rejected_text": "b"}
                )
            finally:
                admin.config_set("maxmemory", 0)
        assert answer.status_code == 200
        assert "x-decision-id" not in answer.headers
        assert [each["candidate_id"] for each in answer.json()["candidates"]] == [None]
        assert (told.status_code, told.json()["code"]) == (503, "store-unavailable")
