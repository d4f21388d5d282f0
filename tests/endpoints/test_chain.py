"""One Attune whose members are another Attune: the roster, the `openai` members and the compatible routes, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from attune.service.app import create_app
from attune.service.settings import Settings
from tests.clock import Clock
from tests.endpoints.conftest import PROMPT, Service
from tests.endpoints.test_streaming import listening
from tests.endpoints.voices import SAYINGS
from tests.stores import FreshStore
from tests.tiny_bundle import MEMBERS


@pytest.fixture
async def chained(service: Service, settings_of: Callable[..., Settings], tmp_path: Path):
    """An application that knows its members from a roster file, all of them on the application of `service`."""
    async with listening(service) as wired:
        url = f"{str(wired.base_url).rstrip('/')}/v1"
        roster = tmp_path / "roster.json"
        roster.write_text(json.dumps({name: {"kind": "openai", "base_url": url, "model": name} for name in MEMBERS}))
        app = create_app(settings_of(roster=str(roster), data_dir=tmp_path / "front"), store=FreshStore())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client, app.router.lifespan_context(app):
            yield Service(app, client, {}, Clock())


async def test_answers_come_through_two_services_and_are_learned_in_the_first(service: Service, chained: Service):
    assert (await chained.get("/readyz"))["members"] == dict.fromkeys(MEMBERS, "ok")
    made = await chained.post("/generate", {"user": "u1", "prompt": PROMPT, "candidates": 2, "max_tokens": 50})
    for candidate in made["candidates"]:
        assert candidate["text"] == "".join(SAYINGS[candidate["member"]])
        assert candidate["usage"]["completion_tokens"] > 0
    first, second = (candidate["candidate_id"] for candidate in made["candidates"])
    told = await chained.post("/feedback", {"user": "u1", "chosen": first, "rejected": second})
    assert told["user"]["comparisons"] == 1
    assert (await service.get("/users/u1"))["user"]["comparisons"] == 0


async def test_a_failure_behind_the_second_service_is_a_fallback_in_the_first(service: Service, chained: Service):
    service.members["warm"].failure = RuntimeError("a bug in the member")
    made = await chained.post("/generate", {"user": "u1", "prompt": PROMPT, "candidates": 3})
    assert {candidate["member"] for candidate in made["candidates"]} == {"concise", "detailed"}
    fallback = made["routing"]["fallback"]
    assert fallback["wanted"] == "warm"
    assert fallback["reason"]
    assert made["routing"]["propensity"] is None
