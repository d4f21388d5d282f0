"""Feedback that is sent again after its decisions have gone: what was applied stays applied, in a real store whose time passes."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from attune.service.settings import Settings
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from tests.endpoints.conftest import PROMPT, Service, running
from tests.state.conftest import age

TTL_S = 3_600.0


class Late:
    """A service on a real store, and time that passes there."""

    def __init__(self, service: Service, pass_time: Callable[[float], Awaitable[None]]) -> None:
        self.service = service
        self.pass_time = pass_time

    async def learned(self) -> dict[str, Any]:
        """Returns the body of feedback on a pair that was applied."""
        made = await self.service.post("/generate", {"user": "u1", "prompt": PROMPT, "candidates": 2})
        first, second = (candidate["candidate_id"] for candidate in made["candidates"])
        body = {"user": "u1", "chosen": first, "rejected": second, "event_id": "e1"}
        assert (await self.service.post("/feedback", body))["result"] == "applied"
        return body


@pytest.fixture
async def late(settings_of: Callable[..., Settings], redis_server: EmbeddedRedis) -> AsyncIterator[Late]:
    tenant = "t" + secrets.token_hex(6)
    settings = settings_of(api_keys=SecretStr(f"a-long-enough-key:{tenant}"), decision_ttl_s=TTL_S)
    async with running(settings, RedisStore(redis_server.url)) as service:
        service.client.headers["authorization"] = "Bearer a-long-enough-key"
        yield Late(service, lambda seconds: age(redis_server.url, tenant, seconds))


@pytest.mark.parametrize("times", [1.5, 2.5], ids=["decision expired", "decision forgotten"])
async def test_a_repeat_is_a_duplicate_also_when_its_decisions_have_gone(late: Late, times: float):
    body = await late.learned()
    await late.service.settle()
    before = await late.service.get("/users/u1")
    await late.pass_time(times * TTL_S)
    again = await late.service.post("/feedback", body)
    assert (again["result"], again["agreement"], again["user"]) == ("duplicate", {}, {"id": "u1", "comparisons": 1})
    assert again["weights"] == before["families"]["vrf"]["weights"]
    assert await late.service.get("/users/u1") == before
    assert await late.service.metric("attune_feedback_total", result="duplicate") == 1


@pytest.mark.parametrize(("times", "status"), [(1.5, 410), (2.5, 404)])
async def test_what_was_never_applied_is_still_refused(late: Late, times: float, status: int):
    body = await late.learned()
    await late.pass_time(times * TTL_S)
    await late.service.post("/feedback", body | {"event_id": "e2"}, status=status)
    await late.service.post("/feedback", {name: value for name, value in body.items() if name != "event_id"}, status=status)
    assert (await late.service.get("/users/u1"))["user"]["comparisons"] == 1


async def test_another_body_under_a_used_event_is_a_conflict_also_then(late: Late):
    body = await late.learned()
    await late.pass_time(1.5 * TTL_S)
    turned = body | {"chosen": body["rejected"], "rejected": body["chosen"]}
    assert (await late.service.post("/feedback", turned, status=409))["code"] == "event-conflict"


async def test_a_repeat_of_what_was_taken_back_is_a_conflict_also_then(late: Late):
    body = await late.learned()
    await late.service.client.delete("/users/u1/comparisons/e1")
    await late.pass_time(1.5 * TTL_S)
    problem = await late.service.post("/feedback", body, status=409)
    assert "taken back" in problem["detail"]
